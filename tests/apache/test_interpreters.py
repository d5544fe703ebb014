"""Every interpreter of a server reached by one PythonPath expression, and those that mod_python itself loses."""

from __future__ import annotations

import re

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
    for _ in range(10):
        for response in server.burst(3, ["/a/x", "/b/x", "/c/x"]):
            # Two phases of one request may well be served by two interpreters, each with its own modules.
            assert re.fullmatch(rf"{server.site}/[abc]/ 1 (True|False) version 1", response.text), response.text
    server.stop()
    assert "exit signal" not in server.log()
    assert "named by a directory" in server.log()
