"""One connection per main request and its transaction, on a real Apache and a real PostgreSQL."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers.base import wait_until

SITE = """
import mpool, os, time
from handlers.base import connection
from handlers.publisher import Response, HttpError
from mod_python import apache, util

def index(req): return "ok"
def leased(req):
    stats = mpool.get_pool().get_stats()
    return stats["pool_size"] - stats["pool_available"]
def store(conn, what):
    conn.cursor().execute("insert into notes (what) values (%s)", (what,))
def backend(conn):
    cursor = conn.cursor()
    cursor.execute("select pg_backend_pid()")
    return cursor.fetchone()[0]

def value(req, conn):
    store(conn, "value")
    return "stored"
def response(req, conn):
    store(conn, "response")
    return Response(201, None, "stored")
def by_call(req):
    store(connection(req), "by_call")
    return str(connection(req) is connection(req))
def written(req, conn):
    store(conn, "written")
    req.write("stored")
def by_hand(req, conn, fails=""):
    conn.autocommit = True
    conn.cursor().execute("begin")
    store(conn, "by_hand" + fails)
    return object() if fails else "stored"
def raises(req, conn):
    store(conn, "raises")
    raise RuntimeError("no")
def unusable(req, conn):
    store(conn, "unusable")
    return object()
def refused(req, conn):
    store(conn, "refused")
    raise HttpError(409, "no")
def returned(req, conn, status):
    store(conn, "returned " + status)
    raise apache.SERVER_RETURN(int(status))
def redirected(req, conn, permanent="", text=None):
    store(conn, "redirected")
    util.redirect(req, "/page/count?what=redirected", bool(permanent), text)
def count(req, conn, what):
    cursor = conn.cursor()
    cursor.execute("select count(*) from notes where what = %s", (what,))
    return cursor.fetchone()[0]
def deferred(req, conn, how="value"):
    cursor = conn.cursor()
    cursor.execute("insert into child (parent) values (17)")
    if how == "write":
        req.write("all is well")
        return None
    if how == "redirect":
        util.redirect(req, "/page")
    return "all is well"
def stream(req, conn, fail="", lines="3"):
    store(conn, "stream" + fail)
    for n in range(int(lines)):
        yield "line %d\\n" % n
    if fail:
        raise RuntimeError("late")
def slow_stream(req, conn):
    store(conn, "slow")
    while True:
        yield "x" * 65536
def pid(req, conn):
    return backend(conn)
def holds(req, conn, until):
    deadline = time.monotonic() + 60
    while not os.path.exists(until) and time.monotonic() < deadline:
        time.sleep(0.02)
    return "held"
def sleeps(req, conn):
    conn.cursor().execute("select pg_sleep(60)")
def broken_sql(req, conn):
    conn.cursor().execute("select 1 / 0")
def outer(req, conn):
    req.mine = backend(conn)
    req.internal_redirect("/page/inner?outer=%d" % req.mine)
def inner(req, conn, outer):
    return str(backend(conn) == int(outer))
def outer_then_stores(req, conn):
    req.internal_redirect("/page/value")
    store(conn, "after the redirect")
def included(req, conn):
    return "backend %d;" % backend(conn)
"""

PHASES = """
from mod_python import apache
from handlers.base import connection

def handler(req):
    cursor = connection(req).cursor()
    cursor.execute("insert into notes (what) values ('plain handler')")
    req.write("plain")
    return apache.OK

def failing(req):
    connection(req).cursor().execute("insert into notes (what) values ('failing handler')")
    return apache.HTTP_NOT_FOUND

def fixuphandler(req):
    connection(req).cursor().execute("insert into notes (what) values ('fixup')")
    return apache.OK

def loghandler(req):
    connection(req).cursor().execute("insert into notes (what) values ('log')")
    return apache.OK
"""

TABLES = """
create table if not exists notes (what text);
create table if not exists parent (id int primary key);
create table if not exists child (parent int references parent deferrable initially deferred);
truncate notes, parent, child;
grant all on all tables in schema public to public;
"""

# Nobody is to be refused because the machine is slow.
OPTIONS = {"mpool.max_size": 4, "mpool.timeout": 50}
IMPATIENT = {"mpool.max_size": 4, "mpool.timeout": 5}


def count(postgres, what):
    return postgres.execute("select count(*) from notes where what = %s", what)[0][0]


@pytest.fixture
def server(httpd, postgres):
    postgres.execute(TABLES)
    options = {**OPTIONS, "mpool.conninfo": postgres.conninfo}
    server = httpd(site={"page.py": SITE}, options=options, extra="KeepAliveTimeout 60")
    yield server
    # Whatever the test did, no lease is left.
    with contextlib.suppress(OSError):
        wait_until(lambda: server.get("/page/leased").text == "0", what="every lease is back")


@pytest.mark.parametrize("path", ["value", "response", "by_call", "written", "stream"])
def test_what_a_page_stores_is_committed(server, postgres, path):
    assert server.get(f"/page/{path}").status in (200, 201)
    assert count(postgres, path) == 1


def test_a_transaction_that_a_page_begins_by_hand_ends_like_any_other(server, postgres):
    assert server.get("/page/by_hand").status == 200
    assert server.get("/page/by_hand?fails=1").status == 500
    assert (count(postgres, "by_hand"), count(postgres, "by_hand1")) == (1, 0)


@pytest.mark.parametrize(("path", "status"), [("raises", 500), ("unusable", 500), ("refused", 409)])
def test_an_exception_rolls_back(server, postgres, path, status):
    assert server.get(f"/page/{path}").status == status
    assert count(postgres, path) == 0


@pytest.mark.parametrize(
    ("status", "stored"), [(0, 1), (-2, 1), (-1, 1), (304, 1), (302, 1), (400, 0), (404, 0), (500, 0), (503, 0)]
)
def test_server_return_commits_or_rolls_back_by_its_status(server, postgres, status, stored):
    server.get(f"/page/returned?status={status}")
    assert count(postgres, f"returned {status}") == stored


@pytest.mark.parametrize("query", ["", "?permanent=1", "?text=moved"])
def test_a_client_that_follows_a_redirect_finds_what_was_stored(server, query):
    with server.session() as session:
        for stored in range(1, 11):
            answer = session.get(f"/page/redirected{query}")
            assert answer.status == (301 if "permanent" in query else 302)
            assert session.get(answer.headers["Location"]).text == str(stored)


def test_a_commit_that_fails_is_a_500_when_the_result_is_a_value(server):
    assert server.get("/page/deferred").status == 500
    answer = server.get("/page/deferred?how=redirect")
    assert answer.status == 500 and "Location" not in answer.headers


def test_a_commit_that_fails_after_the_answer_was_sent_is_in_the_log_alone(server):
    mark = server.log_mark()
    answer = server.get("/page/deferred?how=write")
    assert (answer.status, answer.body) == (200, b"all is well")
    assert "error" in server.wait_for_log(r"\[:?(\w*)\].*commit failed after the answer had been sent", since=mark)[1]


def test_a_stream_that_fails_rolls_back(server, postgres):
    with pytest.raises(http.client.IncompleteRead) as broken_off:
        server.get("/page/stream?fail=late")
    assert broken_off.value.partial == b"line 0\nline 1\nline 2\n"
    assert count(postgres, "streamlate") == 0


def test_a_client_that_leaves_a_stream_gives_the_lease_back(server, postgres):
    for _ in range(6):  # more often than there are connections
        with socket.create_connection((server.host, server.port), timeout=60) as client:
            client.sendall(b"GET /page/slow_stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1000)
    wait_until(lambda: server.get("/page/leased").text == "0", what="every lease is back")
    assert count(postgres, "slow") == 0


def test_a_stream_gives_its_connection_back_before_a_slow_client_has_read_it(server, postgres):
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(socket.create_connection((server.host, server.port), timeout=60))
            client.sendall(b"GET /page/stream?lines=500 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        wait_until(lambda: count(postgres, "stream") == 6, what="all streams are committed")
        wait_until(lambda: server.get("/page/leased").text == "0", what="every lease is back")


def test_an_exhausted_pool_is_a_503_and_the_log_says_why(httpd, postgres):
    server = httpd(site={"page.py": SITE}, options={**IMPATIENT, "mpool.conninfo": postgres.conninfo})
    mark = server.log_mark()
    until = server.site / "until"
    with ThreadPoolExecutor(1) as elsewhere:
        holding = elsewhere.submit(server.burst, 4, f"/page/holds?until={until}")
        try:
            wait_until(lambda: server.get("/page/leased").text == "4", what="all connections are leased")
            refused = server.burst(4, "/page/pid")
        finally:
            server.write("until", "")
        assert [answer.status for answer in holding.result()] == [200] * 4
    assert [answer.status for answer in refused] == [503] * 4
    assert refused[0].headers["Retry-After"].isdigit()
    server.wait_for_log("503: PoolTimeout: .*max_size=4", since=mark)
    assert server.get("/page/pid").status == 200


def test_a_database_that_is_down_is_a_503_until_it_is_back(httpd, postgres_factory):
    own = postgres_factory()
    server = httpd(site={"page.py": SITE}, options={**IMPATIENT, "mpool.conninfo": own.conninfo})
    assert server.get("/page/pid").status == 200
    own.stop()
    mark = server.log_mark()
    answer = server.get("/page/pid")
    assert answer.status == 503 and answer.headers["Retry-After"].isdigit()
    assert server.get("/page").status == 200
    server.wait_for_log("503: ", since=mark)
    own.start()
    wait_until(lambda: server.get("/page/pid").status == 200, what="the database is back")


def test_a_backend_that_is_killed_during_a_request_is_a_503(server, postgres):
    with socket.create_connection((server.host, server.port), timeout=60) as client:
        client.sendall(b"GET /page/sleeps HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        # Killed before the page has leased it, the pool would find that out and lease another.
        asleep = "select pid from pg_stat_activity where state = 'active' and query = 'select pg_sleep(60)'"
        [(pid,)] = wait_until(lambda: postgres.execute(asleep), what="the page has its backend")
        postgres.execute("select pg_terminate_backend(%s)", pid)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert re.match(rb"HTTP/1.1 503 ", answer)


def test_an_error_of_the_query_is_the_pages_own(server):
    assert server.get("/page/broken_sql").status == 500
    assert server.get("/page/count?what=x").status == 200


def test_an_internal_redirect_shares_the_lease_and_both_are_committed(server, postgres):
    assert server.get("/page/outer").text == "True"
    server.get("/page/outer_then_stores")
    assert count(postgres, "value") == 1
    assert count(postgres, "after the redirect") == 1


def test_a_redirect_under_load_never_needs_a_second_connection(server):
    answers = [answer for _ in range(5) for answer in server.burst(4, "/page/outer")]
    assert {answer.text for answer in answers} == {"True"}


def test_included_parts_are_served_and_leave_no_lease(httpd, postgres):
    site = {"page.py": SITE, "whole.shtml": '<!--#include virtual="/page/included" -->' * 3}
    extra = '<Files "*.shtml">\nSetHandler default-handler\nOptions +Includes\nSetOutputFilter INCLUDES\n</Files>\n'
    server = httpd(site=site, options={**OPTIONS, "mpool.conninfo": postgres.conninfo}, extra=extra)
    assert re.fullmatch(r"(backend \d+;){3}", server.get("/whole.shtml").text)
    assert server.get("/page/leased").text == "0"


HTACCESS = """
<Files "failing">
    PythonHandler phases::failing
</Files>
PythonFixupHandler phases
PythonLogHandler phases
"""


@pytest.fixture(params=["installed", "stock"])
def phases(request, httpd, postgres):
    """A site of plain handlers, with our importer installed and without."""
    postgres.execute(TABLES)
    # On sid psycopg2 works nowhere unless the main interpreter has imported it first.
    stock = {"conf": (), "mpm": "worker", "before": "PythonImport psycopg2 main_interpreter"}
    conf = {} if request.param == "installed" else stock
    site = {"phases.py": PHASES, ".htaccess": HTACCESS, "failing": ""}
    server = httpd(site=site, handler="phases", options={**OPTIONS, "mpool.conninfo": postgres.conninfo}, **conf)
    server.installed = request.param == "installed"
    return server


def test_a_plain_handler_commits_with_success_and_rolls_back_otherwise(phases, postgres):
    mark = phases.log_mark()
    for _ in range(10):  # more often than there are connections
        assert phases.get("/").text == "plain"
        assert phases.get("/failing").status == 404
    wait_until(lambda: count(postgres, "plain handler") == 10, what="all is committed")
    assert count(postgres, "failing handler") == 0
    told = phases.log(mark).count("handlers.importer::install has not run")
    assert told == (0 if phases.installed else 1)


def test_every_phase_has_a_transaction_of_its_own(httpd, postgres):
    postgres.execute(TABLES)
    site = {"phases.py": PHASES, ".htaccess": HTACCESS, "failing": ""}
    server = httpd(site=site, handler="phases", options={**OPTIONS, "mpool.conninfo": postgres.conninfo})
    for _ in range(10):
        assert server.get("/failing").status == 404
    wait_until(lambda: count(postgres, "log") == 10, what="the log phase has run")
    assert (count(postgres, "fixup"), count(postgres, "failing handler")) == (10, 0)


def test_a_client_that_reads_a_large_page_slowly_holds_no_connection(httpd, postgres):
    page = "def index(req, conn, size: int):\n    conn.cursor().execute('SELECT 1')\n    return 'x' * size\n"
    options = {"mpool.conninfo": postgres.conninfo, "mpool.max_size": 1}
    server = httpd(site={"page.py": page}, options=options, extra="SendBufferSize 8192")
    with contextlib.ExitStack() as clients:
        for _ in range(3):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((server.host, server.port))
            client.sendall(b"GET /page?size=8000000 HTTP/1.0\r\n\r\n")
            assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"  # the rest is not read
        assert server.get("/page?size=1").text == "x"
