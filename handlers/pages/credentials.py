"""Basic credentials and passwords: parsed strictly, compared in constant time."""

from __future__ import annotations

import binascii
import hmac
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from handlers.errors import Undecidable


class Credentials(NamedTuple):
    user: str
    password: str


#: What generate_password_hash of Werkzeug makes: pbkdf2:sha256:260000$salt$hash and scrypt:32768:8:1$salt$hash.
_WERKZEUG = re.compile(r"(pbkdf2:[a-z0-9]+(:[0-9]+)?|scrypt:[0-9]+:[0-9]+:[0-9]+)\$[^$]+\$[0-9a-f]+")

#: Hashes of other makers. Taken for a plain password, the hash itself would open the door.
_FOREIGN_HASH = re.compile(r"\$(1|2[abxy]?|5|6|7|y|gy|apr1|argon2(i|d|id)|pbkdf2[^$]*|scrypt)\$|\{S?SHA[0-9]*\}")


def basic_credentials(req: Any) -> Credentials | None:
    """The user and password in the Authorization header; None where there is none that can be used."""
    try:
        text = req.headers_in.get("Authorization")
    except UnicodeDecodeError:
        return None
    if not text:
        return None
    scheme, _, token = text.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "basic" or len(token) % 4:
        return None
    try:
        decoded = binascii.a2b_base64(token, strict_mode=True).decode("utf-8")
    except ValueError:  # not base64 (binascii.Error is one), not ASCII, or not UTF-8
        return None
    user, colon, password = decoded.partition(":")
    if not colon or not user or any(ord(character) < 32 or ord(character) == 127 for character in decoded):
        return None
    return Credentials(user, password)


def password_matches(passwords: Mapping[Any, Any], given: Credentials) -> bool:
    """Does *passwords* (user to password, or to its hash) know these credentials?

    An unknown user costs the same comparison as a known one. Undecidable where a stored value is neither a text nor
    a hash that can be checked.
    """
    known = given.user in passwords
    stored = passwords[given.user] if known else next(iter(passwords.values()), "")
    return _equal(stored, given.password) and known


def _equal(stored: Any, password: str) -> bool:
    if isinstance(stored, bytes):
        return hmac.compare_digest(stored, password.encode("utf-8"))
    if not isinstance(stored, str):
        raise Undecidable(f"a password is a {type(stored).__name__}, not a text")
    if _WERKZEUG.fullmatch(stored):
        from werkzeug.security import check_password_hash

        return check_password_hash(stored, password)
    if _FOREIGN_HASH.match(stored):
        raise Undecidable("a password is stored as a hash of a kind that is not supported: use Werkzeug's")
    return hmac.compare_digest(stored.encode("utf-8"), password.encode("utf-8"))
