"""The fleet's balancer: an Apache with docker/fleet/balancer.conf as it stands, in front of three others."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from servers import client
from servers.base import (
    DEADLINE,
    ServerError,
    free_port,
    make_public_dir,
    remove_tree,
    spawn,
    stop_process,
    wait_until,
)
from servers.client import Response
from servers.httpd import HTTPD, REPOSITORY

FLEET = REPOSITORY / "docker" / "fleet"


class Balancer:
    """Shares requests out to *members*; up when the constructor returns."""

    host = "127.0.0.1"

    def __init__(self, members: Sequence[Any]) -> None:
        self.root = make_public_dir("mpx-")
        self.log_file = self.root / "log"
        self._env = {f"WEB{number}": f"{web.host}:{web.port}" for number, web in enumerate(members, 1)}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        for _ in range(10):
            self.port = free_port()
            defines = (f"Define LISTEN {self.host}:{self.port}", f'Define RUN "{self.root}"')
            command = [HTTPD, *(part for define in defines for part in ("-C", define))]
            command += ["-f", str(FLEET / "balancer.conf"), "-DFOREGROUND"]
            process = spawn(command, log=self.log_file, env=self._env, cwd=self.root)
            self._process = process
            wait_until(lambda p=process: p.poll() is not None or self._answers(), what="the balancer answers")
            if process.poll() is None:
                return
            if "Address already in use" not in self.log():
                break
        raise ServerError(f"the balancer did not start:\n{self.log()}")

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/.test-ready").status == 200
        except OSError:
            return False

    def request(self, method: str, path: str) -> Response:
        return client.request(self.host, self.port, method, path)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def close(self) -> None:
        try:
            if self._process is not None:
                stop_process(self._process, signal.SIGTERM, patience=DEADLINE)
        finally:
            remove_tree(self.root)
