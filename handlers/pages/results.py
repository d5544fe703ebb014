"""What a page function returned: to the bytes of an answer.

Rendering comes before the transaction's end, and sending after it, so that what cannot be rendered is rolled back.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from mpool import is_connection, is_pool

_END_OF_HTML = re.compile(r"</html\s*>\s*", re.IGNORECASE)
_START_OF_HTML = re.compile(r"\s*(<!doctype\s+html|<html)", re.IGNORECASE)
_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)
_TEXTUAL = re.compile(r"text/|application/(javascript|xml|xhtml\+xml)|.*\+xml", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")  # the last: what mod_python cannot send

_HTML, _PLAIN = "text/html; charset=utf-8", "text/plain; charset=utf-8"

_END = object()

#: Statuses that have no body.
BODILESS = frozenset((204, 304))


@dataclasses.dataclass
class Response:
    """A result with a status and headers of its own; *body* is anything that a page function may return.

    *headers* is a mapping, or a list of pairs where a name occurs more than once (`Set-Cookie`).
    """

    status: int = 200
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None
    body: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.status, int) or not 100 <= self.status <= 599:
            raise ValueError(f"status must be a number from 100 to 599, not {self.status!r}")

    def pairs(self) -> list[tuple[str, str]]:
        """The headers as pairs; ValueError where one cannot be sent."""
        headers = self.headers or ()
        pairs = [(str(k), str(v)) for k, v in (headers.items() if isinstance(headers, Mapping) else headers)]
        for name, value in pairs:
            check_header(name, value)
        return pairs


def check_header(name: str, value: str) -> None:
    """ValueError where *name* and *value* would be more, or something else, than one header of ISO-8859-1 text.

    Found out here, before the commit: afterwards it would be a 500 for what has been stored.
    """
    if _UNSAFE.search(value) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ValueError(f"not a header: {name!r}: {value!r}")


@dataclasses.dataclass(slots=True)
class Rendered:
    """A result ready to send: all its bytes, or a stream of them, and the type to declare where the page set none."""

    body: bytes = b""
    stream: Iterator[bytes] | None = None
    content_type: str = ""
    source: Any = None  # the generator behind *stream*, to be closed when nobody wants the rest


def render(result: Any, declared: str | None) -> Rendered:
    """Render *result*; *declared* is the content type that the page has set, or None.

    A text is HTML where it ends with `</html>`, else plain; its charset is always declared. Bytes are sent as they
    are. dict and list become JSON. Other iterables are joined where they have a length, and streamed otherwise.
    TypeError or ValueError where the result cannot be rendered.
    """
    if isinstance(result, str):
        return _text(result, declared, _ends_html(result))
    if result is None:
        return Rendered()
    if isinstance(result, (bytes, bytearray, memoryview)):
        return _bytes(bytes(result), declared)
    if isinstance(result, (dict, list)):
        return _json(result, declared)
    if hasattr(result, "__await__") or hasattr(result, "__aiter__"):
        if hasattr(result, "close"):
            result.close()
        raise TypeError(f"the page returned a {type(result).__name__}: there is no event loop to run it")
    if isinstance(result, Iterable):
        if isinstance(result, Sized):
            return _joined(list(result), declared)
        return _stream(iter(result), declared)
    is_number = isinstance(result, (int, float, complex))
    if callable(result) or is_connection(result) or is_pool(result) or not (is_number or _has_text(result)):
        # Its repr would tell of the inside; nobody means to publish it.
        raise TypeError(f"the page returned a {type(result).__name__}, which has no form as text")
    return _text(str(result), declared, is_html=False)


def _has_text(value: Any) -> bool:
    """Does its class say what it is as a text, or would that be its repr?"""
    return any("__str__" in cls.__dict__ for cls in type(value).__mro__ if cls is not object)


def _ends_html(text: str) -> bool:
    if text.endswith(("</html>", "</html>\n")):
        return True
    last = text.rfind("<", -100)
    return last >= 0 and _END_OF_HTML.fullmatch(text, last) is not None


def _text(text: str, declared: str | None, is_html: bool) -> Rendered:
    if declared is None and text.isascii():
        return Rendered(text.encode(), None, _HTML if is_html else _PLAIN)
    content_type, charset = _with_charset(declared, "text/html" if is_html else "text/plain")
    return Rendered(_encode(text, charset, content_type), content_type=content_type)


def _encode(text: str, charset: str, content_type: str) -> bytes:
    # Lone surrogates, and what a page's own charset lacks: one wrong character is no reason for a 500.
    return text.encode(charset, "xmlcharrefreplace" if "html" in content_type and charset != "utf-8" else "replace")


def _with_charset(declared: str | None, default: str) -> tuple[str, str]:
    """The content type with a charset, and the charset as Python knows it."""
    if declared is None:
        return f"{default}; charset=utf-8", "utf-8"
    found = _CHARSET.search(declared)
    if found is None:
        if not _TEXTUAL.match(declared):
            return declared, "utf-8"  # JSON and the like have no such parameter
        return f"{declared}; charset=utf-8", "utf-8"
    try:
        "".encode(found[1])
    except LookupError:
        raise ValueError(f"the page declares the charset {found[1]!r}, which is not known") from None
    return declared, found[1].lower()


def _bytes(body: bytes, declared: str | None) -> Rendered:
    if declared is None:
        declared = "text/html" if _ends_html(body[-100:].decode("latin-1")) else "application/octet-stream"
    return Rendered(body, content_type=declared)


def _json(value: Any, declared: str | None) -> Rendered:
    text = json.dumps(value, default=_to_json, ensure_ascii=False, allow_nan=False)
    return Rendered(text.encode("utf-8", "replace"), content_type=declared or "application/json")


def _to_json(value: Any) -> Any:
    """The JSON form of what rows hold: numbers of the database as text, so that no digit is lost."""
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _joined(parts: list[Any], declared: str | None) -> Rendered:
    if parts and all(isinstance(part, bytes) for part in parts):
        return _bytes(b"".join(parts), declared)
    text = "".join(part if isinstance(part, str) else str(part) for part in parts)
    return _text(text, declared, _ends_html(text))


def _stream(parts: Iterator[Any], declared: str | None) -> Rendered:
    """Pull the first part now: an error in it can still become an error page, and it tells text from bytes."""
    first = next(parts, _END)
    if isinstance(first, bytes):
        content_type, charset = declared or _bytes(first, None).content_type, "utf-8"
    else:
        is_html = isinstance(first, str) and _START_OF_HTML.match(first) is not None
        content_type, charset = _with_charset(declared, "text/html" if is_html else "text/plain")

    def encoded() -> Iterator[bytes]:
        part = first
        while part is not _END:
            if part is not None:
                yield part if isinstance(part, bytes) else _encode(str(part), charset, content_type)
            part = next(parts, _END)

    return Rendered(stream=encoded(), content_type=content_type, source=parts)


_PHRASES = {
    400: "Bad Request",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
}


def error_page(status: int, message: str) -> bytes:
    """A page for the client with *message*, which came from the request and is escaped."""
    phrase = _PHRASES.get(status, "Error")
    return (
        f"<!DOCTYPE html>\n<html><head><title>{status} {phrase}</title></head>\n"
        f"<body><h1>{phrase}</h1>\n<p>{html.escape(message)}</p>\n</body></html>\n"
    ).encode("utf-8", "replace")


def not_modified(req: Any, *, etag: str | None = None, modified: datetime | float | None = None) -> Response | None:
    """Declare a validator, and tell whether the client has this version already.

    A page calls it before it does the work, and returns what it gets unless that is None: a 304, or a 412 where the
    client asked for a version that is gone. *etag* is any text that changes with the content; *modified* is a time
    with a time zone, or seconds since the epoch. Apache compares.
    """
    if etag is not None:
        quoted = etag if re.fullmatch(r'(W/)?"[^"]*"', etag) else '"' + etag.replace('"', "") + '"'
        check_header("ETag", quoted)
        req.headers_out["ETag"] = quoted
    if modified is not None:
        if isinstance(modified, datetime):
            if modified.tzinfo is None:
                raise ValueError("a time without a time zone says nothing to a client elsewhere")
            modified = modified.timestamp()
        req.update_mtime(modified)
        req.set_last_modified()
    status = req.meets_conditions()
    return Response(status) if status else None
