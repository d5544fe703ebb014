"""docker/compose.yaml brings up the example site, as README.rst says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from servers import client
from servers.base import free_port, wait_until
from servers.docker import HOST, SUITE, docker
from servers.httpd import REPOSITORY

FILE = REPOSITORY / "docker" / "compose.yaml"


class Compose:
    """`docker compose`, or the command of Debian's package, on the images that were built here."""

    def __init__(self) -> None:
        plugin = docker("compose", "version", check=False).returncode == 0
        command = ["docker", "compose"] if plugin else [shutil.which("docker-compose") or "docker-compose"]
        self.command = [*command, "--file", str(FILE), "--project-name", "mpool-test-compose"]
        self.port = free_port()
        self.env = {
            **os.environ,
            "SUITE": SUITE,
            "POSTGRES_IMAGE": f"mpool-postgres:{SUITE}",
            "SITE_PORT": str(self.port),
        }

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run([*self.command, *arguments], env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ids(self) -> list[str]:
        return self("ps", "--quiet").split()


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    command = Compose()
    try:
        command("up", "--detach", "--no-build")
        yield command
    finally:
        command("down", "--volumes", "--timeout", "60")


def get(compose: Compose, path: str) -> client.Response | None:
    try:
        return client.request(HOST, compose.port, "GET", path)
    except (OSError, client.http.client.HTTPException):  # Docker listens before the container does
        return None


def test_up_shows_the_example_site_with_its_rows(compose):
    page = wait_until(lambda: get(compose, "/countries"), what="the example site answers")
    assert page is not None and page.status == 200
    assert "Switzerland" in page.text


def test_all_of_it_is_healthy(compose):
    def unhealthy() -> list[str]:
        states = [json.loads(docker("inspect", found).stdout)[0]["State"] for found in compose.ids()]
        checked = [state["Health"]["Status"] for state in states if state["Running"]]
        return [status for status in checked if status != "healthy"]

    wait_until(lambda: not unhealthy(), what="web and database are healthy")


def test_no_password_is_to_be_seen(compose):
    ids = compose.ids()
    (web,) = [found for found in ids if docker("port", found).stdout]
    secret = docker("exec", web, "cat", "/run/password/site").stdout.strip()
    assert re.fullmatch(r"[\w+/]{32}", secret)
    for shown in (*(docker("inspect", found).stdout for found in ids), compose("config"), compose("logs")):
        assert secret not in shown


def test_it_comes_back_with_what_was_written(compose):
    compose("exec", "-T", "db", "psql", "-qU", "postgres", "-d", "site", "-c", "CREATE TABLE public.kept ()")
    compose("stop", "--timeout", "60")
    compose("up", "--detach", "--no-build")
    wait_until(lambda: (page := get(compose, "/countries")) and page.status == 200, what="the site answers again")
    compose("exec", "-T", "db", "psql", "-qU", "postgres", "-d", "site", "-c", "TABLE public.kept")
