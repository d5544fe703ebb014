"""Fill the example site's database with Debian's iso-codes.

`mpool serve` calls `load(conn)` before it starts Apache. With a database of
your own, run this file: `python3 load.py "host=db dbname=site user=site"`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extras import execute_values

# This directory lies in the site: nothing here is to be reached by a URL.
__all__: list[str] = []

ISO_CODES = Path("/usr/share/iso-codes/json")
SCHEMA = Path(__file__).with_name("schema.sql")

STANDARDS = ("3166-1", "3166-2", "4217", "639-2", "639-3")

# Any constant: two loaders of one database wait for each other on it.
LOCK = 639_3166_4217

Row = tuple[Any, ...]
Record = Mapping[str, str]


class SourceMissing(FileNotFoundError):
    """The rows are not on this machine; the text says how to get them."""

    def __str__(self) -> str:
        return str(self.args[0])


def load(conn: Any, source: Path = ISO_CODES) -> int:
    """Bring the database behind *conn* up to date with iso-codes.

    One transaction: the site sees the old rows or the new ones, never half
    of them. Returns the number of rows written, 0 where the same files had
    been loaded before. Raises `SourceMissing`, or psycopg2's own error.
    """
    files = read(source)
    digest = fingerprint(files.values())
    try:
        with conn.cursor() as cur:
            written = 0 if is_loaded(cur, digest) else fill(cur, files, digest)
        conn.commit()
    except BaseException:
        conn.rollback()
        raise
    return written


def fill(cur: Any, files: Mapping[str, bytes], digest: str) -> int:
    """Make the tables anew and put all rows in; how many they are."""
    cur.execute(SCHEMA.read_text(encoding="utf-8"))
    written = 0
    for table, columns, rows in tables(files):
        execute_values(cur, f"INSERT INTO demo.{table} ({columns}) VALUES %s", rows, page_size=1000)
        written += len(rows)
    cur.execute("DELETE FROM demo.loaded")
    cur.execute("INSERT INTO demo.loaded (digest) VALUES (%s)", (digest,))
    return written


def read(source: Path = ISO_CODES) -> dict[str, bytes]:
    """The bytes of each standard's file, by the standard's number."""
    try:
        return {number: (source / f"iso_{number}.json").read_bytes() for number in STANDARDS}
    except OSError as error:
        raise SourceMissing(
            f"cannot read {error.filename} ({error.strerror}): "
            "the example site shows Debian's iso-codes; apt-get install iso-codes"
        ) from error


def fingerprint(files: Iterable[bytes]) -> str:
    """One digest for the rows and the tables they go to."""
    digest = hashlib.sha256(SCHEMA.read_bytes())
    for content in files:
        digest.update(content)
    return digest.hexdigest()


def is_loaded(cur: Any, digest: str) -> bool:
    """Whether the database holds exactly what *digest* stands for; from here on other loaders wait."""
    cur.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    cur.execute("SELECT to_regclass('demo.loaded') IS NOT NULL")
    if not cur.fetchone()[0]:
        return False
    cur.execute("SELECT EXISTS (SELECT FROM demo.loaded WHERE digest = %s)", (digest,))
    return bool(cur.fetchone()[0])


def tables(files: Mapping[str, bytes]) -> Sequence[tuple[str, str, list[Row]]]:
    """Table, columns and rows, in an order that suits the foreign keys."""
    countries, subdivisions, currencies, shortlist, languages = (records(files[number], number) for number in STANDARDS)
    in_639_2 = {language["alpha_3"] for language in shortlist}
    return (
        (
            "country",
            "alpha_2, alpha_3, numeric_code, flag, name, official_name",
            [
                (
                    c["alpha_2"],
                    c["alpha_3"],
                    c["numeric"],
                    c.get("flag", ""),
                    c.get("common_name") or c["name"],
                    c.get("official_name"),
                )
                for c in countries
            ],
        ),
        (
            "subdivision",
            "code, country, name, kind, parent",
            [(s["code"], s["code"].partition("-")[0], s["name"], s["type"], parent_of(s)) for s in subdivisions],
        ),
        (
            "currency",
            "code, numeric_code, name",
            [(c["alpha_3"], c["numeric"], c["name"]) for c in currencies],
        ),
        (
            "language",
            "code, alpha_2, name, scope, kind, in_639_2",
            [
                (
                    language["alpha_3"],
                    language.get("alpha_2"),
                    language["name"],
                    language["scope"],
                    language["type"],
                    language["alpha_3"] in in_639_2,
                )
                for language in languages
            ],
        ),
    )


def records(content: bytes, number: str) -> list[Record]:
    """The entries of one file; iso-codes keeps them under the standard's number."""
    entries: list[Record] = json.loads(content)[number]
    return entries


def parent_of(subdivision: Record) -> str | None:
    """The full code of the subdivision above; the files often leave the country out."""
    parent = subdivision.get("parent")
    if parent is None or "-" in parent:
        return parent
    return f"{subdivision['code'].partition('-')[0]}-{parent}"


def main(arguments: Sequence[str]) -> int:
    """The command line: one argument, the conninfo of the database to fill."""
    if len(arguments) != 1:
        print('usage: python3 load.py "host=... dbname=... user=..."', file=sys.stderr)
        return 2
    try:
        conn = psycopg2.connect(arguments[0])
        try:
            written = load(conn)
        finally:
            conn.close()
    except (SourceMissing, psycopg2.Error) as error:
        print("load.py:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    print(f"{written} rows loaded" if written else "up to date: nothing to load")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
