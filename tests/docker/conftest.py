"""Fixtures for the images' own tests, which `make test-docker` runs beside an engine: a network, a database, a site."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.base import make_public_dir, remove_tree
from servers.docker import IMAGE, SUITE, Container, Database, docker
from servers.httpd import REPOSITORY

FIGURES = pytest.StashKey[list[str]]()
CONTAINERS = pytest.StashKey[list[Container]]()

SITE = {
    "index.py": """
def index(req, conn):
    with conn.cursor() as cur:
        cur.execute("SELECT current_user")
        return "hello, %s" % cur.fetchone()
""",
    "slow.py": """
def index(req, conn):
    with conn.cursor() as cur:
        cur.execute("SELECT 'slow page', pg_sleep(3)")
        return "done"
""",
    "apart.py": """
import os, sys
from mod_python import apache

def index(req):
    apache.log_error("apart says hello", apache.APLOG_NOTICE)
    return {"uid": os.getuid(), "path": os.environ["PATH"], "encoding": sys.getfilesystemencoding()}

def variables(req):
    return "".join(f"{name}={value}\\n" for name, value in os.environ.items())
""",
    "static/style.css": "body { color: black }\n",
    "_setup/secret.txt": "not for visitors\n",
}


@pytest.fixture(scope="session")
def network() -> Iterator[str]:
    name = "mpool-test"
    docker("network", "create", name)
    yield name
    docker("network", "rm", name)


@pytest.fixture(scope="session")
def passwords() -> Iterator[Path]:
    """A directory with the files `postgres` and `site`, as the compose file makes one."""
    directory = make_public_dir("mpw-")
    for name in ("postgres", "site"):
        # Everything that some format on the way could take for something else.
        (directory / name).write_text(f"{secrets.token_hex(8)} \\:'\"%20${{HOME}}#=é\n", encoding="utf-8")
    yield directory
    remove_tree(directory)


@pytest.fixture(scope="session")
def password(passwords: Path) -> str:
    return (passwords / "site").read_text(encoding="utf-8").rstrip("\n")


@pytest.fixture(scope="session")
def database(network: str, passwords: Path) -> Iterator[Database]:
    server = Database(
        f"mpool-postgres:{SUITE}",
        *("--network", network, "--network-alias", Database.NAME),
        *("--env", "POSTGRES_PASSWORD_FILE=/run/password/postgres"),
        *("--volume", f"{passwords}:/run/password:ro"),
        *("--volume", f"{REPOSITORY}/docker/initdb:/docker-entrypoint-initdb.d:ro"),
    )
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def site() -> Iterator[Path]:
    directory = make_public_dir("mps-")
    for name, text in SITE.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    yield directory
    remove_tree(directory)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., Container]]:
    """`run(*options, image=...)`: a container that is removed when the test ends; its log is in a failure's report."""
    made = request.node.stash.setdefault(CONTAINERS, [])

    def make(*options: str, image: str = IMAGE, command: tuple[str, ...] = ()) -> Container:
        container = Container(image, *options, command=command)
        made.append(container)
        return container

    try:
        yield make
    finally:
        for container in made:
            container.remove()


@pytest.fixture
def serve(run: Callable[..., Container], network: str, site: Path) -> Callable[..., Container]:
    """`serve(*options)`: the web image with the test's site, at a port of this machine that the kernel chose."""

    def make(*options: str) -> Container:
        published = ("--network", network, "--publish", "127.0.0.1:0:8080")
        return run(*published, "--volume", f"{site}:/srv/site:ro", *options)

    return make


@pytest.fixture
def serve_rows(serve: Callable[..., Container], database: Database, passwords: Path) -> Callable[..., Container]:
    """`serve` with the database, whose password is in a file."""

    def make(*options: str) -> Container:
        variables = {"PGHOST": Database.NAME, "PGDATABASE": "site", "PGUSER": "site"}
        given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        secret = ("--volume", f"{passwords}/site:/run/secrets/site:ro", "--env", "PGPASSWORD_FILE=/run/secrets/site")
        return serve(*given, *secret, *options)

    return make


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`report("text")`: a figure for the end of the run's output."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(FIGURES, []):
        terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    if outcome.failed:
        for number, container in enumerate(item.stash.get(CONTAINERS, []), 1):
            outcome.sections.append((f"log of container {number}", container.logs()))
    return outcome
