"""What README.rst shows works as it stands there."""

from __future__ import annotations

import re
import textwrap

import pytest
from servers.base import wait_until
from servers.httpd import CONFIGURATIONS, REPOSITORY

from mpool.config import options_from_pythonoption, parse_conninfo
from mpool.host.apache import DEFAULT_MAX_SIZE

README = (REPOSITORY / "README.rst").read_text(encoding="utf-8")


def code_block(language: str) -> str:
    """The first block of *language*."""
    found = re.search(rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", README, re.MULTILINE)
    assert found
    return textwrap.dedent(found[1]).strip() + "\n"


def test_the_page_is_ten_lines_and_answers(httpd, postgres):
    page = code_block("python")
    assert len(page.splitlines()) <= 10
    postgres.execute("DROP DATABASE IF EXISTS readme")
    postgres.execute("CREATE DATABASE readme OWNER site")
    conninfo = postgres.conninfo.replace("dbname=site", "dbname=readme")
    prepare = (
        "import mpool\n\ndef index(req, conn):\n    with conn.cursor() as cur:\n"
        "        cur.execute('CREATE SCHEMA demo; CREATE TABLE demo.country AS SELECT generate_series(1, 249)')\n"
        "    return 'prepared'\n"
    )
    server = httpd(site={"hello.py": page, "prepare.py": prepare}, options={"mpool.conninfo": conninfo})
    assert server.get("/prepare").text == "prepared"
    answer = server.get("/hello?name=you")
    assert re.fullmatch(r"Hello, you: backend \d+ knows 249 countries\.\n", answer.text)
    server.write("hello.py", page.replace("Hello", "Good evening"))
    backend = re.findall(r"\d+", answer.text)[0]
    edited = wait_until(lambda: re.search("Good evening.*\n", server.get("/hello?name=you").text), what="the edit")
    assert edited[0] == f"Good evening, you: backend {backend} knows 249 countries.\n"
    server.stop()
    postgres.wait_for_backends(0)
    postgres.execute("DROP DATABASE readme")


def test_the_lines_for_an_apache_of_ones_own_serve_a_page(httpd):
    lines = code_block("apache")
    include = re.search(r"^Include (/usr/local/share/mpool/apache-conf/(\w+\.conf))\n", lines, re.MULTILINE)
    assert include and include[2] == "worker.conf"
    # The fixture includes that very file; of the other lines only the directory is another one.
    rest = lines.replace(include[0], "").replace("/var/www/site", "@SITE@")
    assert "@SITE@" in rest
    server = httpd(site={"index.py": "def index(req):\n    return 'served'\n"}, handler=None, extra=rest)
    assert server.get("/").text == "served"


def test_every_sample_configuration_is_named_and_exists():
    named = set(re.findall(r"``(\w[-\w]*\.conf)``", README))
    assert named == {path.name for path in CONFIGURATIONS.glob("*.conf")}


@pytest.mark.parametrize("target", re.findall(r"make (\w+)", README))
def test_every_make_target_that_is_named_exists(target):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_numbers_of_a_fleet_are_those_of_its_configurations():
    limit = re.search(r"ServerLimit +(\d+)", (CONFIGURATIONS / "worker.conf").read_text(encoding="utf-8"))
    sum_of_it = re.search(r"3 x (\d+) x 1 x (\d+) = (\d+) with ``worker.conf``", README)
    assert limit and sum_of_it
    processes, max_size, total = map(int, sum_of_it.groups())
    assert processes == int(limit[1]) and max_size == DEFAULT_MAX_SIZE and total == 3 * processes * max_size
    pgbouncer = (REPOSITORY / "docker" / "fleet" / "pgbouncer.ini").read_text(encoding="utf-8")
    settings = dict(re.findall(r"^(\w+) = (.+)$", pgbouncer, re.MULTILINE))
    assert f"``max_db_connections`` of its PgBouncer, {settings['max_db_connections']}," in README
    assert f"``query_wait_timeout``, {settings['query_wait_timeout']} s" in README
    # Both pools, in both generations of a graceful restart.
    assert int(settings["max_client_conn"]) >= 2 * 2 * total


def test_the_conninfo_of_each_pool_of_a_fleet_is_an_option():
    section = README.partition("\nMany machines\n")[2]
    table = dict(re.findall(r'^    PythonOption (\S+) +"(.+)"$', section, re.MULTILINE)[:2])
    for name in ("default", "reader"):
        options = options_from_pythonoption(table, name)
        assert parse_conninfo(options["conninfo"])["host"] in ("db1,db2", "db2,db1")
