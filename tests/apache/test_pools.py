"""How many pools are there, and whom do they serve? On the real Apache, with the real PostgreSQL."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter

import pytest
from servers.base import DEADLINE, alive, wait_until
from servers.postgres import WAIT_FOR_THE_TEST, held_up

WHO = """
import os, sys, threading
import mpool
from mod_python import apache

def index(req, conn):
    with conn.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = cursor.fetchone()[0]
    return " ".join(map(str, (os.getpid(), apache.interpreter, id(sys.modules), id(mpool.get_pool(req=req)),
                              threading.get_ident(), backend)))
"""

MEET = """
import threading, os
import mpool

all_here = threading.Barrier({threads})

def index(req):
    all_here.wait(30)
    with mpool.connection(req=req) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), pg_sleep(0.05)")
        return " ".join(map(str, (threading.get_ident(), id(mpool.get_pool(req=req)), cursor.fetchone()[0])))
"""

SLOW = """
def index(req, conn, seconds: float = 1.0):
    with conn.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), pg_sleep(%s)", (seconds,))
        return str(cursor.fetchone()[0])
"""

HELD = f"""
def index(req, conn):
    conn.cursor().execute({WAIT_FOR_THE_TEST!r})
"""


def test_a_cold_burst_makes_one_pool_in_one_interpreter(httpd, postgres) -> None:
    server = httpd(site={"who.py": WHO}, threads=25, options={"mpool.conninfo": postgres.conninfo})
    answers = server.burst(24, "/who")
    assert Counter(answer.status for answer in answers) == {200: 24}, server.log()
    assert len({tuple(answer.text.split()[:4]) for answer in answers}) == 1


def test_three_interpreters_have_three_pools_after_a_cold_burst(httpd, postgres) -> None:
    names = ("site_a", "site_b", "site_c")
    hosts = "".join(
        f"<VirtualHost *:*>\nServerName {name}.test\nPythonInterpreter {name}\n</VirtualHost>\n" for name in names
    )
    server = httpd(
        conf="vhosts.conf",
        site={"who.py": WHO},
        threads=25,
        options={"mpool.conninfo": postgres.conninfo},
        extra=hosts,
    )
    answers = _burst_on_hosts(server, [f"{name}.test" for name in names], 24)
    assert Counter(answer.status for answer in answers) == {200: 24}, server.log()
    assert len({tuple(answer.text.split()[:4]) for answer in answers}) == 3
    assert {answer.text.split()[1] for answer in answers} == set(names)


def _burst_on_hosts(server, hosts: list[str], count: int):
    barrier = threading.Barrier(count)
    answers = [None] * count

    def client(number: int) -> None:
        with server.session() as session:
            session.connect()
            barrier.wait(30)
            answers[number] = session.get("/who", {"Host": hosts[number % len(hosts)], "Connection": "close"})

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert None not in answers
    return answers


def test_all_threads_of_a_child_are_served_by_one_pool_of_max_size(httpd, postgres) -> None:
    server = httpd(
        site={"meet.py": MEET.format(threads=15)},
        threads=15,
        options={"mpool.conninfo": postgres.conninfo, "mpool.max_size": 5, "mpool.timeout": 30},
    )
    most = 0
    answers: list = []
    burst = threading.Thread(target=lambda: answers.extend(server.burst(15, "/meet")))
    burst.start()
    ended = False
    while not ended:
        ended = not burst.is_alive()  # and then once more: idle ones are kept
        most = max(most, len(postgres.backends(f"mpool/{server.children()[0]}/")))
    assert Counter(answer.status for answer in answers) == {200: 15}, server.log()
    threads, pools, backends = (set(column) for column in zip(*(a.text.split() for a in answers), strict=True))
    assert (len(threads), len(pools)) == (15, 1)
    assert len(backends) <= 5
    assert 1 <= most <= 5


# -- the end of a child ------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(httpd, postgres):
    """An Apache of two children whose pools have connections; application names tell them apart."""
    server = httpd(
        site={"slow.py": SLOW, "held.py": HELD, "who.py": WHO},
        processes=2,
        threads=5,
        options={"mpool.conninfo": postgres.conninfo, "mpool.min_size": 1},
    )
    wait_until(
        lambda: server.burst(10, "/slow?seconds=0.2") and len({name for _, name, _ in _of(postgres, server)}) == 2,
        what="both children have a pool",
    )
    return server


def _of(postgres, server, pids: list[int] | None = None) -> list[tuple[int, str, str]]:
    """The backends of the given children of *server*, of all by default."""
    mine = [f"mpool/{pid}/" for pid in (server.children() if pids is None else pids)]
    return [backend for backend in postgres.backends("mpool/") if backend[1].startswith(tuple(mine))]


@pytest.mark.parametrize("how", ["stop", "graceful_stop", "restart", "graceful"])
def test_no_backend_outlives_its_child(how: str, busy, postgres) -> None:
    old = busy.children()
    assert len(_of(postgres, busy, old)) >= 2
    getattr(busy, how)()
    wait_until(lambda: not _of(postgres, busy, old), what="the backends of the old children are gone")
    assert not any(alive(pid) for pid in old)
    if how in ("restart", "graceful"):
        assert busy.get("/who").status == 200


@pytest.mark.parametrize("how", ["graceful_stop", "graceful"])
def test_a_graceful_end_cuts_no_request(how: str, busy, postgres) -> None:
    old = busy.children()
    answers: list = []
    clients = threading.Thread(target=lambda: answers.extend(busy.burst(6, "/held")))
    ending = threading.Thread(target=getattr(busy, how))
    mark = busy.log_mark()
    with held_up(postgres):
        clients.start()
        wait_until(lambda: sum(state == "active" for _, _, state in _of(postgres, busy)) == 6, what="six queries run")
        ending.start()
        busy.wait_for_log("shutting down gracefully|Doing graceful restart", since=mark)
    clients.join()
    ending.join()
    assert Counter(answer.status for answer in answers) == {200: 6}, busy.log()
    wait_until(lambda: not _of(postgres, busy, old), what="the backends of the old children are gone")


def test_a_child_renewed_after_max_connections_leaves_no_backend(httpd, postgres) -> None:
    server = httpd(
        site={"who.py": WHO}, threads=5, options={"mpool.conninfo": postgres.conninfo}, extra="MaxConnectionsPerChild 8"
    )
    pids = set()

    def renewed() -> bool:
        answer = server.get("/who")
        assert answer.status == 200, server.log()
        pids.add(int(answer.text.split()[0]))
        return len(pids) >= 3

    wait_until(renewed, timeout=60, what="the third child answers")
    wait_until(
        lambda: not _of(postgres, server, [pid for pid in pids if pid not in server.children()]),
        what="the backends of the old children are gone",
    )


def test_a_killed_child_leaves_no_idle_backend_and_the_next_one_serves(busy, postgres) -> None:
    victim = busy.children()[0]
    assert _of(postgres, busy, [victim])
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not _of(postgres, busy, [victim]), what="the backends of the killed child are gone")
    wait_until(lambda: len(busy.children()) == 2 and victim not in busy.children(), what="a new child runs")
    deadline = time.monotonic() + DEADLINE
    while {int(answer.text.split()[0]) for answer in busy.burst(10, "/who")} != set(busy.children()):
        assert time.monotonic() < deadline


TWO_SITES = """
import mpool

def database(conn):
    cursor = conn.cursor()
    cursor.execute("SELECT current_database()")
    return cursor.fetchone()[0]

def by_argument(req, conn):
    return database(conn)

def by_call(req):
    with mpool.connection() as conn:
        return database(conn)

def by_lease(req):
    conn = mpool.get_connection()
    try:
        return database(conn)
    finally:
        mpool.release(conn)

def by_pool(req):
    with mpool.get_pool().connection() as conn:
        return database(conn)

def plain(req):
    req.write(by_call(req))
    return 0
"""


@pytest.mark.parametrize(("first", "other"), [("site", "postgres"), ("postgres", "site")])
@pytest.mark.parametrize("with_importer", [True, False])
def test_two_sites_never_read_each_others_database(httpd, postgres, first, other, with_importer) -> None:
    """Of one interpreter: the options of the request count for mpool's own functions, too, and not only for conn."""
    hosts = "".join(
        f"<VirtualHost *:*>\nServerName {name}.test\nDocumentRoot @SITE@\n"
        f'PythonOption mpool.conninfo "{postgres.conninfo.replace("dbname=site", f"dbname={name}")}"\n</VirtualHost>\n'
        for name in ("site", "postgres")
    )
    server = httpd(
        site={"page.py": TWO_SITES},
        options={} if with_importer else {"mod_python.legacy.importer": "*"},
        handler="handlers.publisher" if with_importer else "page::plain",
        extra=hosts,
    )
    paths = ["by_call", "by_argument", "by_lease", "by_pool", "by_call"] if with_importer else ["", ""]
    for path in paths:
        answer = server.get(f"/page/{path}", {"Host": f"{first}.test"})
        assert (answer.status, answer.text) == (200, first)
    for path in paths:
        assert server.get(f"/page/{path}", {"Host": f"{other}.test"}).status == 500
    server.wait_for_log(rf"PoolConflict: pool 'default': mpool\.conninfo of virtual host {other}\.test")
    assert server.get(f"/page/{paths[0]}", {"Host": f"{first}.test"}).text == first
