"""Fixtures: a private PostgreSQL (`postgres`) and private Apaches (`httpd`)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from servers.base import remove_tree
from servers.httpd import Httpd, stage_packages
from servers.postgres import PostgresServer

# The same examples in every run, however slow the machine; `make fuzz` looks for new ones, in longer runs.
hypothesis.settings.register_profile(
    "steady",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
FUZZ_STEPS = int(os.environ.get("FUZZ_STEPS", "0"))
hypothesis.settings.register_profile(
    "fuzz",
    hypothesis.settings.get_profile("steady"),
    derandomize=False,
    max_examples=max(100, FUZZ_STEPS // 4),
    stateful_step_count=max(50, FUZZ_STEPS // 10),
)
hypothesis.settings.load_profile("fuzz" if FUZZ_STEPS else "steady")

SERVERS = pytest.StashKey[list[Httpd]]()


@pytest.fixture(scope="session", autouse=True)
def _terminated_like_interrupted() -> Iterator[None]:
    """A SIGTERM to the run ends it as Ctrl-C does: the servers are stopped."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One private cluster for the whole run."""
    server = PostgresServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def _postgres_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stopped cluster to copy: much faster than initdb."""
    server = PostgresServer()
    try:
        server.stop()
        yield server.data
    finally:
        server.close()


@pytest.fixture
def postgres_factory(_postgres_template: Path) -> Iterator[Callable[..., PostgresServer]]:
    """Makes clusters of the test's own, to be stopped and broken: `postgres_factory(max_connections="5")`."""
    with contextlib.ExitStack() as made:

        def make(**settings: str) -> PostgresServer:
            server = PostgresServer(settings=settings, template=_postgres_template)
            made.callback(server.close)
            return server

        yield make


@pytest.fixture(scope="session")
def packages() -> Iterator[Path]:
    """A directory with mpool and handlers that every account can read, for PYTHONPATH."""
    stage = stage_packages()
    try:
        yield stage
    finally:
        remove_tree(stage)


@pytest.fixture
def httpd(request: pytest.FixtureRequest, packages: Path) -> Iterator[Callable[..., Httpd]]:
    """Makes Apaches: `httpd(conf="worker.conf", site={"page.py": source}, options={"mpool.max_size": 8})`.

    All are stopped when the test ends, however it ends; if it fails, their error logs are in its report. A child that
    has crashed fails it, too: a client may not notice, for another child answers the next request.
    """
    for_the_report = request.node.stash.setdefault(SERVERS, [])
    with contextlib.ExitStack() as made:

        def make(**settings: Any) -> Httpd:
            server = Httpd(packages=packages, **settings)
            made.callback(server.close)
            for_the_report.append(server)
            return server

        yield make
    assert not [crash for server in for_the_report for crash in server.crashes]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        for number, server in enumerate(item.stash.get(SERVERS, []), 1):
            report.sections.append((f"error log of httpd {number}", server.log()))
    return report
