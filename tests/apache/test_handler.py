"""`Handler` on a real Apache: as PythonHandler, in other phases, as a filter's base, and across reloads."""

from __future__ import annotations

import base64
import json

import pytest

ACCOUNTS = """
from decimal import Decimal
from handlers.base import Handler, connection
from handlers.publisher import Response, HttpError

class Accounts(Handler):
    made = 0
    def __init__(self, req=None):
        super().__init__(req)
        type(self).made += 1
        self.log = []
    def prepare(self, req):
        self.log.append("prepare")
        if req.args == "stop":
            return "stopped"
    def finish(self, req, result):
        if isinstance(result, list):
            return [*self.log, *result, "finish"]
        return result
    def get(self, req, number: int = 0):
        self.log.append("get")
        return [number, self.req is req]
    def post(self, req, conn, amount: Decimal):
        cursor = conn.cursor()
        cursor.execute("select %s + 1", (amount,))
        return {"sum": cursor.fetchone()[0]}
    def delete(self, req):
        raise HttpError(409, "not empty")

class ReadOnly(Accounts):
    closed = ("post", "delete")

handler = Accounts.handler
"""


@pytest.fixture
def accounts(httpd, postgres):
    access = """
    <Files "readonly">
        PythonHandler accounts::ReadOnly.handler
    </Files>
    <Files "instance">
        PythonHandler accounts::Accounts.handler
    </Files>
    """
    site = {"accounts.py": ACCOUNTS, "readonly": "", "instance": "", ".htaccess": access}
    return httpd(site=site, handler="accounts", options={"mpool.conninfo": postgres.conninfo})


def allow(answer):
    return {name.strip() for name in answer.headers["Allow"].split(",")} - {"TRACE"}


@pytest.mark.parametrize("path", ["/", "/instance"])
def test_each_http_method_has_its_method(accounts, path):
    assert json.loads(accounts.get(path + "?number=7").body) == ["prepare", "get", 7, True, "finish"]
    assert json.loads(accounts.post(path, {"amount": "1.50"}).body) == {"sum": "2.50"}
    head = accounts.request("HEAD", path + "?number=7")
    assert (head.status, head.body, head.headers["Content-Type"]) == (200, b"", "application/json")
    assert accounts.request("DELETE", path).status == 409
    answer = accounts.request("PUT", path)
    assert (answer.status, allow(answer)) == (405, {"GET", "HEAD", "POST", "DELETE", "OPTIONS"})
    answer = accounts.request("OPTIONS", path)
    assert (answer.status, allow(answer)) == (204, {"GET", "HEAD", "POST", "DELETE", "OPTIONS"})


def test_a_subclass_may_close_methods(accounts):
    assert accounts.get("/readonly").status == 200
    answer = accounts.post("/readonly", {"amount": "1"})
    assert (answer.status, allow(answer)) == (405, {"GET", "HEAD", "OPTIONS"})


def test_prepare_may_answer_in_the_methods_place(accounts):
    assert accounts.get("/?stop").text == "stopped"


def test_fields_are_bound_and_checked_as_for_functions(accounts):
    answer = accounts.get("/?number=x")
    assert answer.status == 400 and "&#x27;number&#x27;" in answer.text
    assert accounts.post("/", {}).status == 400


def test_every_request_has_an_instance_of_its_own(accounts):
    answers = accounts.burst(12, "/?number=1")
    assert {answer.body for answer in answers} == {answers[0].body}


PHASES = """
from handlers.base import Handler
from handlers.pages.credentials import basic_credentials
from mod_python import apache

class Gate(Handler):
    def accesshandler(self, req):
        req.notes["seen"] = "access"
        return apache.HTTP_FORBIDDEN if req.args == "shut" else apache.OK
    def authenhandler(self, req):
        given = basic_credentials(req)
        if given and given.password == "eggs":
            req.user = given.user
            return apache.OK
        req.err_headers_out["WWW-Authenticate"] = 'Basic realm="gate"'
        return apache.HTTP_UNAUTHORIZED
    def fixuphandler(self, req):
        req.notes["seen"] += " fixup"
        return apache.OK
    def loghandler(self, req):
        apache.log_error("seen: " + req.notes.get("seen", ""), apache.APLOG_ERR)
    def get(self, req):
        return req.notes["seen"]

class Upper(Handler):
    def outputfilter(self, fltr):
        assert self.req is fltr.req
        data = fltr.read()
        while data:
            fltr.write(data.upper())
            data = fltr.read()
        if data is None:
            fltr.close()
"""


def test_a_handler_serves_in_every_phase(httpd):
    phases = "\n".join(f"Python{name}Handler phases::Gate.handler" for name in ("Access", "Fixup", "Log"))
    server = httpd(site={"phases.py": PHASES, ".htaccess": phases}, handler="phases::Gate.handler")
    mark = server.log_mark()
    assert server.get("/").text == "access fixup"
    server.wait_for_log("seen: access fixup", since=mark)
    assert server.get("/?shut").status == 403


def test_a_phases_method_may_be_named_itself(httpd):
    names = "PythonAccessHandler phases::Gate.accesshandler\nPythonFixupHandler phases::Gate.fixuphandler"
    server = httpd(site={"phases.py": PHASES, ".htaccess": names}, handler="phases::Gate.handler")
    assert server.get("/").text == "access fixup"
    assert server.get("/?shut").status == 403


def test_a_handler_authenticates(httpd):

    names = (
        'AuthType Ours\nAuthName "gate"\nRequire valid-user\nPythonAuthenHandler phases::Gate.handler\n'
        "PythonAccessHandler phases::Gate.handler\nPythonFixupHandler phases::Gate.handler\n"
    )
    server = httpd(site={"phases.py": PHASES, ".htaccess": names}, handler="phases::Gate.handler")
    assert server.get("/").status == 401
    good = {"Authorization": "Basic " + base64.b64encode(b"spam:eggs").decode()}
    assert server.get("/", good).status == 200
    assert server.get("/", {"Authorization": "Basic " + base64.b64encode(b"spam:x").decode()}).status == 401


def test_a_handler_is_the_base_of_a_filter(httpd):
    site = {"phases.py": PHASES, ".htaccess": "SetOutputFilter UPPER", "page.py": "def index(req): return 'quiet'"}
    server = httpd(site=site, extra="PythonOutputFilter ~/phases.py::Upper.outputfilter UPPER")
    assert server.get("/page").text == "QUIET"


def test_a_phase_that_the_class_does_not_serve_is_declined(httpd):
    site = {"phases.py": PHASES + "\nclass Empty(Handler): pass\n", "page.py": "def index(req): return 'ok'",
            ".htaccess": "PythonFixupHandler phases::Empty.handler"}  # fmt: skip
    assert httpd(site=site).get("/page").text == "ok"


@pytest.mark.parametrize("phase", ["PythonAccessHandler", "PythonAuthenHandler", "PythonAuthzHandler"])
def test_a_gate_without_a_keeper_is_shut_and_the_log_says_so(httpd, phase):
    misspelt = "\nclass Gate(Handler):\n    def acesshandler(self, req): return apache.HTTP_FORBIDDEN\n"
    rules = f"{phase} phases::Gate.handler\nAuthType Ours\nAuthName gate\nRequire valid-user\n"
    if phase == "PythonAuthzHandler":
        rules += "PythonAuthenHandler phases::Lets.handler\n"
        misspelt += "class Lets(Handler):\n    def authenhandler(self, req):\n        req.user = 'spam'\n"
    site = {"phases.py": PHASES + misspelt, "page.py": "def index(req): return 'secret'", ".htaccess": rules}
    server = httpd(site=site)
    good = {"Authorization": "Basic " + base64.b64encode(b"spam:eggs").decode()}
    response = server.get("/page", good)
    assert response.status == 500 and "secret" not in response.text
    assert "is to decide who may pass" in server.log()


STATUSES = """
from http import HTTPStatus
from handlers.base import Handler, connection
from mod_python import apache

class Old(Handler):
    def get(self, req, status="OK"):
        with connection(req).cursor() as cursor:
            cursor.execute("INSERT INTO status_seen VALUES (%s)", [status])
        if status == "OK":
            req.content_type = "text/plain"
            req.write("written")
        if status == "HTTP_MOVED_TEMPORARILY":
            req.headers_out["Location"] = "/elsewhere"
        return getattr(apache, status)
    def post(self, req): return HTTPStatus.CONFLICT
    def put(self, req): return 7

handler = Old.handler
"""


def test_a_status_that_a_method_returns_is_the_status(httpd, postgres):
    postgres.execute("DROP TABLE IF EXISTS status_seen")
    postgres.execute("CREATE TABLE status_seen (status text)")
    postgres.execute("GRANT ALL ON status_seen TO site")
    page = {"old.py": STATUSES, "plain.txt": "a file"}
    server = httpd(site=page, handler="old", options={"mpool.conninfo": postgres.conninfo})
    assert (server.get("/").status, server.get("/").text) == (200, "written")
    assert server.get("/?status=HTTP_OK").text == ""
    assert server.get("/?status=HTTP_NOT_FOUND").status == 404
    moved = server.get("/?status=HTTP_MOVED_TEMPORARILY")
    assert (moved.status, moved.headers["Location"]) == (302, "/elsewhere")
    assert server.get("/plain.txt?status=DECLINED").text == "a file"
    assert server.post("/", {}).status == 409
    assert server.request("PUT", "/").text == "7"
    # What has failed is rolled back.
    kept = [status for (status,) in postgres.execute("SELECT status FROM status_seen")]
    assert sorted(kept) == ["DECLINED", "HTTP_MOVED_TEMPORARILY", "HTTP_OK", "OK", "OK"]
    postgres.execute("DROP TABLE status_seen")


BASE = """
from handlers.base import Handler
class Base(Handler):
    def who(self): return "%s"
    def get(self, req): return self.who() + " " + self.detail()
"""
SHOP = """
from mod_python import apache
base = apache.import_module("./base.py")
class Shop(base.Base):
    def detail(self): return "%s"
handler = Shop.handler
"""


def test_a_subclass_reloads_with_its_base_in_another_file(httpd):
    server = httpd(site={"base.py": BASE % "one", "shop.py": SHOP % "a"}, handler="shop")
    assert server.get("/").text == "one a"
    for edit in range(5):
        server.write("base.py", BASE % f"base {edit}")
        wait_for(server, f"base {edit} " + ("a" if edit == 0 else f"shop {edit - 1}"))
        server.write("shop.py", SHOP % f"shop {edit}")
        wait_for(server, f"base {edit} shop {edit}")


def wait_for(server, text):
    from servers.base import wait_until

    wait_until(lambda: server.get("/").text == text, what=text)


RULES = """
from handlers.base import Handler
USERS = {"spam": "eggs"}

class Locked(Handler):
    __auth__ = USERS
    def get(self, req): return "secret"

class Method(Handler):
    def get(self, req):
        __auth__ = USERS
        return "secret"
    def put(self, req): return "open"

def hide(function):
    box = [function]
    def wrapper(self, req): return box[0](self, req)
    return wrapper

class Hidden(Handler):
    @hide
    def get(self, req):
        __auth__ = USERS
        return "secret"
"""


def test_access_rules_hold_for_handlers_too(httpd):
    import base64

    good = {"Authorization": "Basic " + base64.b64encode(b"spam:eggs").decode()}
    for cls, closed, opened in (("Locked", 401, 200), ("Method", 401, 200), ("Hidden", 500, 500)):
        server = httpd(site={"rules.py": RULES, "page.py": RULES}, handler=f"rules::{cls}.handler")
        published = httpd(site={"page.py": RULES})
        for answer in (server.get("/"), published.get(f"/page/{cls}")):
            assert answer.status == closed and b"secret" not in answer.body
        for answer in (server.get("/", good), published.get(f"/page/{cls}", good)):
            assert answer.status == opened
        if cls == "Method":
            assert server.request("PUT", "/").text == "open"
