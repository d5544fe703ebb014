"""The files of apache-conf/: each boots as it stands, and holds what it says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from servers.base import wait_until
from servers.httpd import CONFIGURATIONS

FILES = sorted(path.name for path in CONFIGURATIONS.glob("*.conf"))
MPMS = ["worker.conf", "event.conf", "prefork.conf"]
ADDITIONS = sorted(set(FILES) - set(MPMS))

PAGE = """
def index(req):
    return "interpreter %s" % req.interpreter
"""
PAGE_WITH_ROWS = """
def index(req, conn):
    with conn.cursor() as cur:
        cur.execute("SELECT 6 * 7")
        return str(cur.fetchone()[0])
"""


def directives(name: str) -> list[list[str]]:
    """The lines of a file that are no comments, in words."""
    lines = (CONFIGURATIONS / name).read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line.strip() and not line.strip().startswith("#")]


def values(name: str) -> dict[str, str]:
    """The PythonOptions of a file, those in comments included."""
    text = (CONFIGURATIONS / name).read_text(encoding="utf-8")
    found = re.findall(r"^#?PythonOption (\S+) (.+)$", text, re.MULTILINE)
    return {key: value.strip('"') for key, value in found}


def complaints(log: str) -> list[str]:
    """Lines of an error log that say that something is wrong; not that a server of one process is busy."""
    found = re.findall(r"^.*:(?:emerg|alert|crit|error|warn)\].*$", log, re.MULTILINE)
    return [line for line in found if "server reached MaxRequestWorkers" not in line]


@pytest.mark.parametrize("name", FILES)
def test_each_file_boots_alone_and_serves_a_page(httpd, name):
    # On sid psycopg2 works nowhere unless the main interpreter has imported it first: what a file leaves to the one
    # that it is an addition to is done here.
    imports = ["PythonImport", "psycopg2", "main_interpreter"]
    server = httpd(conf=name, site={"index.py": PAGE}, before="" if imports in directives(name) else " ".join(imports))
    chosen = ["PythonInterpreter", "main_interpreter"] in directives(name)
    # Left to itself, mod_python takes an interpreter of the server's name.
    assert server.get("/").text == f"interpreter {'main_interpreter' if chosen else 'localhost'}"
    # Where nothing switches the importer on, that is said, and nothing else is.
    assert [line for line in complaints(server.log()) if chosen or "install has not run" not in line] == []


@pytest.mark.parametrize("mpm", MPMS)
@pytest.mark.parametrize("addition", ADDITIONS)
def test_each_addition_goes_with_each_mpm_and_a_page_with_rows(httpd, postgres, mpm, addition):
    options = {"mpool.conninfo": postgres.conninfo}
    server = httpd(conf=[mpm, addition], site={"index.py": PAGE_WITH_ROWS}, options=options)
    assert server.get("/").text == "42"
    assert complaints(server.log()) == []
    server.stop()
    postgres.wait_for_backends(0)


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("pool-options.conf", "production.conf")])
def test_an_edit_is_served_under_each_file(httpd, name):
    server = httpd(conf=name, site={"index.py": PAGE})
    assert server.get("/").status == 200
    server.write("index.py", "def index(req):\n    return 'edited'\n")
    wait_until(lambda: server.get("/").text == "edited", what="the edit is served")


@pytest.mark.parametrize("name", [*MPMS, "vhosts.conf", "development.conf", "production.conf"])
def test_psycopg2_is_imported_first_and_the_importer_next(name):
    imports = [words[1:] for words in directives(name) if words[0] == "PythonImport"]
    assert imports[-1] == ["psycopg2", "main_interpreter"]
    assert imports[-2] == ["handlers.importer::install", "main_interpreter"]
    assert {module for module, _ in imports[:-1]} == {"handlers.importer::install"}


@pytest.mark.parametrize("name", MPMS)
def test_what_protects_a_site_that_waits_for_a_database_is_there(name):
    present = {words[0] for words in directives(name)}
    assert {"KeepAlive", "RequestReadTimeout", "GracefulShutdownTimeout", "MaxConnectionsPerChild"} <= present
    keep_alive = dict(words[:2] for words in directives(name) if words[0].startswith("KeepAlive"))
    assert keep_alive.get("KeepAliveTimeout") == "2" or keep_alive["KeepAlive"] == "Off"


# What README.rst says of each file, phrase by phrase, and the lines that make it true.
README_SAYS: dict[str, dict[str, list[str]]] = {
    "worker.conf": {
        "the reference: the worker MPM": ["<IfModule mpm_worker_module>"],
        "one interpreter": ["PythonInterpreter main_interpreter"],
        "one pool in each process": ["PythonImport handlers.importer::install main_interpreter"],
    },
    "event.conf": {
        "the event MPM": ["<IfModule mpm_event_module>"],
        "Debian's default": [],
    },
    "prefork.conf": {
        "the prefork MPM: a connection per process": ["<IfModule mpm_prefork_module>"],
    },
    "vhosts.conf": {
        "an interpreter for each virtual host": [f"PythonImport handlers.importer::install site_{n}" for n in "abc"],
        "with a pool of its own": [],  # tests/apache/test_mpms.py
    },
    "development.conf": {
        "every edit at once": ["PythonAutoReload On", "PythonOption handlers.check_interval 0"],
        "tracebacks in the browser": ["PythonDebug On"],
        "for this machine only": ["Require local"],
    },
    "production.conf": {
        "edits taken over calmly": ["PythonOption handlers.check_interval 2"],
        "or not at all": ["<IfDefine MPOOL_FROZEN>", "PythonAutoReload Off"],
        "nothing told to strangers": ["PythonDebug Off", "ServerTokens Prod", "ServerSignature Off", "TraceEnable Off"],
    },
    "pool-options.conf": {
        "every option with its unit and default": [],  # the last tests of this file
    },
}


@pytest.mark.parametrize("name", FILES)
def test_what_the_readme_says_of_a_file_is_in_it(name):
    readme = (CONFIGURATIONS.parent / "README.rst").read_text(encoding="utf-8")
    row = re.search(rf"^``{re.escape(name)}`` +(.+)$", readme, re.MULTILINE)
    assert row
    assert re.split(r"[,;] ", row[1]) == list(README_SAYS[name])
    written = [" ".join(words) for words in directives(name)]
    assert {line for lines in README_SAYS[name].values() for line in lines} - set(written) == set()


@pytest.mark.parametrize("name", MPMS)
def test_a_child_ends_some_day_and_its_threads_fit_its_pool(name):
    numbers = {words[0]: int(words[1]) for words in directives(name) if len(words) == 2 and words[1].isdecimal()}
    assert 1000 <= numbers["MaxConnectionsPerChild"] <= 100_000
    per_child = numbers.get("ThreadsPerChild", 1)
    assert numbers["MaxRequestWorkers"] == numbers["ServerLimit"] * per_child
    # At the limit, and in a graceful restart twice: what PostgreSQL takes by default, less those for its superuser.
    assert 2 * numbers["ServerLimit"] * min(10, per_child) <= 97
    # A page gives up waiting for a connection long before Apache gives up on the client.
    assert numbers["Timeout"] > 5 and numbers["GracefulShutdownTimeout"] >= numbers["Timeout"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_why(name):
    lines = (CONFIGURATIONS / name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert not [line for line in lines if len(line) > 120]


def virtual_host(name: str, interpreter: str) -> str:
    return f"<VirtualHost *>\nServerName {name}\nPythonInterpreter {interpreter}\n</VirtualHost>\n"


def test_each_virtual_host_has_the_interpreter_it_names_and_sees_edits(httpd):
    hosts = "".join(virtual_host(f"{host}.test", f"site_{host}") for host in "abc")
    server = httpd(conf=["worker.conf", "vhosts.conf"], site={"index.py": PAGE}, extra=hosts)
    for host in "abc":
        assert server.get("/", {"Host": f"{host}.test"}).text == f"interpreter site_{host}"
    server.write("index.py", PAGE.replace("interpreter %s", "edited %s"))
    for host in "abc":
        wait_until(lambda name=host: server.get("/", {"Host": f"{name}.test"}).text == f"edited site_{name}", what=host)
    assert "install has not run" not in server.log()


def test_an_interpreter_without_its_line_is_named_in_the_log_once(httpd):
    server = httpd(
        conf=["worker.conf", "vhosts.conf"], site={"index.py": PAGE}, extra=virtual_host("a.test", "forgotten")
    )
    for _ in range(3):
        assert server.get("/", {"Host": "a.test"}).text == "interpreter forgotten"
    server.wait_for_log("interpreter='forgotten'.*handlers.importer::install has not run")
    assert server.log().count("install has not run") == 1


def test_production_frozen_sees_no_edit(httpd):
    server = httpd(
        conf=["worker.conf", "production.conf"], before="Define MPOOL_FROZEN", site={"index.py": PAGE, "other.py": PAGE}
    )
    assert server.get("/").status == 200
    server.write("index.py", "def index(req):\n    return 'edited'\n")
    server.write("other.py", "def index(req):\n    return 'loaded late'\n")
    # A page that is loaded now shows that the new files are there, and old enough to be taken.
    wait_until(lambda: server.get("/other").text == "loaded late", what="the other page is loaded")
    assert server.get("/").text == "interpreter main_interpreter"


def test_production_throttled_sees_an_edit(httpd):
    server = httpd(conf=["worker.conf", "production.conf"], site={"index.py": PAGE})
    assert server.get("/").status == 200
    server.write("index.py", "def index(req):\n    return 'edited'\n")
    wait_until(lambda: server.get("/").text == "edited", what="the edit is served")


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 200), ({"X-Forwarded-For": "192.0.2.1"}, 403), ({"Via": "1.1 proxy"}, 403)]
)
def test_development_is_for_this_machine_only(httpd, headers, status):
    server = httpd(conf=["worker.conf", "development.conf"], site={"index.py": PAGE})
    assert server.get("/", headers).status == status


def test_development_shows_the_traceback_and_production_does_not(httpd):
    broken = {"index.py": "def index(req):\n    raise RuntimeError('told to ' + 'the browser')\n"}
    shown = httpd(conf=["worker.conf", "development.conf"], site=broken).get("/")
    hidden = httpd(conf=["worker.conf", "production.conf"], site=broken).get("/")
    assert "RuntimeError: told to the browser" in shown.text
    assert hidden.status == 500 and "told to the browser" not in hidden.text


def test_pool_options_has_every_option_of_a_pool_with_its_default():
    from mpool.config import PoolConfig, options_from_pythonoption

    written = options_from_pythonoption(values("pool-options.conf"))
    textual = {
        f.name: f.default
        for f in dataclasses.fields(PoolConfig)
        if isinstance(f.default, bool | int | float | str) and f.name != "conninfo"
    }
    assert {key: value for key, value in written.items() if key in textual} == textual
    assert set(written) - set(textual) == {"conninfo", "pool"}


def test_pool_options_has_every_option_of_the_handlers_with_its_default():
    from handlers.pages.forms import DEFAULT_LIMITS
    from handlers.reload.context import settings

    written = {key: value for key, value in values("pool-options.conf").items() if not key.startswith("mpool.")}
    assert settings({}, written) == settings({}, {})
    limits = {f"handlers.{name}": str(value) for name, value in dataclasses.asdict(DEFAULT_LIMITS).items()}
    assert limits.items() <= written.items()
    known = {*limits, "handlers.keep_last_good", "handlers.check_interval", "mod_python.importer.path"}
    assert set(written) == known


def test_every_option_that_the_sources_name_is_in_pool_options():
    sources = Path(CONFIGURATIONS.parent, "handlers").rglob("*.py")
    named = {m for p in sources for m in re.findall(r"PythonOption (handlers\.\w+)", p.read_text(encoding="utf-8"))}
    assert named and named <= set(values("pool-options.conf"))
