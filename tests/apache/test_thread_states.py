"""Apache's threads and mod_python's thread states come together anew at each request: what pages drop is freed."""

from __future__ import annotations

import pytest

DROPS = """
import weakref
from mod_python import apache

class Box:
    pass

alive = weakref.WeakSet()

def count():
    for _ in range(10):
        alive.add(Box())
    return str(len(alive))

def index(req):
    return count()

def outputfilter(fltr):
    while fltr.read():
        pass
    fltr.write(count())
    fltr.close()

def connectionhandler(conn):
    conn.write(f"HTTP/1.0 200 OK\\r\\n\\r\\n{count()}".encode())
    return apache.OK
"""
FILTER = "SetHandler default-handler\nPythonOutputFilter page DROPS\nSetOutputFilter DROPS"

# On sid psycopg2 works in no interpreter of a process unless the main one has imported it first.
STOCK = "PythonInterpreter main_interpreter\nPythonImport psycopg2 main_interpreter"

REQUESTS = 40  # more than there are threads


@pytest.mark.parametrize(
    ("conf", "before", "handler", "extra"),
    [
        ("worker.conf", "", "handlers.publisher", ""),
        ("worker.conf", "", "mod_python.publisher", ""),
        ("worker.conf", "", "handlers.publisher", FILTER),
        ([], STOCK, "handlers.publisher", ""),
    ],
    ids=["ours", "stock publisher", "filter", "without install"],
)
def test_what_a_request_drops_is_freed(httpd, conf, before, handler, extra) -> None:
    site = {"page.py": DROPS, "page.txt": "x"}
    extra = f'<Directory "@SITE@">\n{extra}\n</Directory>'
    server = httpd(conf=conf, mpm="worker", before=before, site=site, handler=handler, extra=extra)
    path = "/page.txt" if "SetOutputFilter" in extra else "/page/index"
    assert {server.get(path).text for _ in range(REQUESTS)} == {"0"}, server.log()


def test_what_a_connection_handler_drops_is_freed(httpd) -> None:
    server = httpd(site={"page.py": DROPS}, extra="")
    server.stop()
    server._settings["extra"] = f"PythonConnectionHandler {server.site}/page.py\n"
    server.start()
    assert {server.get("/").text for _ in range(REQUESTS)} == {"0"}, server.log()


def test_a_lease_that_a_handler_drops_frees_its_slot(httpd, postgres) -> None:
    page = "import mpool\ndef index(req):\n    mpool.get_connection(timeout=5)\n    return 'leased'\n"
    options = {"mpool.conninfo": postgres.conninfo, "mpool.max_size": 2}
    server = httpd(
        conf=[], mpm="worker", before=STOCK, site={"page.py": page}, handler="mod_python.publisher", options=options
    )
    assert {server.get("/page/index").text for _ in range(REQUESTS)} == {"leased"}, server.log()
