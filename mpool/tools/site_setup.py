"""Filling a site's database before its first request: `SITE/_setup/schema.sql`, then `SITE/_setup/load.py`.

Run as a process of its own, as the account that the site will run as: what a site brings is never run as root.
    MPOOL_CONNINFO=... python3 -m mpool.tools.site_setup SITE
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from mpool.config import parse_conninfo

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_IS_EMPTY = """
    SELECT NOT EXISTS (
        SELECT FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind IN ('r', 'p', 'v', 'm') AND nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_'))
"""


class SetupError(Exception):
    """The site's own set-up failed; the text names the file and the cause."""


def is_empty(conn: Connection) -> bool:
    """Whether the database holds no table and no view of anybody's."""
    with conn.cursor() as cursor:
        cursor.execute(_IS_EMPTY)
        row = cursor.fetchone()
    return bool(row and row[0])


def set_up(site: Path, conn: Connection) -> None:
    """Run what *site* brings, in one transaction, which also commits it.

    schema.sql runs in an empty database only. load.py's `load(conn)` is called at every start: it is the site's to
    know whether its rows are there, and whether they are the right ones.
    """
    schema, loader = site / "_setup" / "schema.sql", site / "_setup" / "load.py"
    with conn:
        if schema.exists() and is_empty(conn):
            _run_schema(schema, conn)
        if loader.exists():
            _run_loader(loader, conn)


def _run_schema(schema: Path, conn: Connection) -> None:
    try:
        with conn.cursor() as cursor:
            cursor.execute(schema.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, psycopg2.Error) as error:
        raise SetupError(f"{schema}: {_one_line(error)}") from error


def _run_loader(loader: Path, conn: Connection) -> None:
    try:
        load = runpy.run_path(str(loader), run_name="_setup_load")["load"]
        load(conn)
        conn.commit()  # where load() has not done so
    except Exception as error:
        raise SetupError(f"{loader}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, (OSError, psycopg2.Error)) and text else f"{type(error).__name__}: {text}"


def main() -> int:
    (site,) = sys.argv[1:]
    conninfo = os.environ["MPOOL_CONNINFO"]
    try:
        parse_conninfo(conninfo)  # libpq's own words on a wrong one quote parts of it
        conn = psycopg2.connect(conninfo, application_name="mpool serve: set-up")
    except ValueError as error:
        print(error)
        return 1
    except psycopg2.Error as error:
        print(f"the database does not answer: {_one_line(error)}")
        return 1
    try:
        set_up(Path(site), conn)
    except SetupError as error:
        print(error)
        return 1
    finally:
        conn.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
