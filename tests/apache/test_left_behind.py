"""What an old instance leaves behind is let go, once its last request has ended, and named in the log.

Wherever a page that knows nothing of hooks keeps its connection, no backend may be left of its old instances.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from servers.base import wait_until
from servers.httpd import Httpd
from servers.postgres import WAIT_FOR_THE_TEST, held_up

CONNECT = """
VERSION = {version}
import functools, typing
import psycopg2
from mod_python import apache

def _connect():
    return psycopg2.connect(apache.main_server.get_options()["test.conninfo"], application_name="left-behind")
"""

PLACES = {
    "a module name": "conn = _connect()\ndef _get(): return conn",
    "an instance": "class Box:\n    def __init__(self): self.conn = _connect()\n"
    "box = Box()\ndef _get(): return box.conn",
    "a dictionary": "box = {'a': [_connect()]}\ndef _get(): return box['a'][0]",
    "a class attribute": "class Box:\n    conn = _connect()\ndef _get(): return Box.conn",
    "a default argument": "def _get(conn=_connect()): return conn",
    "a closure": "def _make(conn): return lambda: conn\n_get = _make(_connect())",
    "a cursor": "cursor = _connect().cursor()\ndef _get(): return cursor.connection",
    "a cache": "@functools.lru_cache\ndef _get(): return _connect()",
    "the page's own class in Optional": "class Box:\n    conn = _connect()\n"
    "    def me(self) -> 'typing.Optional[Box]': return self\nMaybe = typing.Optional[Box]\n"
    "def _get(): return Box.conn",
    "a cycle": "class Box: pass\nbox = Box(); box.me = box; box.conn = _connect()\ndef _get(): return box.conn",
    "a psycopg2 pool": "import psycopg2.pool\n"
    "pool = psycopg2.pool.ThreadedConnectionPool(2, 4, apache.main_server.get_options()['test.conninfo'],"
    " application_name='left-behind')\nconn = pool.getconn()\ndef _get(): return conn",
}

PAGE = """
def index(req):
    with _get().cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return f"{VERSION} {cursor.fetchone()[0]}"
"""


def page(place: str, version: int) -> str:
    return CONNECT.format(version=version) + PLACES[place] + PAGE


@pytest.fixture
def serve(httpd, postgres) -> Callable[[str], Httpd]:
    """Serves `/page`."""
    return lambda text: httpd(site={"page.py": text}, options={"test.conninfo": postgres.conninfo})


@pytest.fixture
def backends(postgres) -> Callable[[], list[int]]:
    """The pids of those that the pages have connected to."""
    return lambda: [pid for pid, _, _ in postgres.backends("left-behind")]


@pytest.mark.parametrize("place", PLACES)
def test_a_connection_left_behind_is_closed_and_named(place: str, serve, backends) -> None:
    server = serve(page(place, 0))
    old = int(server.get("/page").text.split()[1])
    server.edit("page.py", page(place, 1))
    version, new = server.get("/page").text.split()
    assert version == "1" and int(new) != old
    wait_until(lambda: old not in backends(), what="it is closed")
    server.wait_for_log(r"instance 1 of '.*/page\.py' left behind and is rid of: ")
    assert server.get("/page").text == f"1 {new}"


def test_what_was_left_behind_stays_open_until_the_last_request_on_it_has_ended(serve, backends, postgres) -> None:
    text = page("a module name", 0).replace(
        "def index(req):", "def index(req, held: bool = False):\n    if held: _get().cursor().execute(WAIT)"
    )
    text = text.replace("VERSION = 0", f"VERSION = 0\nWAIT = {WAIT_FOR_THE_TEST!r}")
    server = serve(text)
    old = server.get("/page").text.split()[1]
    answers: list[str] = []
    slow = threading.Thread(target=lambda: answers.append(server.get("/page?held=yes").text))
    with held_up(postgres):
        slow.start()
        wait_until(lambda: [s for pid, _, s in postgres.backends("left-behind") if pid == int(old)] == ["active"])
        server.edit("page.py", text.replace("VERSION = 0", "VERSION = 1"))
        assert server.get("/page").text.split()[0] == "1"
        assert slow.is_alive() and int(old) in backends()
    slow.join()
    assert answers == [f"0 {old}"]
    wait_until(lambda: int(old) not in backends(), what="it is closed")


def test_a_request_keeps_the_old_connection_between_two_phases(httpd, postgres) -> None:
    """No frame of the old code runs meanwhile: only the importer knows that the request will come back to it."""
    text = page("a module name", 0) + (
        "def accesshandler(req):\n    return apache.OK\n"
        "def loghandler(req):\n"
        "    if req.uri == '/held': apache.log_error('the log phase is served by ' + index(req))\n"
        "    return apache.OK\n"
    )
    held = (
        "import psycopg2\nfrom mod_python import apache\ndef handler(req):\n    if req.uri == '/held':\n"
        "        with psycopg2.connect(req.get_options()['test.conninfo'], application_name='held') as conn:\n"
        f"            conn.cursor().execute({WAIT_FOR_THE_TEST!r})\n    return apache.OK\n"
    )
    server = httpd(
        site={
            "page.py": text,
            "held.py": held,
            ".htaccess": "PythonHandler held\nPythonAccessHandler page\nPythonLogHandler page\n",
        },
        handler="held",
        options={"test.conninfo": postgres.conninfo},
    )
    assert server.get("/x").status == 200
    slow = threading.Thread(target=server.get, args=("/held",))
    with held_up(postgres):
        slow.start()
        wait_until(lambda: [state for _, _, state in postgres.backends("held")] == ["active"])
        server.edit("page.py", text.replace("VERSION = 0", "VERSION = 1"))
        assert server.get("/x").status == 200
        for _ in range(20):  # time enough for a housekeeper that would not wait
            assert server.get("/x").status == 200
    slow.join()
    server.wait_for_log(r"the log phase is served by 0 \d+")
    server.wait_for_log(r"instance 1 of '.*/page\.py' left behind and is rid of: ")


def test_what_other_code_still_holds_stays_open_and_is_named(serve, backends) -> None:
    text = (
        page("a class attribute", 0)
        + "\nimport handlers\nhandlers.held = getattr(handlers, 'held', None) or Box.conn\n"
    )
    server = serve(text)
    old = int(server.get("/page").text.split()[1])
    server.edit("page.py", text.replace("VERSION = 0", "VERSION = 1"))
    assert server.get("/page").text.split()[0] == "1"
    server.wait_for_log(r"instance 1 of '.*/page\.py' left behind, and other code still holds: Box, connection")
    assert old in backends()


def test_an_old_function_alive_in_a_callback_does_not_keep_the_connection(serve, backends) -> None:
    text = page("a module name", 0) + (
        "\nimport handlers\nif not hasattr(handlers, 'callbacks'): handlers.callbacks = []\n"
        "handlers.callbacks.append(_get)\n"
    )
    server = serve(text)
    old = int(server.get("/page").text.split()[1])
    server.edit("page.py", text.replace("VERSION = 0", "VERSION = 1"))
    assert server.get("/page").text.split()[0] == "1"
    wait_until(lambda: old not in backends(), what="it is closed")


def test_a_thread_that_runs_on_with_the_old_namespace_keeps_its_connection(serve, backends) -> None:
    text = page("a module name", 0) + (
        "\nimport threading, time\n"
        "_end = threading.Event()\n"
        "def _work():\n"
        "    while not _end.wait(0.01):\n"
        "        with conn.cursor() as cursor: cursor.execute('SELECT 1')\n"
        "if VERSION == 0: threading.Thread(target=_work, daemon=True).start()\n"
    )
    server = serve(text)
    old = int(server.get("/page").text.split()[1])
    server.edit("page.py", text.replace("VERSION = 0", "VERSION = 1"))
    assert server.get("/page").text.split()[0] == "1"
    server.wait_for_log(r"instance 1 of '.*/page\.py' left behind, and other code still holds: conn, connection")
    assert old in backends()
    assert "NameError" not in server.log()


def test_a_failed_load_leaves_no_connection_behind(serve, backends) -> None:
    server = serve(page("a module name", 0))
    good = server.get("/page").text
    server.edit("page.py", page("a module name", 1) + "\n1 / 0\n")
    assert server.get("/page").text == good
    wait_until(
        lambda: backends() == [int(good.split()[1])],
        what="only the good one's is left",
    )
    server.wait_for_log(r"a failed load of '.*/page\.py' left behind and is rid of: conn, connection")


def test_a_removed_page_is_purged_and_its_connection_closed(serve, backends) -> None:
    text = page("a module name", 0) + "\ndef __mp_purge__(): apache.log_error('purged')\n"
    server = serve(text)
    assert server.get("/page").status == 200
    (server.site / "page.py").unlink()
    assert server.get("/page").status == 404
    server.write("other.py", "def index(req): return 'x'")
    server.get("/other")
    wait_until(lambda: not backends(), what="it is closed")
    assert server.log().count("purged") == 1


def test_purge_runs_once_at_the_end_of_a_child(serve, backends) -> None:
    text = page("a module name", 0) + "\ndef __mp_purge__(module): apache.log_error('purged ' + module.__file__)\n"
    server = serve(text)
    assert server.get("/page").status == 200
    server.stop()
    assert server.log().count("purged ") == 1


def test_a_page_that_keeps_its_request_holds_its_old_instance_for_a_while_only(serve, backends) -> None:
    keeping = "def index(req):\n    global kept\n    kept = req\n"
    server = serve(page("a module name", 0).replace("def index(req):\n", keeping))
    server.get("/page")
    (old,) = backends()
    server.edit("page.py", "from handlers.reload import retire\nretire.PATIENCE = 0.2\n" + page("a module name", 1))
    assert server.get("/page").text.split()[0] == "1"
    wait_until(lambda: old not in backends(), what="it is closed")
