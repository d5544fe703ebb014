"""Every interpreter of a server reached by one PythonPath expression, and those that mod_python itself loses."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from servers.httpd import READY_PATH

# psycopg2 first: two interpreters that are its first importers at the same moment break it for the whole child.
EVERYWHERE = """
PythonPath "__import__('handlers.importer').importer.python_path(sys.path)"
PythonImport psycopg2 main_interpreter
"""

PAGE = """
from mod_python import apache

def fixuphandler(req):
    req.first_seen = __mp_info__
    return apache.OK

def handler(req):
    req.content_type = "text/plain"
    same = getattr(req, "first_seen", __mp_info__) is __mp_info__
    req.write(f"{apache.interpreter} {__mp_info__.instance} {same} version 1")
    return apache.OK
"""

NAMES = ["one.test", "two.test", "three.test"]


def test_a_python_path_reaches_interpreters_that_nothing_names(httpd) -> None:
    vhosts = "\n".join(f"<VirtualHost *>\nServerName {name}\nDocumentRoot @SITE@\n</VirtualHost>" for name in NAMES)
    server = httpd(
        conf=[],  # all of apache-conf/ names one interpreter for everything
        mpm="worker",
        site={"page.py": PAGE},
        handler="page",
        before=EVERYWHERE,
        extra=vhosts,
    )
    for name in NAMES:
        assert server.get("/x", {"Host": name}).text == f"{name} 1 True version 1"
    server.edit("page.py", PAGE.replace("version 1", "version 2"))
    for name in NAMES:
        assert server.get("/x", {"Host": name}).text == f"{name} 2 True version 2"
    for name in NAMES:
        assert len(re.findall(f"the importer is installed in interpreter '{name}'", server.log())) == 1


def test_children_with_an_interpreter_per_directory_end_without_a_crash(httpd) -> None:
    server = httpd(
        conf=[],
        mpm="worker",
        site={"page.py": PAGE, "a/x": "", "b/x": "", "c/x": ""},
        handler="page",
        before=EVERYWHERE,
        extra='<Directory "@SITE@">\nPythonFixupHandler page\nPythonInterpPerDirectory On\n</Directory>\n',
    )

    def ask(path: str) -> None:
        with server.session() as session:
            for _ in range(10):
                # Two phases of one request may well be served by two interpreters, each with its own modules.
                text = session.get(path).text
                assert re.fullmatch(rf"{server.site}/[abc]/ 1 (True|False) version 1", text), text
            # Answered when the cleanups of the request before it have run: in a child whose other threads have ended,
            # mod_python looks up their interpreter by a name in memory that is gone.
            assert session.get(READY_PATH).status == 200

    with ThreadPoolExecutor(3) as clients:
        list(clients.map(ask, ["/a/x", "/b/x", "/c/x"]))
    server.stop()
    assert "exit signal" not in server.log()
    assert "named by a directory" in server.log()


FIRST = """
from mod_python import apache

def write(text, result):
    def handler(req):
        req.content_type = "text/plain"
        req.write(text)
        return result
    return handler

class steps:
    def __init__(self, req): pass
    def one(self, req): return write("one ", apache.OK)(req)

two = write("two ", apache.OK)
last = write("last ", apache.DONE)
never = write("never ", apache.OK)

def leave(req):
    raise apache.SERVER_RETURN(apache.HTTP_FORBIDDEN)

def fail(req):
    raise RuntimeError("on purpose")

def upper(fltr):
    text = fltr.read()
    while text:
        fltr.write(text.upper())
        text = fltr.read()
    if text is None:
        fltr.close()
"""

SITES = {
    "steps.test": "PythonHandler first::steps.one\nPythonHandler first::two",
    "done.test": "PythonHandler first::last\nPythonHandler first::never",
    "leave.test": "PythonHandler first::leave",
    "fail.test": "PythonHandler first::fail",
    "filter.test": "SetHandler default-handler\nPythonOutputFilter first::upper UPPER\nSetOutputFilter UPPER",
    "publisher.test": "PythonHandler handlers.publisher",
}


def test_the_first_request_of_an_interpreter_is_already_served_by_our_dispatch(httpd) -> None:
    server = httpd(
        conf=[],
        mpm="worker",
        site={"first.py": FIRST, "page.txt": "text", "page.py": "def index(): return 'published'\n"},
        handler=None,
        before=EVERYWHERE,
        extra="\n".join(
            f'<VirtualHost *>\nServerName {name}\nDocumentRoot @SITE@\n<Directory "@SITE@">\nSetHandler mod_python\n'
            f"{lines}\n</Directory>\n</VirtualHost>"
            for name, lines in SITES.items()
        ),
    )
    assert server.get("/x", {"Host": "steps.test"}).text == "one two "
    assert server.get("/x", {"Host": "done.test"}).text == "last "
    assert server.get("/x", {"Host": "leave.test"}).status == 403
    assert server.get("/x", {"Host": "fail.test"}).status == 500
    assert server.get("/page.txt", {"Host": "filter.test"}).text == "TEXT"
    assert server.get("/page.py", {"Host": "publisher.test"}).text == "published"
    log = server.log()
    assert log.count("RuntimeError: on purpose") == 1
    assert "has not run" not in log
    # The second request, as the first.
    assert server.get("/x", {"Host": "steps.test"}).text == "one two "
    assert server.get("/x", {"Host": "done.test"}).text == "last "
