"""The pool inside Apache: worker MPM, one child of 25 threads, SELECT 1 a request, 16 keep-alive clients."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess

import pytest
from bench.test_pool_bench import publish

THREADS = 25
CLIENTS = 16
ROUNDS = 5
SECONDS = 3

HANDLERS = {
    "no database": "def lease():\n    return None\n\n\ndef back(conn):\n    pass\n",
    # The limit: a connection per worker thread, never given back.
    "bare connection per thread": """
import threading
import psycopg2
conns = {}


def lease():
    ident = threading.get_ident()
    conn = conns.get(ident)
    if conn is None:
        conn = conns[ident] = psycopg2.connect(CONNINFO)
        conn.autocommit = True
    return conn


def back(conn):
    pass
""",
    "mpool": """
import mpool


def configure(conn):
    conn.autocommit = True


pool = mpool.ConnectionPool(CONNINFO, max_size=25, configure=configure)
lease = pool.getconn
back = pool.putconn
""",
    "psycopg2.pool": """
import psycopg2.pool
pool = psycopg2.pool.ThreadedConnectionPool(1, 25, CONNINFO)


def lease():
    conn = pool.getconn()
    conn.autocommit = True
    return conn


back = pool.putconn
""",
    "connect per request": """
import psycopg2


def lease():
    conn = psycopg2.connect(CONNINFO)
    conn.autocommit = True
    return conn


def back(conn):
    conn.close()
""",
}

HANDLER = """
from mod_python import apache

CONNINFO = {conninfo!r}
{code}

def handler(req):
    conn = lease()
    try:
        if conn is not None:
            cursor = conn.cursor()
            cursor.execute("SELECT 1")
            cursor.fetchone()
            cursor.close()
    finally:
        back(conn)
    req.content_type = "text/plain"
    req.set_content_length(1)  # or ab's connections are not kept alive
    req.write("1")
    return apache.OK
"""


def requests_per_second(url: str) -> float:
    out = subprocess.run(
        ["ab", "-q", "-k", "-c", str(CLIENTS), "-t", str(SECONDS), "-n", "1000000", url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "Non-2xx responses" not in out, out
    found = re.search(r"Requests per second:\s+([\d.]+)", out)
    assert found, out
    return float(found[1])


@pytest.mark.bench
def test_pool_in_apache(httpd, postgres):
    if shutil.which("ab") is None:
        pytest.skip("ab is not installed (apt-get install apache2-utils)")
    servers = {}
    for number, (name, code) in enumerate(HANDLERS.items()):
        module = f"bench{number}"
        servers[name] = httpd(
            site={f"{module}.py": HANDLER.format(conninfo=postgres.conninfo, code=code)},
            handler=module,
            threads=THREADS,
            extra="MaxKeepAliveRequests 0",
        )
    found: dict[str, list[float]] = {name: [] for name in servers}
    for server in servers.values():
        requests_per_second(server.url + "/bench")  # connections are opened
    for _ in range(ROUNDS):
        for name, server in servers.items():
            found[name].append(requests_per_second(server.url + "/bench"))
    rows = {name: statistics.median(values) for name, values in found.items()}
    ratios = {name: rows["mpool"] / value for name, value in rows.items()}
    text = "\n".join(
        [f"{'requests/s in Apache':<40}{'':>10}{'mpool is':>12}"]
        + [f"{name:<40}{value:>10,.0f}{ratios[name]:>11.2f}x" for name, value in rows.items()]
    )
    publish("apache", {"requests_per_second": rows, "mpool_times": ratios}, text)
