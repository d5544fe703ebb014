"""What clients send and get, byte by byte: any text, any bytes, bodies in chunks, answers that are broken off."""

# ruff: noqa: E501  # tables, one row a line

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.base import wait_until
from servers.httpd import Httpd

MPMS = ["worker", "event", "prefork"]

PAGE = """
import decimal, enum
from typing import Optional
import mpool
from handlers.base import Handler
from mod_python import apache

password = "geheim"

class Colour(enum.Enum):
    RED = "r"

class Shop(Handler):
    def get(self, req, item: int): return {"item": item}
    def put(self, req, item: int): return {"item": item}

def index(req): return "index"
def echo(req, **fields): return fields
def database(req, conn, **fields):
    conn.cursor().execute("select 1")
    return fields
def leased(req):
    stats = mpool.get_pool().get_stats()
    return stats["pool_size"] - stats["pool_available"]
def typed(req, a: int, b: float = 0.5, c: bool = False, d: Optional[decimal.Decimal] = None, e: Colour = None, f: list[int] = ()):
    return [a, b, c, str(d), str(e), list(f)]
def required(req, x): return x
def upload(req, doc): return [doc.filename, doc.type, len(doc.value)]
def body(req): return [len(req.read(2)), len(req.read()), req.headers_in.get("Transfer-Encoding")]
def lines(req): return [line.decode() for line in req.readlines()]
def unread(req): return "unread"

def stream(req, how="", length=""):
    if length:
        req.set_content_length(int(length))
    yield "begun\\n"
    yield "more\\n"
    if how == "error":
        raise RuntimeError(password)
    if how == "status":
        raise apache.SERVER_RETURN(apache.HTTP_NOT_FOUND)
    if how == "exit":
        raise SystemExit(1)
    if how == "done":
        raise apache.SERVER_RETURN(apache.DONE)
"""
LOCKED = "__auth__ = {'spam': 'eggs'}\ndef page(req): return 'geheim'\n"


@pytest.fixture(scope="module")
def servers(packages, postgres) -> Iterator[dict[str, Httpd]]:
    """One server for each MPM, for the whole module: nothing here changes the site."""
    with contextlib.ExitStack() as stack:
        made = {}
        for mpm in MPMS:
            server = Httpd(
                packages=packages,
                conf=f"{mpm}.conf",
                site={"page.py": PAGE, "locked.py": LOCKED},
                options={"mpool.conninfo": postgres.conninfo, "handlers.max_body": 200_000},
                extra="KeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60",
            )
            made[mpm] = stack.enter_context(contextlib.closing(server))
        yield made


class RawClient:
    """Sends bytes as they are on a kept connection; reads whole answers."""

    def __init__(self, server: Httpd) -> None:
        self.address = (server.host, server.port)
        self.connection: socket.socket | None = None

    def close(self) -> None:
        if self.connection:
            self.connection.close()
            self.connection = None

    def ask(self, data: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer; (0, b"") where the server just closes the connection."""
        if self.connection is None:
            self.connection = socket.create_connection(self.address, timeout=60)
        try:
            self.connection.sendall(data)
            return self._answer()
        except (ConnectionError, ValueError):
            self.close()
            return 0, b""

    def _receive(self) -> bytes:
        assert self.connection is not None
        part = self.connection.recv(65536)
        if not part:
            raise ConnectionError("closed")
        return part

    def _answer(self) -> tuple[int, bytes]:
        buffer = b""
        while b"\r\n\r\n" not in buffer:
            buffer += self._receive()
        head, _, body = buffer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), None)
        if length is None or b"connection: close" in lines:
            with contextlib.suppress(ConnectionError):
                while True:
                    body += self._receive()
            self.close()
        else:
            while len(body) < length:
                body += self._receive()
        return int(lines[0].split()[1]), body


def to_the_end(server: Httpd, data: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    with socket.create_connection((server.host, server.port), timeout=60) as client:
        client.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                received += part
        return received


# -- any bytes ---------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PAIRS = st.lists(st.tuples(TEXTS.filter(lambda name: name not in ("req", "conn")), TEXTS), min_size=1, max_size=4)

#: The examples that are sent under event and prefork too: making them costs more than sending them.
EVERY = 5


def grouped(pairs):
    groups = {}
    for name, value in pairs:
        groups.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in groups.items()}


def ask(session, method, path, body=None):
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
    try:
        return session.request(method, path, body, headers)
    except (http.client.RemoteDisconnected, ConnectionError):
        session.close()  # the server has closed a connection on which nothing came for long
        return session.request(method, path, body, headers)


def test_any_names_and_values_arrive_as_they_were_sent(servers):
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:
        sessions = {mpm: stack.enter_context(server.session()) for mpm, server in servers.items()}

        @settings(max_examples=5000)
        @given(PAIRS)
        def arrives(pairs):
            encoded = urlencode(pairs)
            for mpm in MPMS if next(numbers) % EVERY == 0 else MPMS[:1]:
                session = sessions[mpm]
                query, form = f"/page/echo?{encoded}", ("/page/echo", encoded)
                for answer in (ask(session, "GET", query), ask(session, "POST", *form)):
                    assert answer.status == 200
                    assert json.loads(answer.body) == grouped(pairs)

        arrives()


TARGETS = [b"/page/database", b"/page/typed", b"/page/required", b"/page/upload", b"/page/Shop", b"/locked/page"]
TYPES = [
    b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=b",
    b"application/json",
    b"text/plain",
    b"",
]
# Neither ends the line, nor the word: what is left goes to Apache as it is.
WIRE = st.binary(max_size=20).map(lambda data: bytes(b for b in data if b not in b"\r\n \0"))


def test_random_bytes_never_find_the_inside_or_keep_a_lease(servers):
    numbers = itertools.count()
    clients = {mpm: RawClient(server) for mpm, server in servers.items()}

    @settings(max_examples=20_000)
    @given(st.sampled_from(TARGETS), WIRE, WIRE, st.sampled_from(TYPES), WIRE, WIRE, st.binary(max_size=60))
    def answers(target, path, query, content_type, header, authorization, body):
        method = b"POST" if body else b"GET"
        request = method + b" " + target + path + b"?" + query + b" HTTP/1.1\r\nHost: localhost\r\n"
        request += b"Content-Type: " + content_type + header + b"\r\nX-Header: " + header + b"\r\n"
        request += b"Authorization: Basic " + authorization
        if next(numbers) % 4:
            request += b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        else:
            request += b"\r\nTransfer-Encoding: chunked\r\n\r\n" + in_chunks([body] if body else [])
        for mpm in MPMS if next(numbers) % EVERY == 0 else MPMS[:1]:
            status, text = clients[mpm].ask(request)
            assert status in (0, 200, 400, 401, 403, 404, 405, 413, 414, 415, 431), (mpm, status, text[:200])
            assert b"Traceback" not in text and b"geheim" not in text

    try:
        answers()
    finally:
        for client in clients.values():
            client.close()
    for server in servers.values():
        wait_until(lambda server=server: server.get("/page/leased").text == "0", what="every lease is back")


# -- bodies in chunks --------------------------------------------------------------------------------------------------


def in_chunks(parts: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def post(path: str, content_type: str, chunked: bytes, more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n{more}"
    return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunked


NEXT = b"GET /page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
FORM = "application/x-www-form-urlencoded"
FILE = b'--b\r\nContent-Disposition: form-data; name="doc"; filename="n"\r\nContent-Type: image/png\r\n\r\n'


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize(
    ("path", "content_type", "parts", "body"),
    [
        ("echo", FORM, [b"a=1&b", b"=2"], '{"a": "1", "b": "2"}'),
        ("echo", FORM, [], "{}"),
        ("echo?c=3", "application/json", [b'{"a"', b": 1}"], '{"c": "3", "a": 1}'),
        ("upload", "multipart/form-data; boundary=b", [FILE, b"x" * 150_000, b"x\r\n--b--\r\n"], '["n", "image/png", 150001]'),
        ("body", "text/xml", [b"<a", b"/>"], '[2, 2, "chunked"]'),
        ("body", "text/xml", [b"x" * 65536] * 3, '[2, 196606, "chunked"]'),
        ("lines", "text/plain", [b"one\ntw", b"o\n"], '["one\\n", "two\\n"]'),
        ("unread", "text/plain", [b"one", b"two"], "unread"),
    ],
)  # fmt: skip
def test_a_body_in_chunks_arrives_and_what_follows_it_is_the_next_request(
    servers, mpm, path, content_type, parts, body
):
    received = to_the_end(servers[mpm], post(f"/page/{path}", content_type, in_chunks(parts)) + NEXT)
    _, first, second = received.split(b"HTTP/1.1 200 OK\r\n")
    assert first.partition(b"\r\n\r\n")[2].decode() == body
    assert second.partition(b"\r\n\r\n")[2] == b"index"


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize(
    ("chunked", "status"),
    [
        (in_chunks([b"x" * 100_000] * 3), b"413"),
        (b"3\r\na=1\r\nzz\r\n", b"400"),
        (b"3\r\na=1\r\n-1\r\n", b"400"),
        (b"3\r\na=1XX0\r\n\r\n", b"400"),
        (b"ffffffffffffffffff\r\na=1\r\n", b"413"),
    ],
)
def test_a_body_in_chunks_that_is_too_long_or_malformed_is_refused_once(servers, mpm, chunked, status):
    received = to_the_end(servers[mpm], post("/page/echo", FORM, chunked, "Connection: close\r\n"))
    assert received.startswith(b"HTTP/1.1 " + status)
    assert received.count(b"HTTP/1.1") == received.count(b"<html>") == 1


@pytest.mark.parametrize("mpm", MPMS)
def test_a_length_beside_chunks_does_not_count(servers, mpm):
    request = post("/page/echo", FORM, in_chunks([b"a=1"]), "Content-Length: 30\r\n")
    assert b'{"a": "1"}' in to_the_end(servers[mpm], request + NEXT)


# -- streams that fail -------------------------------------------------------------------------------------------------


def get(path: str, version: str = "1.1") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode()


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("how", ["error", "status", "exit"])
def test_a_stream_that_fails_half_way_is_broken_off(servers, mpm, how):
    received = to_the_end(servers[mpm], get(f"/page/stream?how={how}"))
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n\r\n6\r\nbegun\n\r\n5\r\nmore\n\r\n"), "the last chunk, of no length, is not sent"
    received = to_the_end(servers[mpm], get(f"/page/stream?how={how}&length=100"))
    assert b"Content-Length: 100\r\n" in received and received.endswith(b"\r\n\r\nbegun\nmore\n")


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("how", ["", "done"])
def test_a_stream_that_ends_well_is_complete(servers, mpm, how):
    received = to_the_end(servers[mpm], get(f"/page/stream?how={how}") + NEXT)
    assert b"\r\n\r\n6\r\nbegun\n\r\n5\r\nmore\n\r\n0\r\n\r\nHTTP/1.1 200" in received


@pytest.mark.parametrize("mpm", MPMS)
def test_broken_off_streams_leave_the_server_in_order(servers, mpm):
    for _ in range(20):
        to_the_end(servers[mpm], get("/page/stream?how=error"))
    assert servers[mpm].get("/page").text == "index"
