"""Containers for the tests of the images: run, asked, stopped, removed; by the `docker` command that people use."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from servers import client
from servers.base import wait_until

SUITE = os.environ.get("SUITE", "bookworm")
IMAGE = f"mpool:{SUITE}"
HOST = "127.0.0.1"
PORT = "8080/tcp"  # the web image's


class DockerError(Exception):
    """A docker command failed; the text is what it said."""


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a docker command to its end, its output captured."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise DockerError(f"docker {' '.join(arguments)}: {done.stderr or done.stdout}")
    return done


def moment(text: str) -> float:
    """Seconds since the epoch, of Docker's times: nanoseconds are more than Python's parser takes."""
    seconds, _, rest = text.partition(".")
    fraction = rest.rstrip("Z").partition("+")[0] or "0"
    zone = "+" + rest.partition("+")[2] if "+" in rest else "+00:00"
    return datetime.fromisoformat(seconds.rstrip("Z") + zone).timestamp() + float(f"0.{fraction}")


class Container:
    """A container that runs in the background until remove()."""

    def __init__(self, image: str, *arguments: str, command: Sequence[str] = ()) -> None:
        """*arguments* are options of `docker run`."""
        self.id = docker("run", "--detach", *arguments, image, *command).stdout.strip()

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.id).stdout)[0]
        return found

    @property
    def running(self) -> bool:
        return bool(self.inspect()["State"]["Running"])

    @property
    def health(self) -> str:
        return str(self.inspect()["State"]["Health"]["Status"])

    def wait_until_healthy(self) -> float:
        """How many seconds after its start the first successful health check ended, by Docker's own times."""

        def over() -> bool:
            state = self.inspect()["State"]
            return state["Health"]["Status"] == "healthy" or not state["Running"]

        wait_until(over, what="the container is healthy")
        state = self.inspect()["State"]
        assert state["Running"], self.logs()
        first = next(entry for entry in state["Health"]["Log"] if entry["ExitCode"] == 0)
        return moment(first["End"]) - moment(state["StartedAt"])

    @property
    def address(self) -> str:
        """Its own, in the network that it was started in."""
        (network,) = self.inspect()["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    @property
    def port(self) -> int:
        """Where the published port of the web image is on this machine; another one after each start."""
        return int(self.inspect()["NetworkSettings"]["Ports"][PORT][0]["HostPort"])

    def get(self, path: str) -> client.Response:
        return client.request(HOST, self.port, "GET", path)

    def wait_until_it_answers(self, path: str = "/.mpool/ready") -> client.Response:
        def answer() -> client.Response | None:
            assert self.running, self.logs()
            try:
                return self.get(path)
            except (OSError, client.http.client.HTTPException):  # Docker listens before the container does
                return None

        found = wait_until(answer, what=f"{path} is answered")
        assert found is not None
        return found

    def execute(self, *command: str, user: str = "") -> str:
        return docker("exec", *(["--user", user] if user else []), self.id, *command).stdout

    def output(self) -> tuple[str, str]:
        """What it wrote to stdout and to stderr."""
        done = docker("logs", self.id)
        return done.stdout, done.stderr

    def logs(self) -> str:
        return "".join(self.output())

    def stop(self, seconds: int = 60) -> int:
        """`docker stop`; the exit status of the container. It is killed after *seconds*."""
        docker("stop", "--time", str(seconds), self.id)
        return int(self.inspect()["State"]["ExitCode"])

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.id, check=False)


class Database(Container):
    """PostgreSQL, with the role and database `site` of docker/initdb/."""

    NAME = "mpool-test-db"

    def query(self, sql: str) -> str:
        """Run *sql* as superuser: the first column, a row a line."""
        command = ("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--username=postgres")
        return self.execute(*command, "--dbname=site", "--command", sql).strip()

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.running, self.logs()
            # By TCP: while the cluster is being made it listens on its socket only.
            return docker("exec", self.id, "pg_isready", "--host=127.0.0.1", check=False).returncode == 0

        wait_until(ready, what="the database is ready")

    def backends(self, address: str) -> list[str]:
        """The states of the pools' connections from *address*."""
        of_pools = f"starts_with(application_name, 'mpool') AND client_addr = '{address}'"
        return self.query(f"SELECT state FROM pg_stat_activity WHERE {of_pools}").splitlines()
