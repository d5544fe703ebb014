"""A TCP proxy in front of PostgreSQL's Unix socket that can refuse, cut, stall and resume."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType


class Proxy:
    """Listens on 127.0.0.1 on a port of the kernel's choice. `address` is the server's Unix socket or (host, port)."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = None
        self._flowing = threading.Event()  # clear: bytes are held back
        self._flowing.set()
        self.connections = 0  # accepted so far
        self.in_delay = self.most_in_delay = 0  # clients held back by `delay`, now and at most
        self.delay = 0.0  # seconds from accepting a client to speaking with the server for it
        self._hurried = threading.Event()
        self.port = 0
        self.resume()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hurry()
        self._flowing.set()
        self.refuse()
        self.cut()

    def hurry(self) -> None:
        """End every delay, for good."""
        self._hurried.set()

    def refuse(self) -> None:
        """New connections are refused, those that exist go on."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def cut(self) -> None:
        """Cut every connection that exists."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def go_down(self) -> None:
        self.refuse()
        self.cut()

    def stall(self) -> None:
        """Accept, and let no byte pass: a silent network."""
        self._flowing.clear()

    def resume(self) -> None:
        """Serve again, on the same port."""
        self._flowing.set()
        if self._listener is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(128)
            self.port = listener.getsockname()[1]
            self._listener = listener
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.delay:
            with self._lock:
                self.in_delay += 1
                self.most_in_delay = max(self.most_in_delay, self.in_delay)
            self._hurried.wait(self.delay)
            with self._lock:
                self.in_delay -= 1
        unix = isinstance(self._address, str)
        server = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        pair = (client, server)
        try:
            server.connect(self._address)
            with self._lock:
                self._pairs.add(pair)
            self._pump(client, server)
        except OSError:
            pass
        finally:
            with self._lock:
                self._pairs.discard(pair)
            client.close()
            server.close()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        while True:
            for ready in select.select([client, server], [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    return
                self._flowing.wait()
                other[ready].sendall(data)
