"""The first burst, edits under load and the ends of children: under each MPM, and with several interpreters."""

from __future__ import annotations

import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers.base import wait_until

PAGE = """
import os, sys
import mpool

VERSION = 0

def index(req, conn):
    with conn.cursor() as cur:
        cur.execute("SELECT pg_backend_pid()")
        backend = cur.fetchone()[0]
    return f"{VERSION} {os.getpid()} {req.interpreter} {id(mpool.get_pool(req=req))} {backend}"
"""

SITES = ["site_a", "site_b", "site_c"]
HOSTS = "".join(
    f"<VirtualHost *>\nServerName {name}.test\nPythonInterpreter {name}\n</VirtualHost>\n" for name in SITES
)

# For each: the processes that the test wants, the virtual hosts, and the most connections that one pool may have.
CASES = {
    "worker.conf": (["worker.conf"], 2, [], 10),
    "event.conf": (["event.conf"], 2, [], 10),
    "prefork.conf": (["prefork.conf"], 4, [], 1),
    "vhosts.conf": (["worker.conf", "vhosts.conf"], 1, SITES, 10),
}


@pytest.mark.parametrize("case", CASES)
def test_first_burst_edits_under_load_and_the_ends_of_children(httpd, postgres, case) -> None:
    conf, processes, sites, max_size = CASES[case]
    server = httpd(
        conf=conf,
        site={"page.py": PAGE},
        processes=processes,
        options={"mpool.conninfo": postgres.conninfo},
        extra=HOSTS if sites else "",
    )
    hosts = [{"Host": f"{name}.test"} for name in sites] or [{}]
    interpreters = set(sites or ["main_interpreter"])

    answers = burst(server, hosts, 24)
    assert {words[2] for words in answers} == interpreters
    one_pool_each(answers)

    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(server.load("/page", clients=3, headers=host)) for host in hosts]
        for version in range(1, 6):
            server.edit("page.py", PAGE.replace("VERSION = 0", f"VERSION = {version}"))
            for host in hosts:
                assert server.get("/page", host).text.split()[0] == str(version)
            for load in loads:
                seen = len(load.responses)
                wait_until(lambda load=load, seen=seen: len(load.responses) > seen, what="the load goes on")
    for load in loads:
        assert (load.statuses(), load.errors) == ({200}, [])
        assert {response.text.split()[0] for response in load.responses} <= {str(version) for version in range(6)}
        one_pool_each([response.text.split() for response in load.responses])
    assert len(backends_of(postgres, server.children())) <= processes * len(interpreters) * max_size

    for how in ("graceful", "restart", "stop", "graceful_stop"):
        old = server.children()
        assert backends_of(postgres, old)
        getattr(server, how)()
        wait_until(lambda old=old: not backends_of(postgres, old), what=f"{how} leaves no backend")
        if how == "graceful_stop":
            break
        if how == "stop":
            server.start()
        assert burst(server, hosts, 6)


def burst(server: Any, hosts: list[dict[str, str]], count: int) -> list[list[str]]:
    """So many requests at once, to the hosts in turn; the words of their answers."""
    with ThreadPoolExecutor(count) as clients:
        answers = list(clients.map(lambda number: server.get("/page", hosts[number % len(hosts)]), range(count)))
    assert Counter(answer.status for answer in answers) == {200: count}, server.log()
    return [answer.text.split() for answer in answers]


def one_pool_each(answers: list[list[str]]) -> None:
    """Each interpreter of each process has had one pool, over all of the answers."""
    pools = {tuple(words[1:4]) for words in answers}
    assert len(pools) == len({(pid, interpreter) for pid, interpreter, _ in pools})


def backends_of(postgres: Any, children: list[int]) -> list[Any]:
    mine = tuple(f"mpool/{pid}/" for pid in children)
    return [backend for backend in postgres.backends() if backend[1].startswith(mine)]
