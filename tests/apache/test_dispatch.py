"""The corners of mod_python's dispatch that ours has in its place: the debugger, and filters that fail or lease."""

from __future__ import annotations

import socket

import pytest
from servers.base import spawn, wait_until
from servers.httpd import HTTPD, Httpd


class OneProcess(Httpd):
    """Started as one does for pdb: without a child, and here with nobody at the keyboard."""

    def _spawn(self):
        self._process = spawn(
            [HTTPD, "-f", str(self.root / "httpd.conf"), "-DFOREGROUND", "-DONE_PROCESS"],
            log=self.root / "output",
            env={"PYTHONPATH": str(self._packages)},
            cwd=self.root,
        )
        return self._process


@pytest.mark.parametrize(("server", "status"), [(Httpd, 200), (OneProcess, 500)])
def test_pdb_runs_the_handler_where_there_is_one_process_only(packages, server, status):
    made = server(packages=packages, site={"page.py": "def index(req): return 'page'"}, extra="PythonEnablePdb On")
    try:
        assert made.get("/page").status == status
        if server is OneProcess:
            # It stops before the first line, reads the end of its input, and quits.
            assert "(Pdb)" in made._output()
            made.wait_for_log("BdbQuit")
    finally:
        made.close()


FILTERS = """
from handlers.base import connection
from mod_python import apache

def fails(fltr):
    raise RuntimeError("<inside>")

def upper(fltr):
    while data := fltr.read():
        fltr.write(data.upper())
    if data is None:
        fltr.close()

def returns(fltr):
    upper(fltr)
    raise apache.SERVER_RETURN(apache.OK)

def stores(fltr):
    connection(fltr.req).cursor().execute("insert into filtered values ('seen')")
    upper(fltr)

def stores_and_fails(fltr):
    connection(fltr.req).cursor().execute("insert into filtered values ('failed')")
    raise RuntimeError("<inside>")
"""
PAGE = """
import mpool
def index(req): return "a page"
def leased(req):
    stats = mpool.get_pool().get_stats()
    return stats["pool_size"] - stats["pool_available"]
"""
NAMES = ("fails", "upper", "returns", "stores", "stores_and_fails")
LINES = "\n".join(f"PythonOutputFilter ~/filters.py::{name} {name}" for name in NAMES)


def filtered(httpd, name, extra="", **settings):
    rule = f'\n<Location "/page/index">\nSetOutputFilter {name}\n</Location>\n{extra}'
    return httpd(site={"page.py": PAGE, "filters.py": FILTERS}, extra=LINES + rule, **settings)


@pytest.mark.parametrize("name", ["upper", "returns"])
def test_a_filter_runs_and_may_end_by_server_return(httpd, name):
    assert filtered(httpd, name).get("/page/index").text == "A PAGE"


def received(server, path):
    """All bytes that come until the server closes: a filter that failed has lost the end of the answer."""
    with socket.create_connection((server.host, server.port), timeout=60) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_filter_that_fails_shows_its_inside_to_a_developer_only(httpd):
    shown = received(filtered(httpd, "fails", "PythonDebug On"), "/page/index")
    assert b"RuntimeError: &lt;inside&gt;" in shown and b"MODULE CACHE DETAILS" in shown
    server = filtered(httpd, "fails")
    mark = server.log_mark()
    assert received(server, "/page/index") == b""
    server.wait_for_log("RuntimeError: <inside>", since=mark)


def test_a_filter_has_the_transaction_of_its_request_and_leaves_no_lease(httpd, postgres):
    postgres.execute("drop table if exists filtered")
    postgres.execute("create table filtered (what text)")
    postgres.execute("grant all on filtered to public")
    options = {"mpool.conninfo": postgres.conninfo, "mpool.max_size": 2}
    for name in ("stores", "stores_and_fails"):
        server = filtered(httpd, name, options=options)
        for _ in range(5):  # more often than there are connections
            received(server, "/page/index")
        wait_until(lambda server=server: server.get("/page/leased").text == "0", what="every lease is back")
    kept = {what for (what,) in postgres.execute("select what from filtered")}
    assert kept == {"seen"}
    postgres.execute("drop table filtered")
