"""A request as mod_python documents it, for tests without a server."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from typing import Any


class Table(dict[str, str]):
    """As mp_table: names in any case, and several values under one of them by `add`."""

    def __init__(self, items: dict[str, str] | None = None) -> None:
        super().__init__({name.title(): value for name, value in (items or {}).items()})
        self.added: list[tuple[str, str]] = []

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.title(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.title())

    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(name.title(), value)

    def add(self, name: str, value: str) -> None:
        self.added.append((name, value))
        self[name] = value


class Connection:
    def __init__(self) -> None:
        self.aborted = False
        self.keepalive = 1


_QUIET = os.pipe()


class OnQuietSocket:
    """What the end of a transaction looks at, for a fake connection whose server is there: by its `status`."""

    status: int

    def get_transaction_status(self) -> int:
        return 0 if self.status == 1 else 2  # TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS

    def get_backend_pid(self) -> int:
        return 1

    def fileno(self) -> int:
        return _QUIET[0]


class Request:
    """What handlers read and call of a request. *gone* makes every write fail, as after a client's disconnect."""

    def __init__(
        self,
        *,
        method: str = "GET",
        args: str | None = None,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        options: dict[str, str] | None = None,
        debug: bool = False,
        main: Request | None = None,
        prev: Request | None = None,
    ) -> None:
        self.method, self.args, self.main, self.prev = method, args, main, prev
        self.uri = "/page"
        self.filename, self.path_info, self.extension = "/site/page", "", None
        self.phase = "PythonHandler"
        self.user: str | None = None
        self.ap_auth_type: str | None = None
        self.headers_in = Table(headers)
        if body and "Content-Length" not in self.headers_in:
            self.headers_in["Content-Length"] = str(len(body))
        self.headers_out, self.err_headers_out = Table(), Table()
        self.connection = Connection()
        self.status = 200
        self.sent_bodyct = self.bytes_sent = self._bytes_queued = 0
        self.written = b""
        self.gone = False
        self.events: list[str] = []  # what happened to the answer, in order; tests add the database's part
        self.logged: list[str] = []
        self.allowed: list[str] = []
        self.cleanups: list[tuple[Callable[[Any], None], Any]] = []
        self._body = body
        self._options = options or {}
        self._debug = debug
        self._content_type = "text/html"
        self._content_type_set = 0

    @property
    def content_type(self) -> str:
        return self._content_type

    @content_type.setter
    def content_type(self, value: str) -> None:
        self._content_type, self._content_type_set = value, 1

    def read(self, size: int = -1) -> bytes:
        part, self._body = (self._body, b"") if size < 0 else (self._body[:size], self._body[size:])
        return part

    def write(self, data: str | bytes, flush: int = 1) -> None:
        if self.gone:
            self.connection.aborted = True
            raise OSError("Write failed, client closed connection.")
        data = data.encode() if isinstance(data, str) else data
        self.events.append("write")
        self.written += data
        self._bytes_queued += len(data)
        if flush:
            self.sent_bodyct, self.bytes_sent = 1, self.bytes_sent + len(data)

    def get_addhandler_exts(self) -> str:
        return ""

    def get_options(self) -> dict[str, str]:
        return self._options

    def get_config(self) -> dict[str, str]:
        return {"PythonDebug": "1"} if self._debug else {}

    def allow_methods(self, methods: list[str], reset: int = 0) -> None:
        self.allowed = list(methods)

    def auth_type(self) -> str | None:
        return self.ap_auth_type

    def log_error(self, message: str, level: int = 0) -> None:
        self.logged.append(message)

    def register_cleanup(self, callback: Callable[[Any], None], data: Any = None) -> None:
        self.cleanups.append((callback, data))


class PageInfo:
    """What the importer leaves in a module as `__mp_info__`, as far as the publisher reads it."""

    def __init__(self, source: str) -> None:
        self.file = "/site/page.py"
        self.source = source.encode()
        self.kept: dict[str, Any] = {}


def make_page(source: str, name: str = "_mp_page") -> types.ModuleType:
    """A module executed from *source*, as the importer makes one."""
    module = types.ModuleType(name)
    module.__dict__["__file__"] = "/site/page.py"
    module.__dict__["__mp_info__"] = PageInfo(source)
    sys.modules[name] = module
    exec(compile(source, "/site/page.py", "exec", dont_inherit=True), module.__dict__)
    return module
