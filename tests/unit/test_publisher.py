"""What is published, how it is called, what its result becomes, and in which order answer and commit go."""

# ruff: noqa: E501  # tables of page sources, one a line

from __future__ import annotations

import datetime
import decimal
import errno
import json
import re
import types
import uuid

import pytest
from fake_request import OnQuietSocket, Request, make_page
from hypothesis import given
from hypothesis import strategies as st

from handlers import publisher
from handlers.pages import results, serving
from handlers.publisher import Response, not_modified, redirect
from handlers.request import leases
from mpool import PoolConflict, PoolTimeout, TooManyRequests


class Leased(OnQuietSocket):
    """A connection whose commits and rollbacks appear among the request's own events."""

    closed = 0
    autocommit = False
    status = 2  # psycopg2.extensions.STATUS_BEGIN

    def __init__(self, req, commit_fails=None):
        self.req, self.commit_fails = req, commit_fails

    def commit(self):
        if self.commit_fails:
            raise self.commit_fails
        self._end("commit")

    def rollback(self):
        self._end("rollback")

    def _end(self, how):
        self.status = 1
        self.req.events.append(how)


class ServerReturn(Exception):
    """As _apache.SERVER_RETURN."""


@pytest.fixture
def visit(monkeypatch):
    """Ask for a path of a page made from source; the status for the client, and the request in `visit.req`."""
    made = {}

    def get_connection(name, *, req):
        if ask.error:
            raise ask.error
        req.events.append("lease")
        return Leased(req, ask.commit_fails)

    def ask(source, path="page", **request):
        module = made.get(source) or made.setdefault(source, make_page(source))
        monkeypatch.setattr(publisher, "page_module", lambda req, filename: module)
        ask.req = req = Request(**request)
        req.path_info = "/" + path if path else ""
        req.gone = ask.gone
        status = publisher.handler(req)
        return req.status if status in (0, -2) else status

    ask.error = ask.commit_fails = None
    ask.gone = False
    monkeypatch.setattr(leases, "get_connection", get_connection)
    monkeypatch.setattr(leases, "release", lambda leased: leased.req.events.append("release"))
    monkeypatch.setattr(leases, "log", lambda level, message: ask.req.logged.append(message))
    monkeypatch.setattr(serving, "log", lambda level, message: ask.req.logged.append(message))
    monkeypatch.setitem(__import__("sys").modules, "_apache", types.SimpleNamespace(SERVER_RETURN=ServerReturn))
    return ask


# -- what is published -------------------------------------------------------------------------------------------------

SITE = """
import functools, os, subprocess
from os import getcwd
from subprocess import getoutput
from handlers.publisher import publish

VERSION = "1.0"
settings = {"password": "geheim"}
numbers = [1, 2]

def index(req):
    return "index"

def page(req):
    return "page"

def _private(req):
    return "private"

def helper(conn):
    return "helper"

@publish
def marked(conn):
    return "marked"

def größe(req):
    return "größe"

alias = page
anonymous = lambda req: "anonymous"
partial = functools.partial(page)
cached = functools.lru_cache(page)
foreign_partial = functools.partial(getoutput, "id")
foreign_cached = functools.lru_cache(getcwd)
foreign_given_own = functools.partial(sorted, key=page)
foreign_twice = functools.partial(functools.partial(getoutput), page)
bound_builtin = settings.keys

class _Hidden:
    def __init__(self, req): pass
    def __call__(self, req): return "hidden"

class Page:
    data = "data"
    inner_page = page
    def __init__(self):
        self.password = "geheim"
        self.function = page
        self.foreign = getoutput
        self.child = None
        self.lambda_ = lambda req: "data"
        self.private = _private
        self.partial = functools.partial(page)
        self.cls = _Hidden
        self.tool = publish(lambda: 42)
    def __call__(self, req):
        return "instance"
    def method(self, req):
        return "method"
    def _private(self, req):
        return "private"
    @staticmethod
    def static(req):
        return "static"
    @classmethod
    def clsmethod(cls, req):
        return cls.__name__
    @property
    def prop(self):
        raise AssertionError("a URL must not run a property")
    def __getattr__(self, name):
        raise AssertionError("a URL must not run __getattr__")

obj = Page()
obj.child = Page()

class Data:
    def __init__(self):
        self.value = 1
data = Data()

class Plain:
    def __call__(self, req):
        return "plain"
    def method(self, req, name="x"):
        return "plain method " + name

obj.method_of_another = Plain().method

@publish
class Chosen:
    def __init__(self, req):
        pass
    def __call__(self):
        return "chosen"
    def method(self):
        return "chosen method"

class ForRequests:
    def __init__(self, req, name="?"):
        self.name = name
    def __call__(self, req):
        return "made " + self.name
    def method(self, req):
        return "method " + self.name

class NeedsMore:
    def __init__(self, count: int):
        self.count = count
    def method(self, req):
        return str(self.count)

class Error(Exception):
    def method(self, req):
        return "error"

shell = publish(getoutput)
@publish(methods=["PUT", "DELETE"])
def stored(req):
    return "stored"

def listed(req):
    return "listed"
"""


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", "index"), ("index", "index"), ("page", "page"), ("page/", "page"), ("marked", "marked"),
        ("größe", "größe"), ("alias", "page"), ("anonymous", "anonymous"), ("partial", "page"), ("cached", "page"),
        ("obj", "instance"), ("obj/method", "method"), ("obj.method", "method"), ("obj/static", "static"),
        ("obj/clsmethod", "Page"), ("obj/function", "page"), ("obj/child", "instance"), ("obj/tool", "42"),
        ("obj/child/method", "method"), ("Chosen", "chosen"), ("Chosen/method", "chosen method"),
        ("listed", "listed"),
    ],
)  # fmt: skip
def test_functions_and_classes_of_the_page_are_published(visit, path, body):
    for _ in range(2):  # the second time from what was kept
        assert visit(SITE, path) == 200
        assert visit.req.written.decode() == body


@pytest.mark.parametrize(
    "path",
    [
        "getoutput", "getcwd", "subprocess", "os", "os/system", "functools", "publish", "VERSION", "settings",
        "settings/keys", "numbers", "numbers/append", "_private", "__name__", "__builtins__", "__builtins__/eval",
        "__file__", "__dict__", "helper", "foreign_partial", "foreign_partial/func", "foreign_cached", "foreign_given_own", "foreign_twice",
        "foreign_cached/cache_info", "bound_builtin", "cached/cache_clear", "page/__globals__", "page/func_code",
        "page/__code__/co_consts", "obj/_private", "obj/__class__", "obj/__dict__", "obj/data", "obj/password",
        "obj/foreign", "obj/lambda_", "obj/private", "obj/partial", "obj/method_of_another", "obj/cls", "obj/prop", "obj/nothing", "obj/method/__func__", "obj/method/im_func", "obj/child/child",
        "data", "data/value", "Plain", "Page/data", "Data", "Data/__init__", "ForRequests/_x", "ForRequests", "ForRequests/method", "Plain/method", "Error", "Error/method",
        "Error/args", "Page/mro", "partial/func", "nothing", "page/page", "pa ge", "/page", "obj//method", ".", "..",
        "obj/..", "page\0", "Plain/method/x", "shell/__wrapped__", "marked/__wrapped__",
    ],
)  # fmt: skip
def test_everything_else_is_a_404(visit, path):
    for _ in range(2):
        assert visit(SITE, path, args="cmd=id") == 404
        assert visit.req.written == b""


def test_a_developer_is_told_what_exists_and_is_not_published(visit):
    assert visit(SITE, "_private", debug=True) == 403
    assert visit(SITE, "settings", debug=True) == 403
    assert visit(SITE, "nothing", debug=True) == 404


def test_all_is_the_list_of_what_is_published(visit):
    source = SITE + "__all__ = ['listed', 'getoutput', '_private']\n"
    assert visit(source, "listed") == 200
    for path in ("page", "index", "obj", "getoutput", "_private"):
        assert visit(source, path) == 404


def test_an_imported_object_is_published_where_its_author_marks_it(visit):
    assert visit(SITE, "shell", args="cmd=printf+marked") == 200
    assert visit.req.written == b"marked"


def test_a_mark_counts_in_the_module_that_set_it_only(visit):
    make_page("from handlers.publisher import publish\n@publish\ndef tool(req):\n    return ''", "_mp_tools")
    assert visit("from _mp_tools import tool\ndef page(req):\n    return ''", "tool") == 404


def test_a_connection_or_pool_of_the_pages_own_class_is_not_published(visit, monkeypatch):
    monkeypatch.setattr("handlers.pages.traversal.is_pool", lambda obj: type(obj).__name__ == "OwnPool")
    source = "class OwnPool:\n    def __call__(self, req): return ''\n    def closeall(self, req): return ''\npool = OwnPool()"
    assert visit(source, "pool") == 404
    assert visit(source, "pool/closeall") == 404


def test_a_name_that_is_bound_anew_is_published_as_what_it_is_now(visit):
    source = "def page(req):\n    globals()['page'] = 'data'\n    return ''"
    assert visit(source) == 200
    assert visit(source) == 404


def test_a_page_whose_source_is_unknown_is_not_served(visit, monkeypatch):
    module = make_page("def page(req):\n    return 'page'", "_mp_unknown")
    del module.__dict__["__mp_info__"]
    monkeypatch.setattr(publisher, "page_module", lambda req, filename: module)
    req = Request()
    req.path_info = "/page"
    assert publisher.handler(req) == 500


def test_a_decorator_that_is_a_class_passes_the_arguments_of_what_it_holds(visit):
    source = (
        "import functools\n"
        "class Held:\n    def __init__(self, function): self.function = function\n"
        "    def __call__(self, *args, **kwargs): return self.function(*args, **kwargs)\n"
        "class Updated(Held):\n    def __init__(self, function):\n        super().__init__(function)\n"
        "        functools.update_wrapper(self, function)\n"
        "@Held\ndef held(req, name): return 'held ' + name\n"
        "@Updated\ndef updated(req, name): return 'updated ' + name\n"
    )
    for path in ("held", "updated"):
        assert visit(source, path, args="name=x") == 200
        assert visit.req.written == f"{path} x".encode()


def test_an_imported_decorator_class_is_served_where_it_says_what_it_wraps(visit):
    make_page(
        "import functools\nclass Cache:\n    def __init__(self, function): functools.update_wrapper(self, function)\n"
        "    def __call__(self, *args, **kwargs): return self.__wrapped__(*args, **kwargs)\n"
        "class Silent:\n    def __init__(self, function): self.function = function\n"
        "    def __call__(self, *args, **kwargs): return self.function(*args, **kwargs)\n", "_mp_lib",
    )  # fmt: skip
    rule = "    __auth__ = {'spam': 'eggs'}\n"
    source = "from _mp_lib import Cache, Silent\n@%s\ndef page(req, name='x'):\n%s    return 'page ' + name\n"
    assert visit(source % ("Cache", ""), args="name=y") == 200
    assert visit.req.written == b"page y"
    assert visit(source % ("Cache", rule)) == 401
    assert visit(source % ("Silent", "")) == 404
    assert visit(source % ("Silent", rule)) == 500
    assert visit(source % ("Cache", ""), "page/function") == 404


def test_a_page_that_holds_a_lot_is_served(visit):
    source = "class Big:\n    def __init__(self): self.rows = [[n] for n in range(200_000)]\n    def __call__(self, req): return 'x'\npage = Big()\n"
    assert visit(source) == 200
    assert visit(source + "def other(req):\n    __auth__ = {}\n") == 500


def test_a_file_that_begins_with_an_underscore_is_no_page(visit):
    for name in ("_private", "__init__", ".hidden"):
        req = Request()
        req.filename = f"/site/{name}"
        assert publisher.handler(req) == 404


@given(st.lists(st.sampled_from(["obj", "page", "child", "method", "Page", "Plain", "ForRequests", "settings",
                                 "__class__", "__init__", "__globals__", "getoutput", "password", "os", "foreign",
                                 "keys", "data", "func", "__wrapped__", "", "."]), min_size=1, max_size=5))  # fmt: skip
def test_no_path_leads_out_of_the_page(path):
    module = make_page(SITE, "_mp_paths")
    from handlers.pages.traversal import Refused, resolve

    try:
        target = resolve(module, ".".join(path))
    except Refused:
        return
    functions = target.protection.functions
    assert functions and functions[-1].__globals__ is module.__dict__
    assert not any(name.startswith("_") for name in path)


# -- methods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW", "get"])
def test_other_methods_are_a_405_with_the_ones_that_are_allowed(visit, method):
    assert visit(SITE, "page", method=method) == 405
    assert sorted(visit.req.allowed) == ["GET", "HEAD", "POST"]


def test_the_author_may_allow_other_methods(visit):
    assert visit(SITE, "stored", method="PUT") == 200
    assert visit(SITE, "stored", method="GET") == 405
    assert visit.req.allowed == ["PUT", "DELETE"]


# -- results -----------------------------------------------------------------------------------------------------------


class Plain:
    pass


@pytest.mark.parametrize(
    ("result", "body", "content_type"),
    [
        ("grün", "grün".encode(), "text/plain; charset=utf-8"),
        ("", b"", "text/plain; charset=utf-8"),
        ("<html>x</html>", b"<html>x</html>", "text/html; charset=utf-8"),
        ("<HTML>x</HTML >\n", b"<HTML>x</HTML >\n", "text/html; charset=utf-8"),
        ("</html>" + "x" * 200, b"</html>" + b"x" * 200, "text/plain; charset=utf-8"),
        ("\ud800", b"?", "text/plain; charset=utf-8"),
        (b"\x00\xff", b"\x00\xff", "application/octet-stream"),
        (b"<html></html>", b"<html></html>", "text/html"),
        (bytearray(b"x"), b"x", "application/octet-stream"),
        ({"a": [1, None, "ü"]}, '{"a": [1, null, "ü"]}'.encode(), "application/json"),
        ([], b"[]", "application/json"),
        ([decimal.Decimal("1.10"), datetime.date(2024, 2, 29), uuid.UUID(int=1)],
         b'["1.10", "2024-02-29", "00000000-0000-0000-0000-000000000001"]', "application/json"),
        (("a", "b"), b"ab", "text/plain; charset=utf-8"),
        ({1: 1, 2: 2}.keys(), b"12", "text/plain; charset=utf-8"),
        ((b"a", b"b"), b"ab", "application/octet-stream"),
        (42, b"42", "text/plain; charset=utf-8"),
        (True, b"True", "text/plain; charset=utf-8"),
        (decimal.Decimal("1.10"), b"1.10", "text/plain; charset=utf-8"),
        (None, b"", ""),
    ],
)  # fmt: skip
def test_a_result_becomes_a_body_and_a_type(result, body, content_type):
    rendered = results.render(result, None)
    assert (rendered.body, rendered.content_type) == (body, content_type)


async def coroutine():
    return "x"


async def async_generator():
    yield "x"


@pytest.mark.parametrize(
    "make", [coroutine, async_generator, Plain, lambda: Plain, lambda: test_a_result_becomes_a_body_and_a_type, lambda: re,
             lambda: {"a": Plain()}, lambda: [float("nan")]]
)  # fmt: skip
def test_what_has_no_form_as_an_answer_is_an_error_not_its_repr(make):
    with pytest.raises((TypeError, ValueError)):
        results.render(make(), None)


@pytest.mark.parametrize(
    ("declared", "sent", "body"),
    [
        ("text/html", "text/html; charset=utf-8", "grün €".encode()),
        ("text/html; charset=ISO-8859-1", "text/html; charset=ISO-8859-1", "grün &#8364;".encode("latin-1")),
        ("text/plain;charset=latin1", "text/plain;charset=latin1", "grün ?".encode("latin-1")),
        ("application/json", "application/json", "grün €".encode()),
        ("text/csv; header=present", "text/csv; header=present; charset=utf-8", "grün €".encode()),
    ],
)
def test_a_type_that_the_page_declares_is_kept_and_completed(declared, sent, body):
    rendered = results.render("grün €", declared)
    assert (rendered.content_type, rendered.body) == (sent, body)


def test_a_charset_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="nonsense"):
        results.render("x", "text/html; charset=nonsense")


def test_a_generator_is_streamed_part_by_part(visit):
    assert visit("def page(req):\n    yield '<html>'\n    yield b'\\xc3\\xbc'\n    yield None\n    yield 5") == 200
    assert visit.req.written == b"<html>\xc3\xbc5"
    assert visit.req.events == ["write"] * 3
    assert visit.req.content_type == "text/html; charset=utf-8"


def test_an_empty_generator_is_an_empty_answer(visit):
    assert visit("def page(req):\n    return\n    yield") == 200
    assert visit.req.written == b""


def test_a_response_sets_status_and_headers(visit):
    source = "from handlers.publisher import Response\ndef page(req):\n    return Response(201, %s, {'a': 1})"
    assert visit(source % "{'Location': '/1', 'Content-Type': 'application/hal+json', 'Content-Length': '3'}") == 201
    assert visit.req.headers_out == {"Location": "/1"}
    assert visit.req.content_type == "application/hal+json"
    assert visit(source % "[('Set-Cookie', 'a=1'), ('Set-Cookie', 'b=2')]") == 201
    assert visit.req.headers_out.added == [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]


def test_a_header_that_cannot_be_sent_is_found_before_the_commit(visit):
    source = "from handlers.publisher import Response\ndef page(req): return Response(200, {'X-Name': %r}, 'stored')"
    assert visit(source % "é") == 200
    with pytest.raises(ValueError, match="not a header"):
        visit(source % "ż")
    assert "commit" not in visit.req.events


@pytest.mark.parametrize(
    "header", [("X", "a\r\nSet-Cookie: b"), ("X", "a\nb"), ("X\r\nY", "a"), ("X Y", "a"), ("", "a")]
)
def test_a_header_cannot_smuggle_another(header):
    with pytest.raises(ValueError, match="not a header"):
        Response(200, [header]).pairs()


@pytest.mark.parametrize("status", [0, 99, 600, "200", None])
def test_a_response_needs_a_real_status(status):
    with pytest.raises(ValueError, match="status"):
        Response(status)


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_sends_none(visit, status):
    source = f"from handlers.publisher import Response\ndef page(req):\n    return Response({status}, None, 'body')"
    assert visit(source) == status
    assert visit.req.written == b""


# -- the transaction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    ["return 'x'", "return {'a': 1}", "return None", "return 5", "from handlers.publisher import Response\n    return "
     "Response(404, None, 'x')"],
)  # fmt: skip
def test_a_value_is_committed_before_it_is_sent(visit, end):
    visit(f"def page(req, conn):\n    {end}")
    assert [event for event in visit.req.events if event != "write"] == ["lease", "commit", "release"]
    if "write" in visit.req.events:
        assert visit.req.events.index("commit") < visit.req.events.index("write")


@pytest.mark.parametrize("end", ["raise RuntimeError('inside')", "return object()", "return {'a': object()}", "1 / 0"])
def test_an_exception_or_an_unusable_result_rolls_back(visit, end):
    with pytest.raises((RuntimeError, TypeError, ZeroDivisionError)):
        visit(f"def page(req, conn):\n    {end}")
    assert visit.req.events == ["lease", "rollback", "release"]


@pytest.mark.parametrize(
    ("arguments", "end"),
    [("0", "commit"), ("-2", "commit"), ("-1", "commit"), ("302", "commit"), ("100", "commit"), ("404", "rollback"),
     ("500", "rollback"), ("0, 404", "rollback"), ("-2, 302", "commit"), ("403, None", "rollback")],
)  # fmt: skip
def test_server_return_commits_with_success_and_rolls_back_otherwise(visit, arguments, end):
    with pytest.raises(ServerReturn):
        visit(f"import _apache\ndef page(req, conn):\n    raise _apache.SERVER_RETURN({arguments})")
    assert visit.req.events == ["lease", end, "release"]


def test_redirect_commits_before_it_sends_the_client_on(visit):
    with pytest.raises(ServerReturn) as stopped:
        visit("from handlers.publisher import redirect\ndef page(req, conn):\n    redirect(req, '/a?b=\"<')")
    assert stopped.value.args == (-2,)
    assert visit.req.events == ["lease", "commit", "write", "release"]
    assert (visit.req.status, visit.req.err_headers_out["Location"]) == (302, '/a?b="<')
    assert b'"/a?b=&quot;&lt;"' in visit.req.written


def test_redirect_sends_nothing_when_the_commit_fails(visit):
    visit.commit_fails = RuntimeError("deferred")
    with pytest.raises(RuntimeError, match="deferred"):
        visit("from handlers.publisher import redirect\ndef page(req, conn):\n    redirect(req, '/a')")
    assert visit.req.written == b"" and "Location" not in visit.req.err_headers_out


def test_redirect_takes_no_line_break_and_comes_before_the_body():
    with pytest.raises(ValueError):
        redirect(Request(), "/a\r\nSet-Cookie: b")
    with pytest.raises(TypeError):
        redirect(Request(), b"/a")
    req = Request()
    req.write("sent")
    with pytest.raises(OSError):
        redirect(req, "/a")


def test_a_commit_that_fails_is_an_error_page_as_long_as_nothing_was_sent(visit):
    visit.commit_fails = RuntimeError("deferred")
    with pytest.raises(RuntimeError):
        visit("def page(req, conn):\n    return 'all is well'")
    assert visit.req.written == b""


def test_a_commit_that_fails_after_req_write_is_logged_and_appends_nothing(visit):
    visit.commit_fails = RuntimeError("deferred")
    assert visit("def page(req, conn):\n    req.write('all is well')\n    return ' indeed'") == 200
    assert visit.req.written == b"all is well"
    assert "deferred" in visit.req.logged[0]


def test_a_commit_that_fails_after_req_write_and_done_appends_nothing_either(visit):
    visit.commit_fails = RuntimeError("deferred")
    source = "import _apache\ndef page(req, conn):\n    req.write('all is well')\n    raise _apache.SERVER_RETURN(-2)"
    assert visit(source) == 200
    assert visit.req.written == b"all is well" and "deferred" in visit.req.logged[0]


def test_a_stream_holds_its_transaction_as_long_as_it_runs(visit):
    visit("def page(req, conn):\n    yield 'a'\n    req.events.append('between')\n    yield 'b'")
    assert visit.req.events == ["lease", "write", "between", "write", "commit", "release"]


def test_a_stream_that_fails_at_its_start_is_an_error_page(visit):
    with pytest.raises(ZeroDivisionError):
        visit("def page(req, conn):\n    1 / 0\n    yield 'a'")
    assert visit.req.events == ["lease", "rollback", "release"]


def test_a_stream_that_fails_half_way_rolls_back_and_appends_nothing(visit):
    assert visit("def page(req, conn):\n    yield 'a'\n    1 / 0") == serving.BROKEN_OFF
    assert visit.req.events == ["lease", "write", "rollback", "release"]
    assert visit.req.written == b"a" and visit.req.connection.keepalive == -1
    assert any("ZeroDivisionError" in line for line in visit.req.logged)


@pytest.mark.parametrize(
    "error", ["_apache.SERVER_RETURN(404)", "HttpError(409, 'gone')", "PoolTimeout('full')", "SystemExit()"]
)
def test_whatever_ends_a_stream_half_way_breaks_it_off(visit, error):
    source = "import _apache\nfrom mpool import PoolTimeout\nfrom handlers.publisher import HttpError\n"
    assert visit(f"{source}def page(req, conn):\n    yield 'a'\n    raise {error}") == serving.BROKEN_OFF
    assert visit.req.events == ["lease", "write", "rollback", "release"]
    assert visit.req.written == b"a"


def test_a_stream_that_says_that_it_is_done_is_complete_and_committed(visit):
    with pytest.raises(ServerReturn):
        visit("import _apache\ndef page(req, conn):\n    yield 'a'\n    raise _apache.SERVER_RETURN(-2)")
    assert visit.req.events == ["lease", "write", "commit", "release"]


def test_a_stream_whose_commit_fails_is_broken_off(visit):
    visit.commit_fails = RuntimeError("deferred")
    assert visit("def page(req, conn):\n    yield 'a'") == serving.BROKEN_OFF
    assert "deferred" in visit.req.logged[0]


def test_head_does_not_run_a_stream_further_than_its_start(visit):
    source = "def page(req, conn):\n    try:\n        yield 'a'\n        yield 1 / 0\n    finally:\n        req.events.append('closed')"
    assert visit(source, method="HEAD") == 200
    assert visit.req.events == ["lease", "closed", "commit", "release"]


def test_a_client_that_has_gone_rolls_a_stream_back_and_frees_the_lease(visit):
    visit.gone = True
    source = "def page(req, conn):\n    try:\n        yield 'a'\n    finally:\n        req.events.append('closed')"
    visit(source)
    assert visit.req.events == ["lease", "closed", "rollback", "release"]


def test_a_client_that_has_gone_does_not_undo_what_was_committed(visit):
    visit.gone = True
    visit("def page(req, conn):\n    return 'a'")
    assert visit.req.events == ["lease", "commit", "release"]


@pytest.mark.parametrize("error", [PoolTimeout("pool default: no connection within 5s"), TooManyRequests("full")])
def test_an_exhausted_pool_is_a_503_that_says_when_to_come_back(visit, error):
    visit.error = error
    assert visit("def page(req, conn):\n    return 'a'") == 503
    assert visit.req.err_headers_out["Retry-After"].isdigit()
    assert str(error) in visit.req.logged[0]


@pytest.mark.parametrize("name", ["OperationalError", "DatabaseError"])
def test_a_database_that_went_down_is_a_503(visit, name):
    drivers_error = next(cls for cls in PoolTimeout.__mro__ if cls.__name__ == name)
    visit.error = drivers_error("server closed the connection unexpectedly\n\tThis probably means")
    assert visit("def page(req, conn):\n    return 'a'") == 503


def test_two_sites_that_ask_for_one_pool_are_an_error_not_an_outage(visit):
    visit.error = PoolConflict("mpool.conninfo differs")
    with pytest.raises(PoolConflict):
        visit("def page(req, conn):\n    return 'a'")


def test_the_connection_of_the_function_is_the_one_of_the_request(visit):
    source = "from handlers.request.leases import connection\ndef page(req, conn):\n    return str(conn is connection(req))"
    visit(source)
    assert visit.req.written == b"True"


def test_a_refused_request_leases_nothing(visit):
    for request in ({"args": "a=x"}, {"method": "PUT"}, {}):
        assert visit("def page(req, conn, a: int):\n    return ''", **request) in (400, 405)
        assert visit.req.events in ([], ["write"])


def test_a_refusal_names_the_field_escaped_and_nothing_of_the_inside(visit):
    assert visit("def page(req, name, **kw):\n    return ''") == 400
    text = visit.req.written.decode()
    assert "&#x27;name&#x27;" in text and "Traceback" not in text and ".py" not in text
    assert visit.req.content_type == "text/html; charset=utf-8"
    assert visit("def page(req, **kw):\n    return ''", args="<script>=" + "x" * 2_000_000) == 413
    assert b"<script>" not in visit.req.written


def test_uploads_are_closed_when_the_request_ends(visit):
    body = b'--b\r\nContent-Disposition: form-data; name="f"; filename="n"\r\n\r\ncontent\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    source = "def page(req, f):\n    req.kept = f\n    yield f.file.read()"
    assert visit(source, method="POST", body=body, headers=headers) == 200
    assert visit.req.written == b"content"
    assert visit.req.kept.file.closed


def test_the_page_finds_its_values_in_req_form(visit):
    visit("def page(req):\n    return req.form.getfirst('a')", args="a=1&a=2")
    assert visit.req.written == b"1"


# -- conditional requests ----------------------------------------------------------------------------------------------


def test_not_modified_declares_its_validators_and_asks_apache():
    req = Request()
    asked = []
    req.update_mtime = asked.append
    req.set_last_modified = lambda: asked.append("set")
    req.meets_conditions = lambda: 304
    when = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    answer = not_modified(req, etag="v1", modified=when)
    assert answer == Response(304)
    assert req.headers_out["ETag"] == '"v1"' and asked == [when.timestamp(), "set"]
    req.meets_conditions = lambda: 0
    assert not_modified(req, etag='W/"x"') is None
    assert req.headers_out["ETag"] == 'W/"x"'
    with pytest.raises(ValueError):
        not_modified(req, modified=datetime.datetime(2024, 1, 1))


def test_json_results_read_back_as_they_were():
    value = {"rows": [{"n": 1, "s": "ü", "none": None, "b": True}]}
    assert json.loads(results.render(value, None).body) == value


# -- what mod_python's own tests of its publisher ask ------------------------------------------------------------------

ELDER = """
import re
_PASSWORD = "x"
def index(req): return "index"
class Old:
    def __init__(self): pass
    def __call__(self, req): return "called"
    def traverse(self, req): return "traversed"
class Mapping(object):
    def __init__(self, name): self.name = name
    def __call__(self, req): return "Called " + self.name
class Bare: pass
old = Old()
numbers = {1: 1, 2: 2, 3: 3}
keys = numbers.keys
root = Mapping("root")
root.page = Mapping("page")
root.page.sub = Mapping("sub")
bare = Bare()
bare.page = index
def iterates(req): return keys()
def generates(req):
    for n in range(10): yield n
"""


@pytest.mark.parametrize(
    ("path", "body"),
    [("", "index"), ("old", "called"), ("old/traverse", "traversed"), ("root", "Called root"), ("root/page", "Called page"),
     ("root/page/sub", "Called sub"), ("bare/page", "index"), ("iterates", "123"), ("generates", "0123456789")],
)  # fmt: skip
def test_what_the_elder_publisher_serves_is_served(visit, path, body):
    assert visit(ELDER, path, debug=True) == 200
    assert visit.req.written.decode() == body


@pytest.mark.parametrize(
    "path",
    [
        "_PASSWORD",
        "__ANSWER",
        "re",
        "Old",
        "Mapping",
        "index/func_code",
        "old/traverse/func_code",
        "numbers/keys",
        "keys",
    ],
)
def test_what_the_elder_publisher_forbids_is_forbidden_as_it_does_to_a_developer(visit, path):
    assert visit(ELDER, path, debug=True) == 403
    assert visit(ELDER, path) == 404


def test_digest_credentials_do_not_disturb_an_open_page(visit):
    assert visit(ELDER, "index", headers={"Authorization": 'Digest username="Mufasa"'}) == 200


def test_a_page_that_is_removed_while_it_is_looked_for_is_404_and_one_that_is_back_is_served(tmp_path, monkeypatch):
    path = tmp_path / "page.py"
    req = types.SimpleNamespace(filename="", method="GET", uri="/page", log_error=lambda *_: None)
    missing = FileNotFoundError(errno.ENOENT, "No such module file", str(path))
    loads = []

    def page_module(req, filename):
        loads.append(filename)
        if not path.exists() or len(loads) == 1:
            raise missing
        return types.ModuleType("page")

    monkeypatch.setattr(publisher, "page_module", page_module)
    assert publisher._page(req, str(path)) is None
    loads.clear()
    path.touch()
    assert publisher._page(req, str(path)) is not None
    missing.filename = "/no/such/data"
    loads.clear()
    with pytest.raises(FileNotFoundError, match="/no/such/data"):
        publisher._page(req, str(path))
