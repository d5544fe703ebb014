"""docker/compose.fleet.yaml brings up the fleet, and its failover is the two commands that the file names."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from servers import client
from servers.base import free_port, wait_until
from servers.client import Session
from servers.docker import HOST, SUITE, docker
from servers.httpd import REPOSITORY

FILE = REPOSITORY / "docker" / "compose.fleet.yaml"
START = 180.0  # seconds; ten containers, one after the other


class Fleet:
    """`docker compose`, or the command of Debian's package, on the images that were built here."""

    def __init__(self) -> None:
        plugin = docker("compose", "version", check=False).returncode == 0
        command = ["docker", "compose"] if plugin else [shutil.which("docker-compose") or "docker-compose"]
        self._command = [*command, "--file", str(FILE), "--project-name", "mpool-test-fleet"]
        self._port = free_port()
        self._env = {**os.environ, "SUITE": SUITE, "SITE_PORT": str(self._port)}

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, path: str) -> client.Response | None:
        """None while nobody answers: Docker listens before the container does."""
        try:
            return client.request(HOST, self._port, "GET", path)
        except (OSError, http.client.HTTPException):
            return None

    def sign(self, message: str) -> int:
        with Session(HOST, self._port) as session:
            return session.post("/guestbook", {"author": "Ada", "message": message}).status

    def shows(self, path: str, *texts: str) -> bool:
        page = self.get(path)
        return page is not None and page.status == 200 and all(text in page.text for text in texts)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    for image in (f"mpool-demo:{SUITE}", f"mpool-database:{SUITE}"):
        if docker("image", "inspect", image, check=False).returncode:
            pytest.skip(f"{image} is not built: docker/build.sh, docker/fleet/build.sh")
    try:
        fleet("up", "--detach", "--no-build")
        yield fleet
    finally:
        fleet("down", "--volumes", "--timeout", "60")


def role(pool: str, expected: str) -> str:
    return f'<td id="{pool}-role">{expected}</td>'


def test_the_fleet_loses_its_primary_and_goes_on(fleet):
    both = role("default", "primary"), role("reader", "standby")
    wait_until(lambda: fleet.shows("/readers", *both), timeout=START, what="the fleet serves, from both servers")
    assert fleet.shows("/countries", "Switzerland")
    assert fleet.sign("before") == 303
    wait_until(
        lambda: "before" in fleet("exec", "-T", "standby", "psql", "-Atc", "TABLE demo.note", "site"),
        what="the standby has it",
    )

    started = started_at(fleet)
    fleet("kill", "primary")
    assert fleet.sign("lost") in (500, 503)
    fleet("exec", "-T", "standby", "promote")
    wait_until(lambda: fleet.sign("after") == 303, timeout=START, what="the site writes again")
    wait_until(lambda: fleet.shows("/readers", role("default", "primary"), role("reader", "primary")), what="and reads")
    assert started_at(fleet) == started, "no web server was restarted"
    notes = fleet("exec", "-T", "standby", "psql", "-Atc", "SELECT message FROM demo.note ORDER BY id", "site")
    assert notes.split() == ["before", "after"]


def started_at(fleet: Fleet) -> list[str]:
    ids = fleet("ps", "--quiet", "web1", "web2", "web3", "balancer").split()
    return [docker("inspect", "--format", "{{.State.StartedAt}}", each).stdout for each in ids]
