"""A small HTTP client: one request, many at the same moment, or several on one kept connection."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

TIMEOUT = 180.0


@dataclass(frozen=True)
class Response:
    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(self.headers.get_content_charset() or "utf-8")


class Session:
    """A client that keeps its connection, as a browser does; a closed one is opened again at the next request."""

    def __init__(self, host: str, port: int, timeout: float = TIMEOUT) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def connect(self) -> None:
        self._connection.connect()

    def close(self) -> None:
        self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        data = body.encode() if isinstance(body, str) else body
        self._connection.request(method, path, body=data, headers=dict(headers or {}))
        answer = self._connection.getresponse()
        content = answer.read()
        return Response(answer.status, answer.reason, answer.headers, content)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        return self.request("GET", path, headers=headers)

    def post(
        self, path: str, data: Mapping[str, Any] | str | bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        """POST *data*: a mapping goes as a urlencoded form, text and bytes go as they are."""
        sent = dict(headers or {})
        if isinstance(data, Mapping):
            data = urlencode(data, doseq=True)
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        return self.request("POST", path, body=data, headers=sent)


def request(
    host: str,
    port: int,
    method: str,
    path: str,
    body: str | bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> Response:
    """One request on a connection of its own."""
    with Session(host, port, timeout) as session:
        return session.request(method, path, body, {"Connection": "close", **(headers or {})})


def burst(host: str, port: int, paths: list[str], headers: Mapping[str, str] | None = None) -> list[Response]:
    """GET every path at the same moment: all connections stand before the first request is sent.

    The answers come in the order of *paths*; the first client error is raised when all have ended.
    """
    barrier = threading.Barrier(len(paths))
    answers: list[Response | BaseException | None] = [None] * len(paths)

    def client(number: int) -> None:
        try:
            with Session(host, port) as session:
                session.connect()
                barrier.wait(TIMEOUT)
                answers[number] = session.get(paths[number], {"Connection": "close", **(headers or {})})
        except BaseException as error:
            barrier.abort()
            answers[number] = error

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done: list[Response] = []
    for answer in answers:
        if not isinstance(answer, Response):
            raise answer or AssertionError("a client ended without an answer")
        done.append(answer)
    return done


class Load:
    """Clients that ask for pages again and again until `stop`; for what must hold while requests go on.

    with Load(httpd.host, httpd.port, ["/page"], clients=8) as load:
        ...edit...
    assert load.statuses() == {200}
    """

    def __init__(
        self, host: str, port: int, paths: list[str], clients: int = 8, headers: Mapping[str, str] | None = None
    ) -> None:
        self._address = (host, port)
        self._paths = paths
        self._headers = headers
        self._stopping = threading.Event()
        self.responses: list[Response] = []
        self.errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def _run(self, number: int) -> None:
        turn = number
        with Session(*self._address) as session:
            while not self._stopping.is_set():
                path = self._paths[turn % len(self._paths)]
                turn += 1
                try:
                    self.responses.append(session.get(path, self._headers))
                except (OSError, http.client.HTTPException) as error:
                    session.close()
                    self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def statuses(self) -> set[int]:
        return {response.status for response in self.responses}
