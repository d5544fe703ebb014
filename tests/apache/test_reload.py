"""Edits under load: what is served, and what becomes of pools and connections. On the real Apache and PostgreSQL."""

from __future__ import annotations

import itertools
import re

import pytest
from servers.base import wait_until

SAVES = ("rename", "copy", "inplace")

POOLED = """
VERSION = {version}
import mpool

def index(req, conn):
    with conn.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return f"{{VERSION}} {{cursor.fetchone()[0]}} {{END}}"

# {filler}
END = {version}
"""

NAIVE = """
VERSION = {version}
import psycopg2
from mod_python import apache

connection = psycopg2.connect(apache.main_server.get_options()["test.conninfo"], application_name="naive")

def index(req):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return f"{{VERSION}} {{cursor.fetchone()[0]}} {{END}}"

END = {version}
"""

# The page of 2006, as it was written then.
PAGE_OF_2006 = """
import psycopg2
from mod_python import apache
version = {version}

if 'myconnection' not in globals():
    myconnection = psycopg2.connect(apache.main_server.get_options()["test.conninfo"], application_name="of-2006")

def __mp_clone__(module):
    {clone}
    module.myconnection = myconnection

def __mp_purge__(module):
    apache.log_error("purge of version %d is called" % version)
    myconnection.close()

def index(req):
    cursor = myconnection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    return "%s %s" % (version, cursor.fetchone()[0])
"""

HOOKED = """
from handlers.base import __mp_clone__, __mp_purge__
from mod_python import apache
from psycopg2.pool import ThreadedConnectionPool
VERSION = {version}

if "pool" not in globals():
    pool = ThreadedConnectionPool(1, 8, apache.main_server.get_options()["test.conninfo"], application_name="hooked")

def index(req):
    connection = pool.getconn()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return f"{{VERSION}} {{cursor.fetchone()[0]}}"
    finally:
        pool.putconn(connection)
"""


def test_fifty_edits_under_load_are_served_and_the_pool_stays(httpd, postgres) -> None:
    server = httpd(
        site={"page.py": POOLED.format(version=0, filler="")},
        options={"mpool.conninfo": postgres.conninfo, "mpool.min_size": 4, "mpool.max_size": 4},
    )

    def backends() -> set[int]:
        return {pid for pid, name, _ in postgres.backends("mpool/") if name.split("/")[1] == str(server.children()[0])}

    with server.load("/page", clients=8) as load:
        wait_until(lambda: len(backends()) == 4, what="the pool is full")
        before = backends()
        for version, how in zip(range(1, 51), itertools.cycle(SAVES)):
            server.edit("page.py", POOLED.format(version=version, filler="x" * 4000), how)
            assert server.get("/page").text.split()[0] == str(version), server.log()
    assert load.statuses() == {200} and not load.errors, server.log()
    assert all(answer.text.split()[0] == answer.text.split()[2] for answer in load.responses)
    assert backends() == before


def test_fifty_edits_of_a_page_that_knows_nothing_of_hooks_leave_no_backends(httpd, postgres) -> None:
    server = httpd(site={"page.py": NAIVE.format(version=0)}, options={"test.conninfo": postgres.conninfo})
    with server.load("/page", clients=8) as load:
        for version, how in zip(range(1, 51), itertools.cycle(SAVES)):
            server.edit("page.py", NAIVE.format(version=version), how)
            assert server.get("/page").text.split()[0] == str(version), server.log()
    assert load.statuses() == {200} and not load.errors, server.log()
    wait_until(lambda: len(postgres.backends("naive")) <= 1, what="all but the one in use are closed")
    assert "left behind and is rid of: connection, " in server.log()
    assert "other code still holds" not in server.log()


def test_the_page_of_2006_keeps_its_connection_over_ten_edits(httpd, postgres) -> None:
    server = httpd(
        site={"page.py": PAGE_OF_2006.format(version=0, clone="pass")}, options={"test.conninfo": postgres.conninfo}
    )
    backend = server.get("/page").text.split()[1]
    for version in range(1, 11):
        server.edit("page.py", PAGE_OF_2006.format(version=version, clone="pass"))
        assert server.get("/page").text == f"{version} {backend}"
    assert "purge of version" not in server.log()


def test_a_clone_hook_that_raises_is_purged_once_and_its_backend_is_gone(httpd, postgres) -> None:
    server = httpd(
        site={"page.py": PAGE_OF_2006.format(version=1, clone="1 / 0")}, options={"test.conninfo": postgres.conninfo}
    )
    backend = int(server.get("/page").text.split()[1])
    server.edit("page.py", PAGE_OF_2006.format(version=2, clone="pass"))
    version, other = server.get("/page").text.split()
    assert version == "2" and int(other) != backend
    wait_until(lambda: [pid for pid, _, _ in postgres.backends("of-2006")] == [int(other)], what="it is gone")
    assert server.log().count("purge of version 1 is called") == 1
    assert "__mp_clone__" in server.log() and "ZeroDivisionError" in server.log()


def test_the_stock_hooks_carry_a_psycopg2_pool(httpd, postgres) -> None:
    server = httpd(site={"page.py": HOOKED.format(version=0)}, options={"test.conninfo": postgres.conninfo})
    backend = server.get("/page").text.split()[1]
    for version in range(1, 6):
        server.edit("page.py", HOOKED.format(version=version))
        assert server.get("/page").text == f"{version} {backend}"


def test_hooks_added_by_an_edit_help_at_that_very_reload(httpd, postgres) -> None:
    hooks = "from handlers.base import __mp_clone__, __mp_purge__\n"
    server = httpd(
        site={"page.py": HOOKED.format(version=0).replace(hooks, "")}, options={"test.conninfo": postgres.conninfo}
    )
    backend = server.get("/page").text.split()[1]
    server.edit("page.py", HOOKED.format(version=1))
    assert server.get("/page").text == f"1 {backend}"


@pytest.mark.parametrize(
    "broken",
    ["def index(req:\n", "VERSION = 0\n1 / 0\n", "raise OSError('\\0', '\\udce4')\n"],
    ids=["syntax", "at import", "unprintable"],
)
def test_a_broken_edit_under_load_is_never_served(broken: str, httpd, postgres) -> None:
    server = httpd(site={"page.py": POOLED.format(version=1, filler="")}, options={"mpool.conninfo": postgres.conninfo})
    with server.load("/page", clients=8) as load:
        wait_until(lambda: len(load.responses) > 20)
        mark = server.log_mark()
        server.edit("page.py", broken)
        server.wait_for_log(r"page\.py.* failed", since=mark)
        seen = len(load.responses)
        wait_until(lambda: len(load.responses) > seen + 50)
        server.edit("page.py", POOLED.format(version=2, filler=""))
        assert server.get("/page").text.split()[0] == "2"
    assert load.statuses() == {200} and not load.errors
    assert {answer.text.split()[0] for answer in load.responses} <= {"1", "2"}
    entries = [line for line in server.log(mark).splitlines() if re.search(r"page\.py.* failed", line)]
    assert len(entries) == 1, entries
    assert re.search(r"SyntaxError|ZeroDivisionError|OSError: .* \\\\udce4", entries[0])


def test_a_page_that_was_removed_is_gone_for_the_next_request_whoever_else_has_just_looked(httpd) -> None:
    server = httpd(site={"page.py": "def index(req): return 'here'\n"})
    page, away = server.site / "page.py", server.site / "page.away"
    with server.load("/page", clients=4) as load:
        for _ in range(10):
            wait_until(lambda: server.get("/page").status == 200)
            page.rename(away)
            assert server.get("/page").status == 404
            away.rename(page)
    assert load.statuses() == {200, 404} and not load.errors


ENDED = """
import gc
from handlers.reload import interpreter
from mod_python import apache

gc.disable()  # what is in a cycle lives on

def index(req):
    return str(len(interpreter.importer.retirement._active))

def fails(req):
    raise ValueError("on purpose")

def moves(req):
    req.internal_redirect("/page")

def kept(req):
    req.register_cleanup(print, req)
    req.me = req.headers_in
    return "kept"
"""


@pytest.mark.parametrize("conf", ["worker.conf", "event.conf", "prefork.conf"])
@pytest.mark.parametrize(
    ("interpreter", "debug"), [("main_interpreter", "Off"), ("site", "Off"), ("main_interpreter", "On")]
)
def test_a_request_that_has_ended_is_not_waited_for_however_it_ended(conf, interpreter, debug, httpd) -> None:
    extra = (
        f"PythonDebug {debug}\n"
        f"PythonInterpreter {interpreter}\nPythonImport handlers.importer::install {interpreter}\n"
        "PythonImport psycopg2 main_interpreter\n"
        "ErrorDocument 500 /page\nPythonOutputFilter ~/filters.py::same SAME\n"
        '<LocationMatch "^/page/filtered">\nSetOutputFilter SAME\n</LocationMatch>\n'
    )
    filters = "def same(fltr):\n    fltr.write(fltr.read() or '')\n    fltr.close()\n"
    server = httpd(conf=conf, site={"page.py": ENDED, "filters.py": filters}, extra=extra)
    paths = ["/page", "/page/fails", "/page/moves", "/page/kept", "/page/filtered", "/none"]
    assert {answer.status for answer in server.burst(60, paths)} <= {200, 404, 500}
    wait_until(lambda: server.get("/page").text == "1", what="only the one that asks is under way")
