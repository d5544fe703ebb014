"""Every place where mod_python imports a module: phases, filters, connection handlers, includes, PythonImport, PSP."""

from __future__ import annotations

import re
import socket
import threading

import pytest
from servers.base import free_port, wait_until

PHASES = """
from mod_python import apache
import state

def note(req):
    state.seen.append((req.phase, id(req), __mp_info__.instance))
    return apache.OK

def declined(req):
    note(req)
    return apache.DECLINED

postreadrequesthandler = headerparserhandler = accesshandler = fixuphandler = loghandler = cleanuphandler = note
transhandler = authenhandler = authzhandler = typehandler = declined

def handler(req):
    note(req)
    req.content_type = "text/plain"
    req.write("version 1")
    return apache.OK
"""


def test_all_phases_of_a_request_see_one_instance_and_the_next_request_the_new_one(httpd) -> None:
    directives = "\n".join(
        f"Python{phase}Handler all" for phase in ("HeaderParser", "Access", "Fixup", "Log", "Cleanup")
    )
    server = httpd(
        site={
            "all.py": PHASES,
            "state.py": "if 'seen' not in globals(): seen = []\n",
            "show.py": "from mod_python import apache\nimport state\n"
            "def handler(req):\n    req.content_type = 'text/plain'\n    req.write(repr(state.seen))\n"
            "    return apache.OK\n",
            ".htaccess": f"PythonHandler all\n{directives}\n<Files show.py>\nPythonHandler show\n</Files>\n",
        },
        handler="all",
    )
    assert server.get("/x").text == "version 1"
    server.edit("all.py", PHASES.replace("version 1", "version 2"))
    assert server.get("/x").text == "version 2"
    phases = {f"Python{phase}Handler" for phase in ("Access", "Fixup", "", "Log", "Cleanup")}

    def all_seen() -> bool:
        # Two of the phases come after the answer: another thread may still be about to run them.
        shown = eval(server.get("/show.py").text)
        return all(phases <= {phase for phase, _, seen in shown if seen == instance} for instance in (1, 2))

    wait_until(all_seen, what=f"{phases} of both instances")


def test_an_edit_between_two_phases_is_not_seen_by_the_request(httpd) -> None:
    page = """
from mod_python import apache
import os, time
VERSION = 1
def accesshandler(req):
    req.access_saw = VERSION
    path = os.path.join(os.path.dirname(__file__), "flag")
    deadline = time.monotonic() + 60
    if "hold" in (req.args or ""):
        apache.log_error("it is held")
    while "hold" in (req.args or "") and not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return apache.OK
def handler(req):
    req.content_type = "text/plain"
    req.write("%s %s" % (req.access_saw, VERSION))
    return apache.OK
"""
    server = httpd(
        site={"page.py": page, ".htaccess": "PythonAccessHandler page\nPythonHandler page\n"}, handler="page"
    )
    assert server.get("/x").text == "1 1"
    answers = []
    held = threading.Thread(target=lambda: answers.append(server.get("/x?hold").text))
    held.start()
    server.wait_for_log("it is held")
    server.edit("page.py", page.replace("VERSION = 1", "VERSION = 2"))
    assert server.get("/x").text == "2 2"
    server.write("flag", "")
    held.join()
    assert answers == ["1 1"]


@pytest.mark.parametrize(
    "handler",
    ["{site}/sub/page.py", "~/sub/page.py", "sub/page", "page::Class.method", "page::handler"],
)
def test_a_handler_is_named_by_file_by_name_or_by_object(httpd, handler: str) -> None:
    page = """
from mod_python import apache
def handler(req):
    req.content_type = "text/plain"
    req.write("version 1 %s" % __file__.rsplit("/", 2)[-2:])
    return apache.OK
class Class:
    def __init__(self, req):
        self.req = req
    def method(self, req):
        assert self.req is req
        return handler(req)
"""
    server = httpd(site={"sub/page.py": page, "page.py": page, "index.html": ""}, handler="nobody")
    server.write(".htaccess", f"PythonHandler {handler.format(site=server.site)}\n")
    first = server.get("/x")
    assert (first.status, first.text[:9]) == (200, "version 1"), server.log()
    for name in ("sub/page.py", "page.py"):
        server.edit(name, page.replace("version 1", "version 2"))
    assert server.get("/x").text[:9] == "version 2"


def test_nothing_is_put_on_sys_path(httpd) -> None:
    page = (
        "import sys\nfrom mod_python import apache\n"
        "def handler(req):\n    req.content_type = 'text/plain'\n    req.write(repr(sys.path))\n    return apache.OK\n"
    )
    server = httpd(site={"page.py": page}, handler="page")
    assert str(server.site) not in server.get("/x").text


def test_a_page_called_mpool_or_handlers_does_not_hide_the_packages(httpd) -> None:
    page = "import mpool, handlers\ndef index(req):\n    return mpool.__file__ + ' ' + handlers.__file__\n"
    server = httpd(site={"page.py": page, "mpool.py": "1 / 0", "handlers.py": "1 / 0"})
    answer = server.get("/page")
    assert answer.status == 200 and str(server.site) not in answer.text, server.log()


def test_a_filter_sees_what_its_request_has_imported_though_the_file_has_changed(httpd) -> None:
    flt = """
def outputfilter(filter):
    import shared
    text = filter.read()
    while text:
        filter.write(text + b" filter %d" % shared.version)
        text = filter.read()
    if text is None:
        filter.close()
"""
    page = """
from mod_python import apache
import os, time
def handler(req):
    import shared
    path = os.path.join(os.path.dirname(__file__), "flag")
    deadline = time.monotonic() + 60
    if req.args:
        apache.log_error("it is held")
    while req.args and not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    req.content_type = "text/plain"
    req.write("page %d" % shared.version)
    return apache.OK
"""
    server = httpd(
        site={"flt.py": flt, "page.py": page, "shared.py": "version = 1"},
        handler="page\nPythonOutputFilter flt OUT\nSetOutputFilter OUT",
    )
    answers: list[str] = []
    held = threading.Thread(target=lambda: answers.append(server.get("/x?hold").text))
    held.start()
    server.wait_for_log("it is held")
    server.edit("shared.py", "version = 2")
    assert server.get("/x").text == "page 2 filter 2"
    server.write("flag", "")
    held.join()
    assert answers == ["page 1 filter 1"]


def test_input_and_output_filters_reload(httpd) -> None:
    filters = """
def outputfilter(filter):
    text = filter.read()
    while text:
        filter.write(text.replace(b"BODY", b"out1"))
        text = filter.read()
    if text is None:
        filter.close()
def inputfilter(filter):
    text = filter.read()
    while text:
        filter.write(text.upper())
        text = filter.read()
    if text is None:
        filter.close()
"""
    page = """
from mod_python import apache
def handler(req):
    body = req.read()
    req.content_type = "text/plain"
    req.write("BODY %s" % body.decode())
    return apache.OK
"""
    server = httpd(
        site={"flt.py": filters, "page.py": page},
        handler="page\nPythonOutputFilter flt OUT\nPythonInputFilter flt IN\nSetOutputFilter OUT\nSetInputFilter IN",
    )
    assert server.post("/x", b"abc").text == "out1 ABC", server.log()
    server.edit("flt.py", filters.replace("out1", "out2"))
    assert server.post("/x", b"abc").text == "out2 ABC", server.log()


def test_what_a_filter_writes_is_what_is_sent(httpd) -> None:
    """One text after another in the same place of memory, of which mod_python itself may hold none."""
    flt = """
def outputfilter(filter):
    while filter.read():
        pass
    for letter in "abcd":
        filter.write((letter * 5000).encode())
        filter.write(letter * 5000)
    filter.softspace = 1
    assert filter.softspace == 1 and not filter.is_input
    filter.close()
"""
    server = httpd(
        site={"flt.py": flt, "page.txt": "x"},
        handler="flt\nSetHandler default-handler\nPythonOutputFilter flt OUT\nSetOutputFilter OUT",
    )
    assert server.get("/page.txt").body == b"".join(10000 * letter for letter in (b"a", b"b", b"c", b"d"))


def test_a_connection_handler_reloads(httpd) -> None:
    echo = """
from mod_python import apache
def connectionhandler(conn):
    if conn.local_addr[1] != PORT:
        return apache.DECLINED
    conn.write(b"version 1\\n")
    return apache.OK
"""
    port = free_port()
    text = f"PORT = {port}" + echo
    server = httpd(site={"page.py": "def index(req): return 'x'"}, extra="")
    directory = server.site
    server.write("echo.py", text)
    server.stop()
    server._settings["extra"] = (
        f"Listen 127.0.0.1:{port}\n<VirtualHost 127.0.0.1:{port}>\n"
        f"PythonConnectionHandler {directory}/echo.py\n</VirtualHost>\n"
    )
    server.start()

    def say() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"\n")  # the kernel hands a connection over when it has something to read
            return connection.makefile("rb").readline()

    assert say() == b"version 1\n", server.log()
    server.edit("echo.py", text.replace("version 1", "version 2"))
    assert say() == b"version 2\n", server.log()


def test_python_import_runs_managed_modules_and_calls_functions_without_arguments(httpd) -> None:
    page = "import sys, warm\ndef index(req): return '%s %s' % (warm.started, sys.modules['plain'].x)"
    server = httpd(site={"page.py": page})
    server.write("warm.py", "started = []\ndef start(): started.append(1)\n")
    server.write("lib/plain.py", "x = 'a module of PythonPath'")
    server.stop()
    server._settings["before"] = (
        f"PythonPath \"sys.path + ['{server.site}/lib']\"\n"
        f"PythonImport {server.site}/warm.py::start main_interpreter\nPythonImport plain main_interpreter\n"
    )
    server.start()
    assert server.get("/page").text == "[1] a module of PythonPath", server.log()


def test_each_connection_and_each_python_import_sees_the_present_file(httpd) -> None:
    """There is no request that could go on seeing what it has seen: what they import is remembered for them only."""
    port = free_port()
    echo = f"""
from mod_python import apache
def connectionhandler(conn):
    if conn.local_addr[1] != {port}:
        return apache.DECLINED
    import beside
    first = beside
    conn.write(b"%d" % beside.version)
    while conn.readline().strip():
        import beside
        conn.write(b" %d %d" % (beside.version, beside is first))
    conn.write(b"\\n")
    return apache.OK
"""
    server = httpd(site={"page.py": "def index(req): return 'x'"})
    server.write("echo.py", echo)
    server.write("beside.py", "version = 1")
    server.write("warm.py", "import beside\ndef start():\n    from mod_python import apache\n"
                 "    apache.log_error('imported %d' % beside.version)")  # fmt: skip
    server.stop()
    server._settings["before"] = f"PythonImport {server.site}/warm.py::start main_interpreter\n"
    server._settings["extra"] = (
        f"Listen 127.0.0.1:{port}\n<VirtualHost 127.0.0.1:{port}>\n"
        f"PythonConnectionHandler {server.site}/echo.py\n</VirtualHost>\n"
    )
    server.start()
    server.wait_for_log("imported 1")

    def say(*lines: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            stream = connection.makefile("rwb")
            stream.write(b"begin\n")
            stream.flush()
            assert stream.read(1) in (b"1", b"2")
            for line in lines:
                server.edit("beside.py", line.decode())
                stream.write(b"again\n")
                stream.flush()
            stream.write(b"\n")
            stream.flush()
            return stream.readline()

    assert say() == b" 1 1\n", server.log()
    assert say(b"version = 2") == b" 1 1 1 1\n", "a connection goes on seeing what it has seen"
    assert say() == b" 2 1\n", server.log()


def test_ssi_code_imports_relative_to_the_including_file(httpd) -> None:
    server = httpd(
        site={
            "sub/page.shtml": '<!--#python exec="import helper" --><!--#python eval="helper.text" -->',
            "sub/helper.py": "text = 'version 1'",
            ".htaccess": "Options +Includes\nAddType text/html .shtml\nAddOutputFilter INCLUDES .shtml\n",
        },
        handler=None,
    )
    assert server.get("/sub/page.shtml").text.strip() == "version 1", server.log()
    server.edit("sub/helper.py", "text = 'version 2'")
    assert server.get("/sub/page.shtml").text.strip() == "version 2", server.log()


def test_psp_pages_go_on_working_beside_the_importer(httpd) -> None:
    server = httpd(
        site={
            "page.psp": "<% import helper_for_psp %>\n<%= helper_for_psp.text %>",
            "lib/helper_for_psp.py": "text = 'from the lib'",
            ".htaccess": "AddHandler mod_python .psp\nPythonHandler mod_python.psp\n",
        },
        handler="mod_python.psp",
    )
    server.write("page.psp", "<%\nfrom mod_python import apache\n"
                 "helper = apache.import_module('~/lib/helper_for_psp.py')\n%><%= helper.text %>")  # fmt: skip
    assert "from the lib" in server.get("/page.psp").text, server.log()


def test_stock_publisher_pages_are_managed_modules_with_hooks(httpd) -> None:
    page = """
import os
VERSION = 1
if "token" not in globals():
    token = os.urandom(4).hex()
def __mp_clone__(module):
    module.token = token
def index(req):
    return "%s %s %s" % (VERSION, token, __name__)
"""
    server = httpd(site={"page.py": page}, handler="mod_python.publisher")
    version, token, name = server.get("/page").text.split()
    assert version == "1" and name.startswith("_mp_")
    server.edit("page.py", page.replace("VERSION = 1", "VERSION = 2"))
    assert server.get("/page").text.split() == ["2", token, name], server.log()


def test_a_handler_added_by_req_add_handler_is_imported_by_the_rules(httpd) -> None:
    page = """
from mod_python import apache
def handler(req):
    req.content_type = "text/plain"
    req.write("first ")
    req.add_handler("PythonHandler", "other::second")
    return apache.OK
"""
    other = "from mod_python import apache\ndef second(req):\n    req.write('version 1')\n    return apache.OK\n"
    server = httpd(site={"page.py": page, "other.py": other}, handler="page")
    assert server.get("/x").text == "first version 1", server.log()
    server.edit("other.py", other.replace("version 1", "version 2"))
    assert server.get("/x").text == "first version 2", server.log()


def test_subrequests_and_internal_redirects_share_the_requests_modules(httpd) -> None:
    page = """
from mod_python import apache
import shared
def handler(req):
    req.content_type = "text/plain"
    if req.uri == "/outer":
        req.internal_redirect("/inner")
        return apache.OK
    import shared as again
    req.write("%s %s" % (again is shared, __mp_info__.instance))
    return apache.OK
"""
    server = httpd(site={"page.py": page, "shared.py": ""}, handler="page")
    assert server.get("/outer").text == "True 1", server.log()


def test_one_python_path_expression_reaches_every_interpreter(httpd) -> None:
    page = (
        "VERSION = 1\nfrom mod_python import apache\n"
        "def handler(req):\n    req.content_type = 'text/plain'\n"
        "    req.write('%s %s %s' % (VERSION, apache.interpreter, __name__[:4]))\n    return apache.OK\n"
    )
    server = httpd(
        site={"a/page.py": page, "b/page.py": page,
              "a/.htaccess": "PythonInterpreter of_a\nPythonHandler page\n",
              "b/.htaccess": "PythonInterpreter of_b\nPythonHandler page\n"},
        handler="nobody",
        extra='PythonPath "__import__(\'handlers.importer\').importer.python_path(sys.path)"\n',
    )  # fmt: skip
    for name in "ab":
        assert server.get(f"/{name}/x").text == f"1 of_{name} _mp_", server.log()
        server.edit(f"{name}/page.py", page.replace("VERSION = 1", "VERSION = 2"))
        assert server.get(f"/{name}/x").text == f"2 of_{name} _mp_", server.log()


@pytest.mark.parametrize(
    ("interpreters", "is_legacy"), [("*", True), ("other main_interpreter", True), ("other", False)]
)
def test_the_legacy_option_leaves_mod_pythons_own_importer(httpd, interpreters: str, is_legacy: bool) -> None:
    server = httpd(
        site={"page.py": "def handler(req):\n    req.write(__name__)\n    return 0\n"},
        before=f'PythonOption mod_python.legacy.importer "{interpreters}"\n',
        handler="page",
    )
    assert (server.get("/x").text == "page") is is_legacy
    assert ("mod_python.legacy.importer names this interpreter" in server.log()) is is_legacy


def test_autoreload_off_is_heeded_and_an_argument_wins(httpd) -> None:
    page = """
from mod_python import apache
def handler(req):
    req.content_type = "text/plain"
    reload = {"": None, "on": 1}[req.args or ""]
    req.write("%s %s" % (VERSION, apache.import_module("~/util.py", autoreload=reload).VERSION))
    return apache.OK
VERSION = 1
"""
    server = httpd(
        site={"page.py": page, "util.py": "VERSION = 1", ".htaccess": "PythonAutoReload Off\n"}, handler="page"
    )
    assert server.get("/x").text == "1 1"
    server.edit("page.py", page.replace("VERSION = 1", "VERSION = 2"))
    server.edit("util.py", "VERSION = 2")
    assert server.get("/x").text == "1 1"
    assert server.get("/x?on").text == "1 2"


def test_the_importers_functions_are_mod_pythons_after_install(httpd) -> None:
    page = """
from mod_python import apache
def handler(req):
    req.content_type = "text/plain"
    if req.args == "freeze":
        apache.freeze_modules()
    info = apache.module_info(__name__)
    assert info.file == __file__ and info.module.handler is handler
    assert __name__ in apache.modules_graph() and __name__ in apache.request_modules_graph(1)
    req.write("VERSION %s %s %s %s" % (
        apache.get_current_options()["mine"], apache.get_current_config()["PythonAutoReload"],
        apache.get_handler_root(), apache.ximport_module.__module__))
    return apache.OK
"""
    server = httpd(
        site={
            "sub/page.py": page.replace("VERSION", "1"),
            "sub/.htaccess": "PythonHandler page\nPythonOption mine of_sub\nPythonAutoReload On\n",
        },
        handler="nobody",
    )
    expected = f"of_sub 1 {server.site}/sub mod_python.apache"
    assert server.get("/sub/x").text == f"1 {expected}", server.log()
    server.edit("sub/page.py", page.replace("VERSION", "2"))
    assert server.get("/sub/x?freeze").text == f"2 {expected}", server.log()
    server.edit("sub/page.py", page.replace("VERSION", "3"))
    assert server.get("/sub/x").text == f"2 {expected}", server.log()


def test_imports_by_a_thread_and_by_a_cleanup_of_the_child_work_and_see_the_present_file(httpd) -> None:
    page = """
import threading
from mod_python import apache
FILE = __file__.replace("page.py", "util.py")

def load():
    return apache.import_module(FILE).VERSION

def cleanup(data):
    apache.log_error("the cleanup has imported %s" % load())

if "registered" not in globals():
    registered = True
    apache.register_cleanup(cleanup)

def handler(req):
    seen = [load()]
    thread = threading.Thread(target=lambda: seen.append(load()))
    thread.start()
    thread.join()
    req.content_type = "text/plain"
    req.write(repr(seen))
    return apache.OK
"""
    server = httpd(site={"page.py": page, "util.py": "VERSION = 1"}, handler="page")
    assert server.get("/x").text == "[1, 1]", server.log()
    server.edit("util.py", "VERSION = 2")
    assert server.get("/x").text == "[2, 2]", server.log()
    server.edit("util.py", "VERSION = 3")
    server.stop()
    assert "the cleanup has imported 3" in server.log()


def test_the_debug_page_tells_the_module_and_its_importer_and_no_values(httpd) -> None:
    server = httpd(
        site={
            "page.py": "from mod_python import apache\nimport util\n"
            "def handler(req):\n    password = 'hunter2'\n    req.write(str(util.x))\n    return apache.OK\n",
            "util.py": "x = 1",
            ".htaccess": "PythonDebug On\n",
        },
        handler="page",
    )
    assert server.get("/x").status == 200
    server.edit("util.py", "secret = 'hunter2'\nx = undefined_name  # here\n")
    answer = server.get("/x")
    assert answer.status == 500
    assert "x = undefined_name  # here" in answer.text
    assert re.search(r"Failed in module .*util\.py.*instance 1, generation \d", answer.text.replace("&#x27;", "'"))
    assert "MODULE CACHE DETAILS" in answer.text and "page.py" in answer.text
    assert "hunter2" not in answer.text
    server.edit("util.py", "x = 2")
    assert server.get("/x").status == 200


def test_the_log_has_the_importers_lines_where_debug_is_on(httpd) -> None:
    page = (
        "from mod_python import apache\nVERSION = 1\ndef __mp_clone__(m): 1 / 0\ndef __mp_purge__(): pass\n"
        "def handler(req):\n    req.write('x')\n    return apache.OK\n"
    )
    server = httpd(site={"page.py": page, ".htaccess": "PythonDebug On\n"}, handler="page")
    server.get("/x")
    server.edit("page.py", page.replace("VERSION = 1", "VERSION = 2"))
    server.get("/x")
    for word in ("Importing", "Reimporting", "Cloning", "Purging"):
        server.wait_for_log(rf"mod_python \(pid=\d+, interpreter='main_interpreter'\): {word} module '.*/page\.py'")


def test_handlers_and_filters_of_no_directory_are_found_in_the_document_root(httpd) -> None:
    page = (
        "from mod_python import apache\n"
        "def handler(req):\n    req.content_type = 'text/plain'\n"
        "    req.write('root ' + apache.get_handler_root())\n    return apache.OK\n"
    )
    flt = (
        "def outputfilter(filter):\n    text = filter.read()\n    while text:\n"
        "        filter.write(text.upper())\n        text = filter.read()\n"
        "    if text is None:\n        filter.close()\n"
    )
    server = httpd(
        site={"page.py": page, "flt.py": flt},
        handler="nobody",
        extra="PythonOutputFilter flt UPPER\n<Location /here>\n"
        "SetHandler mod_python\nPythonHandler page\nSetOutputFilter UPPER\n</Location>\n",
    )
    assert server.get("/here/x").text == f"root {server.site}".upper(), server.log()


@pytest.mark.parametrize("page", ["def index(req): return 'x'", "from handlers.base import Handler\nclass P(Handler):\n"
                                  "    def get(self, req): return 'x'\nhandler = P.handler"])  # fmt: skip
def test_our_code_says_once_that_it_runs_without_the_importer(httpd, page: str) -> None:
    server = httpd(
        site={"page.py": page},
        before='PythonOption mod_python.legacy.importer "*"\n',
        handler="page" if "handler" in page else "handlers.publisher",
    )
    for _ in range(3):
        assert server.get("/page").text == "x", server.log()
    assert server.log().count("Add: PythonImport handlers.importer::install main_interpreter") == 1
