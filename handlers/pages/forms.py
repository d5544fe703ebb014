"""Query strings and bodies: bytes from the client to named values.

mod_python's own parser is not used: on Python 3 it replaces a query's names by its values. Query strings and
urlencoded bodies are parsed by the standard library, multipart ones by Werkzeug's decoder, JSON by the standard
library; every limit is checked while reading, not afterwards.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from tempfile import SpooledTemporaryFile
from typing import IO, Any
from urllib.parse import parse_qsl

from handlers.errors import HttpError
from handlers.request import chunked

CHUNK = 65536

URLENCODED = "application/x-www-form-urlencoded"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may send. Each is a PythonOption, as in `PythonOption handlers.max_body 1000000`."""

    max_body: int = 32 * 1024 * 1024  # bytes of a body, uploads included
    max_fields: int = 1000  # values in the query string, and again in the body
    max_field_size: int = 1024 * 1024  # bytes of one value that is not an upload
    spool_size: int = 256 * 1024  # bytes of an upload that stay in memory; a larger one goes to disk

    @staticmethod
    def of(req: Any) -> Limits:
        """The limits that the configuration of *req* sets; ValueError where one is not a whole number."""
        return _limits(*map(req.get_options().get, _LIMIT_OPTIONS))


_LIMIT_OPTIONS = tuple("handlers." + limit.name for limit in fields(Limits))


@functools.lru_cache(maxsize=64)
def _limits(*texts: str | None) -> Limits:
    given: dict[str, int] = {}
    for name, text in zip(_LIMIT_OPTIONS, texts, strict=True):
        if text is not None:
            if not text.isascii() or not text.isdigit():
                raise ValueError(f"PythonOption {name} must be a whole number, not {text!r}")
            given[name.removeprefix("handlers.")] = int(text)
    return Limits(**given)


DEFAULT_LIMITS = Limits()


class Upload:
    """A file that came with a form. `file` is open for reading in binary mode, and is closed after the request.

    `filename` is what the client calls it: never use it as a path.
    """

    def __init__(self, name: str, filename: str, content_type: str, file: IO[bytes]) -> None:
        self.name = name
        self.filename = filename
        self.type = content_type
        self.file = file

    @property
    def value(self) -> bytes:
        """The whole content, read into memory."""
        self.file.seek(0)
        return self.file.read()

    def __repr__(self) -> str:
        return f"<Upload {self.name!r} {self.filename!r} {self.type}>"


class Form:
    """The values that came with a request, in order; the page finds it as `req.form`.

    The methods are those of mod_python's FieldStorage, so that pages that use it go on working. Values are str; those
    of files are `Upload`; those of a JSON object are what JSON says.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.list = pairs

    def getlist(self, name: str) -> list[Any]:
        return [value for key, value in self.list if key == name]

    def getfirst(self, name: str, default: Any = None) -> Any:
        for key, value in self.list:
            if key == name:
                return value
        return default

    def get(self, name: str, default: Any = None) -> Any:
        """The value of *name*; the list of them if there are several."""
        values = self.getlist(name)
        return default if not values else values[0] if len(values) == 1 else values

    def __getitem__(self, name: str) -> Any:
        values = self.getlist(name)
        if not values:
            raise KeyError(name)
        return values[0] if len(values) == 1 else values

    def __contains__(self, name: object) -> bool:
        return any(key == name for key, _ in self.list)

    has_key = __contains__

    def keys(self) -> list[str]:
        return list(dict.fromkeys(key for key, _ in self.list))

    def values(self) -> list[Any]:
        return [self[name] for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, self[name]) for name in self.keys()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def grouped(self) -> dict[str, list[Any]]:
        """Every name with all its values."""
        groups: dict[str, list[Any]] = {}
        for name, value in self.list:
            groups.setdefault(name, []).append(value)
        return groups

    def close(self) -> None:
        """Close the uploads; those on disk are gone then."""
        for _, value in self.list:
            if isinstance(value, Upload):
                value.file.close()


def read_form(req: Any) -> Form:
    """The values in the query string and, where the method carries one, in the body of *req*.

    HttpError 400 where either is malformed, 413 where the body or a value is over its limit.
    """
    try:
        query = req.args
    except UnicodeDecodeError:
        raise HttpError(400, "The query string is not UTF-8.") from None
    has_body = req.method not in ("GET", "HEAD")
    if not query and not has_body:
        return Form([])
    limits = Limits.of(req)
    pairs = parse_query(query, limits) if query else []
    if has_body:
        pairs += read_body(req, limits)
    return Form(pairs)


def parse_query(text: str | bytes, limits: Limits = DEFAULT_LIMITS, charset: str = "utf-8") -> list[tuple[str, Any]]:
    """The names and values of a query string or urlencoded body; HttpError 400 where it is not in *charset*."""
    try:
        if isinstance(text, bytes):
            text = text.decode("ascii" if text.isascii() else charset)
        if "%" not in text and "+" not in text and text.count("&") < limits.max_fields and text.isascii():
            # Nothing is escaped, as in most query strings: what is left to do for the library is to split.
            pairs = [(name, value) for name, _, value in (part.partition("=") for part in text.split("&") if part)]
            _check_sizes(pairs, limits)
            return list[tuple[str, Any]](pairs)
        pairs = parse_qsl(
            text, keep_blank_values=True, encoding=charset, errors="strict", max_num_fields=limits.max_fields
        )
    except UnicodeDecodeError:
        raise HttpError(400, f"A name or value is not valid {charset}.") from None
    except ValueError:
        raise HttpError(400, f"More than {limits.max_fields} fields.") from None
    _check_sizes(pairs, limits)
    return list[tuple[str, Any]](pairs)


def _check_sizes(pairs: Iterable[tuple[str, str]], limits: Limits) -> None:
    for name, value in pairs:
        # A character takes at most four bytes: only long values need to be measured.
        if len(value) * 4 > limits.max_field_size and len(value.encode("utf-8", "replace")) > limits.max_field_size:
            raise HttpError(413, f"Field {name[:80]!r} is longer than {limits.max_field_size} bytes.")


def read_body(req: Any, limits: Limits) -> list[tuple[str, Any]]:
    """The values in the body of *req*; none where its type is not one of forms, and the page reads it itself."""
    length = _body_length(req, limits)
    if length == 0:
        return []
    mime, parameters = content_type(req)
    if mime == URLENCODED:
        return _read_urlencoded(req, parameters, limits)
    if mime == "multipart/form-data":
        return _read_multipart(req, parameters, limits)
    if mime == "application/json" or mime.endswith("+json"):
        return _read_json(req, limits)
    return []


def _body_length(req: Any, limits: Limits) -> int:
    coding = header(req, chunked.TRANSFER)
    if coding is None:
        length: int | None = _content_length(req)
    elif coding.strip().lower() == "chunked":
        try:
            length = chunked.spool(req, limits.max_body, limits.spool_size, CHUNK)
        except OSError:
            raise HttpError(400, "The body could not be read to its end.") from None
    else:
        raise HttpError(411, "A body must come with its Content-Length, or in chunks.")
    if length is None or length > limits.max_body:
        raise HttpError(413, f"The body is longer than {limits.max_body} bytes.")
    return length


def _content_length(req: Any) -> int:
    text = header(req, chunked.LENGTH) or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise HttpError(400, "The Content-Length is not a number.")
    return int(text)


def header(req: Any, name: str) -> str | None:
    """A request header; HttpError 400 where it is not UTF-8 (mod_python decodes at each access)."""
    try:
        value: str | None = req.headers_in.get(name)
    except UnicodeDecodeError:
        raise HttpError(400, f"The {name} header is not UTF-8.") from None
    return value


def content_type(req: Any) -> tuple[str, dict[str, str]]:
    """The body's media type in lower case, and its parameters; without one it is taken for a plain form."""
    from werkzeug.http import parse_options_header

    text = header(req, "Content-Type")
    if not text:
        return URLENCODED, {}
    mime, parameters = parse_options_header(text)
    return mime.lower(), parameters


def text_charset(parameters: dict[str, str]) -> str:
    """The charset of a body; HttpError 415 where Python has no such text encoding."""
    name = parameters.get("charset") or "utf-8"
    try:
        info = codecs.lookup(name)
        b"a".decode(info.name)
    except (LookupError, ValueError, UnicodeError):
        raise HttpError(415, f"The charset {name[:40]!r} is not known.") from None
    return info.name


def chunks(req: Any, limit: int) -> Iterator[bytes]:
    """The body of *req* piece by piece; HttpError 413 past *limit*, 400 where the client stops early."""
    total = 0
    while True:
        try:
            chunk = req.read(CHUNK)
        except OSError:
            raise HttpError(400, "The body could not be read to its end.") from None
        if not chunk:
            break
        total += len(chunk)
        if total > limit:
            raise HttpError(413, f"The body is longer than {limit} bytes.")
        yield chunk
    if total < _content_length(req):  # that of a body in chunks is known to be complete
        raise HttpError(400, "The body is shorter than its Content-Length.")


def _read_urlencoded(req: Any, parameters: dict[str, str], limits: Limits) -> list[tuple[str, Any]]:
    charset = text_charset(parameters)
    return parse_query(b"".join(chunks(req, limits.max_body)), limits, charset)


def _read_json(req: Any, limits: Limits) -> list[tuple[str, Any]]:
    """The members of a JSON object; any other JSON value is the page's to take from `req.json`."""
    try:
        value = json.loads(b"".join(chunks(req, limits.max_body)), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise HttpError(400, "The body is not valid JSON.") from None
    req.json = value
    if not isinstance(value, dict):
        return []
    if len(value) > limits.max_fields:
        raise HttpError(400, f"More than {limits.max_fields} fields.")
    return list(value.items())


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_multipart(req: Any, parameters: dict[str, str], limits: Limits) -> list[tuple[str, Any]]:
    from werkzeug.exceptions import RequestEntityTooLarge
    from werkzeug.sansio import multipart

    boundary = parameters.get("boundary", "")
    if not boundary or not boundary.isascii() or len(boundary) > 200:
        raise HttpError(400, "The multipart body has no usable boundary.")
    decoder = multipart.MultipartDecoder(boundary.encode("ascii"), max_parts=limits.max_fields)
    parts = _Parts(limits, text_charset(parameters))
    try:
        for chunk in chunks(req, limits.max_body):
            decoder.receive_data(chunk)
            while not isinstance(event := decoder.next_event(), (multipart.NeedData, multipart.Epilogue)):
                parts.take(event)
            if len(decoder.buffer) > 4 * CHUNK:
                # Neither a header block nor a partial boundary is that long: nothing that we could wait for.
                raise HttpError(400, "The multipart body is malformed.")
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), multipart.Epilogue):
            parts.take(event)
        parts.complete = True
    except RequestEntityTooLarge:
        raise HttpError(400, f"More than {limits.max_fields} fields.") from None
    except (ValueError, KeyError, IndexError, UnicodeError, LookupError):
        raise HttpError(400, "The multipart body is malformed.") from None
    finally:
        if not parts.complete:
            Form(parts.pairs).close()
    return parts.pairs


class _Parts:
    """Takes a decoder's events and makes values of them: text in memory, files spooled to disk past a size."""

    def __init__(self, limits: Limits, charset: str) -> None:
        self.pairs: list[tuple[str, Any]] = []
        self.complete = False
        self._limits = limits
        self._charset = charset
        self._name = ""
        self._text: bytearray | None = None
        self._text_charset = charset
        self._file: IO[bytes] | None = None

    def take(self, event: Any) -> None:
        from werkzeug.sansio import multipart

        if isinstance(event, multipart.Field):
            self._begin_text(event)
        elif isinstance(event, multipart.File):
            self._begin_file(event)
        elif isinstance(event, multipart.Data):
            self._add(event.data)
            if not event.more_data:
                self._end()

    def _begin_text(self, event: Any) -> None:
        from werkzeug.http import parse_options_header

        self._name = self._checked(event.name)
        self._text = bytearray()
        _, parameters = parse_options_header(event.headers.get("content-type", ""))
        self._text_charset = text_charset(parameters) if "charset" in parameters else self._charset

    def _begin_file(self, event: Any) -> None:
        self._name = self._checked(event.name)
        self._file = SpooledTemporaryFile(max_size=self._limits.spool_size)  # noqa: SIM115  # closed by Form.close
        kind = event.headers.get("content-type", "application/octet-stream")
        self.pairs.append((self._name, Upload(self._name, event.filename, kind, self._file)))

    @staticmethod
    def _checked(name: str | None) -> str:
        if name is None:
            raise HttpError(400, "A part of the multipart body has no name.")
        return name

    def _add(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
        elif self._text is not None:
            self._text += data
            if len(self._text) > self._limits.max_field_size:
                raise HttpError(413, f"Field {self._name[:80]!r} is longer than {self._limits.max_field_size} bytes.")

    def _end(self) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file = None
        elif self._text is not None:
            self.pairs.append((self._name, self._text.decode(self._text_charset)))
            self._text = None
