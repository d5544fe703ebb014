"""Requests per second of a page, beside what else serves pages under Apache; by `ab`, on kept connections.

Every row has the same Apache, MPM, threads and client, in one run, in turns: read the ratios. Where the machine has
much else to do, the processor time says more than the rate.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from servers.base import make_public_dir, remove_tree
from servers.httpd import REPOSITORY, Httpd, make_readable

#: mod_wsgi, and what runs in it, as `make bench` unpacks them. It is loaded by its own httpd only: two Pythons in one
#: process do not agree.
WSGI = REPOSITORY / ".venv/wsgi"
MOD_WSGI = WSGI / "usr/lib/apache2/modules/mod_wsgi.so"
AB = "/usr/bin/ab"

CLIENTS, THREADS = 16, 25
UNLIMITED = "KeepAlive On\nMaxKeepAliveRequests 0\nMaxConnectionsPerChild 0\nLogLevel warn\n"

PAGE = """
def index(req, name="world"):
    return "<html><body>Hello %s</body></html>" % name

def one(req, conn):
    cursor = conn.cursor()
    cursor.execute("SELECT 1")
    return str(cursor.fetchone()[0])
"""

BARE = """
from mod_python import apache

def handler(req):
    req.content_type = "text/html"
    req.write("<html><body>Hello world</body></html>", 0)
    return apache.OK
"""

BARE_CONNECTION = """
import threading
import psycopg2
from mod_python import apache

connections = {}

def handler(req):
    me = threading.get_ident()
    connection = connections.get(me)
    if connection is None:
        connection = connections[me] = psycopg2.connect(req.get_options()["mpool.conninfo"])
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    text = str(cursor.fetchone()[0])
    connection.commit()
    req.content_type = "text/plain"
    req.write(text, 0)
    return apache.OK
"""

FLASK = """
from flask import Flask, request

application = Flask(__name__)

@application.route("/page")
def index():
    return "<html><body>Hello %s</body></html>" % request.args.get("name", "world")
"""

FLASK_POOL = (
    FLASK
    + """
import os
from psycopg_pool import ConnectionPool

pool = ConnectionPool({conninfo!r}, min_size=10, max_size=10, open=True)

@application.route("/page/one")
def one():
    with pool.connection() as connection:
        return str(connection.execute("SELECT 1").fetchone()[0])
"""
)


class WsgiHttpd(Httpd):
    """The same Apache with mod_wsgi, embedded, in the place of mod_python."""

    def _configuration(self) -> str:
        lines = super()._configuration().splitlines()
        kept = [line for line in lines if "ython" not in line]
        kept += [
            f'LoadModule wsgi_module "{MOD_WSGI}"',
            "WSGIApplicationGroup %{GLOBAL}",
            f'WSGIScriptAlias /app "{self.site}/app.wsgi"',
            f'<Directory "{self.site}">\nSetHandler None\n</Directory>',
        ]
        return "\n".join(kept) + "\n"


@dataclass
class Row:
    name: str
    path: str
    site: Mapping[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    server: type[Httpd] = Httpd
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # microseconds of the children's, per request


STOCK: dict[str, Any] = {"conf": (), "mpm": "worker"}


def rows_without_a_database() -> list[Row]:
    return [
        Row("handlers.publisher", "/page", {"page.py": PAGE}),
        Row("mod_python.publisher", "/page", {"page.py": PAGE}, {**STOCK, "handler": "mod_python.publisher"}),
        Row("bare mod_python handler", "/page", {"bare.py": BARE}, {**STOCK, "handler": "bare"}),
        Row("mod_wsgi, Flask", "/app/page", {"app.wsgi": FLASK}, STOCK, WsgiHttpd),
    ]


def rows_with_a_database(conninfo: str) -> list[Row]:
    options = {"mpool.conninfo": conninfo}
    app = FLASK_POOL.replace("{conninfo!r}", repr(conninfo))
    return [
        Row("handlers.publisher, conn", "/page/one", {"page.py": PAGE}, {"options": options}),
        Row(
            "bare handler, a connection per thread",
            "/page",
            {"bare.py": BARE_CONNECTION},
            {**STOCK, "handler": "bare", "options": options},
        ),
        Row("mod_wsgi, Flask, psycopg_pool", "/app/page/one", {"app.wsgi": app}, STOCK, WsgiHttpd),
    ]


def measure(rows: list[Row], packages: Path, rounds: int, requests: int) -> None:
    """Fill in the rates, the rows in turns, so that what else the machine does falls on all of them."""
    servers: list[Httpd] = []
    with contextlib.ExitStack() as stack:
        wsgi = make_public_dir("mpw-")
        stack.callback(remove_tree, wsgi)
        shutil.copytree(WSGI / "python", wsgi, dirs_exist_ok=True)
        make_readable(wsgi)
        for row in rows:
            settings = {"threads": THREADS, "extra": UNLIMITED, **row.settings}
            if row.server is WsgiHttpd:
                settings["env"] = {"PYTHONPATH": str(wsgi)}
            servers.append(
                stack.enter_context(contextlib.closing(row.server(packages=packages, site=row.site, **settings)))
            )
            answer = servers[-1].get(row.path)
            if answer.status != 200:
                raise AssertionError(f"{row.name}: {answer.status}\n{servers[-1].log()}")
            _ab(servers[-1], row, requests // 10)
        for _ in range(rounds):
            for row, server in zip(rows, servers, strict=True):
                before = _cpu_seconds(server)
                row.rates.append(_ab(server, row, requests))
                row.cpu.append((_cpu_seconds(server) - before) / requests * 1e6)


def _cpu_seconds(server: Httpd) -> float:
    ticks = 0
    for child in server.children():
        # The command name may hold spaces and brackets: what follows the last bracket is regular.
        user, system = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


def _ab(server: Httpd, row: Row, requests: int) -> float:
    command = [AB, "-q", "-k", "-c", str(CLIENTS), "-n", str(requests), server.url + row.path]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed = re.search(r"Non-2xx responses:\s+(\d+)", output)
    if failed:
        raise AssertionError(f"{row.name}: {failed[0]}")
    rate = re.search(r"Requests per second:\s+([\d.]+)", output)
    if rate is None:
        raise AssertionError(output)
    return float(rate[1])


def table(title: str, rows: list[Row]) -> str:
    """One line a row: the medians, and how many times the first row's rate and processor time."""
    first, cpu = median(rows[0].rates), median(rows[0].cpu)
    lines = [
        f"{title} (worker, {THREADS} threads, one child, {CLIENTS} kept connections, Python {sys.version.split()[0]})"
    ]
    lines += [
        f"  {row.name:40} {median(row.rates):8.0f}/s {median(row.cpu):6.0f} us of processor time"
        + (
            f"   {rows[0].name} is {first / median(row.rates):.2f} times as fast, and takes {cpu / median(row.cpu):.2f}"
            if row is not rows[0]
            else ""
        )
        for row in rows
    ]
    return "\n".join(lines)


def as_json(rows: list[Row]) -> dict[str, object]:
    return {
        row.name: {
            "per_second": round(median(row.rates)),
            "cpu_us": round(median(row.cpu)),
            "rounds": [round(rate) for rate in row.rates],
        }
        for row in rows
    }
