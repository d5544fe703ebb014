"""The example site for tests: its rows in a database, the site on an Apache, and what its pages tell of themselves.

Fixtures of a test module: `rows = pytest.fixture(scope="module")(make_rows)` and `site = pytest.fixture(make_site)`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2

from servers.base import wait_until

SITE = Path(__file__).resolve().parents[2] / "handlers" / "examples"

# Each page, and a text that only real rows put into it.
PAGES = {
    "/": "</b> languages",
    "/countries": "Åland Islands",
    "/countries/show?code=FI": "Varsinais-Suomi",
    "/languages": "1 to 50 of ",
    "/currencies": "Swiss Franc",
    "/guestbook": "Sign the guest book",
    "/accounts": "Björn",
    "/naive": "Five subdivisions",
    "/carried": "open in the pool",
    "/backends": "this request&#x27;s is marked",
    "/readers": '<td id="reader-role">primary</td>',
}


def loader() -> Any:
    spec = importlib.util.spec_from_file_location("examples_load", SITE / "_setup" / "load.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(number: str) -> list[dict[str, str]]:
    """What iso-codes has for that standard on this machine."""
    found: list[dict[str, str]] = loader().records(loader().read()[number], number)
    return found


def make_rows(postgres: Any) -> Any:
    """The database with the site's rows in it."""
    conn = psycopg2.connect(postgres.conninfo)
    try:
        loader().load(conn)
    finally:
        conn.close()
    return postgres


def make_site(httpd: Callable[..., Any], rows: Any) -> Any:
    """The example site on one child: what one request sees the next one sees too."""
    rows.execute("TRUNCATE demo.note")
    rows.execute("UPDATE demo.account SET balance = 100")
    return httpd(site=SITE, options={"mpool.conninfo": rows.conninfo})


def footer(page: str) -> dict[str, str]:
    """What the foot of a page says: process, thread, interpreter, instance, generation, backend."""
    return dict(re.findall(r'<b id="(\w+)">([^<]*)</b>', page))


def edit(site: Any, name: str, old: str, new: str) -> None:
    source = (site.site / name).read_text(encoding="utf-8")
    assert old in source
    site.write(name, source.replace(old, new))


def fresh(site: Any, path: str, expected: str) -> str:
    """The page at *path* as soon as it has *expected* in it: a file is taken over when it is 50 ms old."""
    found: list[str] = []

    def arrived() -> bool:
        answer = site.get(path)
        assert answer.status == 200, answer.text
        found.append(answer.text)
        return expected in answer.text

    wait_until(arrived, what=f"{expected!r} in {path}")
    return found[-1]
