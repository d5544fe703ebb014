"""The publisher on a real Apache: tables of requests, made from parts, on every MPM."""

# ruff: noqa: E501  # tables, one row a line

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from urllib.parse import quote, quote_plus

import pytest
from access_rules import (
    BEFORE,
    DEFINITIONS,
    HIDERS,
    PRELUDE,
    PROTECTED_FROM_OUTSIDE,
    SIGNATURES,
    UNDECIDABLE,
    WRAPPERS,
    page,
)
from servers.httpd import Httpd

MPMS = ["worker", "event", "prefork"]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


#: A client on a loaded machine may be slow to send its next request.
PATIENT = "KeepAliveTimeout 60"

NONE: dict[str, str] = {}
SPAM, WRONG, NOBODY = basic("spam", "eggs"), basic("spam", "spam"), basic("", "")


def protected_site() -> tuple[dict[str, str], list[tuple[str, int, int]]]:
    """A site of protected pages, and for each its path, its status without and with good credentials."""
    site, table = {}, []
    for wrapper in WRAPPERS:
        source = PRELUDE
        kinds = itertools.product(DEFINITIONS, BEFORE)
        for number, (definition, before) in enumerate(kinds):
            signature = SIGNATURES[number % len(SIGNATURES)]
            text = page(DEFINITIONS[definition], BEFORE[before], signature, WRAPPERS[wrapper])
            source += text.removeprefix(PRELUDE).replace("def page", f"def page{number}")
            table.append((f"/in_{wrapper}/page{number}", 401, 200))
        site[f"in_{wrapper}.py"] = source
    for hider, definition in itertools.product(HIDERS, DEFINITIONS):
        site[f"by_{hider}_{definition}.py"] = page(DEFINITIONS[definition], wrapper="@" + hider)
        table.append((f"/by_{hider}_{definition}/page", 500, 500))
    for number, definition in enumerate(UNDECIDABLE):
        site[f"undecidable{number}.py"] = page(definition)
        table.append((f"/undecidable{number}/page", 500, 500))
    for number, source in enumerate(PROTECTED_FROM_OUTSIDE.values()):
        site[f"outside{number}.py"] = PRELUDE + source
        table.append((f"/outside{number}/page", 401, 200))
    return site, table


@pytest.mark.parametrize("mpm", MPMS)
def test_no_page_fails_open(httpd, mpm):
    site, table = protected_site()
    server = httpd(conf=f"{mpm}.conf", site=site, extra=PATIENT)
    assert len(table) >= 400
    wrong = []
    with server.session() as session:
        for path, closed, opened in table:
            for headers, expected in ((NONE, closed), (WRONG, closed), (NOBODY, closed), (SPAM, opened)):
                answer = session.get(path, headers)
                # A rule that cannot be decided may also be told from the missing header.
                if answer.status != expected and not (expected == 500 and headers is not SPAM and answer.status == 401):
                    wrong.append((path, headers, answer.status, expected))
                assert (b"secret" in answer.body) == (answer.status == 200), path
    assert not wrong


def test_access_rules_know_the_user_whom_apache_has_verified(httpd):
    hashed = base64.b64encode(hashlib.sha1(b"eggs").digest()).decode()
    apaches = 'AuthType Basic\nAuthName "site"\nAuthUserFile "@SITE@/users"\nRequire valid-user'
    page = "__access__ = ['spam']\ndef index(req): return 'for ' + req.user\n"
    site = {"page.py": page, "users": f"spam:{{SHA}}{hashed}\nham:{{SHA}}{hashed}\n"}
    server = httpd(site=site, extra=f'<Location "/page">\n{apaches}\n</Location>')
    assert server.get("/page").status == 401
    assert server.get("/page", WRONG).status == 401
    assert server.get("/page", basic("ham", "eggs")).status == 403
    assert server.get("/page", SPAM).text == "for spam"
    unverified = httpd(site=site)
    assert unverified.get("/page", SPAM).status == 403


SITE = """
import dataclasses, decimal, enum, functools, os, pickle, subprocess, datetime, uuid
from subprocess import getoutput
from typing import Optional
import mpool
from handlers.base import Handler, connection
from handlers.publisher import Response, HttpError, publish, not_modified, redirect
from mod_python import apache, util

password = "geheim"
settings = {"password": password}

class Colour(enum.Enum):
    RED = "r"

@dataclasses.dataclass
class Point:
    x: "int"
    y: "int" = 2

class Proxy:
    secret = password
    def __init__(self): self.password = password; self.run = getoutput
    def method(self, req): return "method"
    def _private(self, req): return password
    @property
    def prop(self): return password
proxy = Proxy()

class Shop(Handler):
    def get(self, req, item: int): return {"item": item}
    def put(self, req, item: int): return Response(201, None, "stored")

def index(req, name="world"): return "hello " + name
def helper(conn): return password
def _private(req): return password
def echo(req, **fields): return [fields, req.method]
def typed(req, a: int, b: float = 0.5, c: bool = False, d: Optional[decimal.Decimal] = None, e: Colour = None, f: list[int] = ()):
    return [a, b, c, str(d), str(e), list(f)]
def dates(req, d: datetime.date, u: uuid.UUID): return [d, u]
def keyword_only(req, *, a, b="b"): return [a, b]
def positional_only(a, b="b", /): return [a, b]
def required(req, x): return x
def text(req): return "grün"
def html(req): return "<html>grün</html>"
def raw(req): return b"\\x00\\x01"
def declared(req):
    req.content_type = "text/html"
    return "grün"
def stream(req):
    for n in range(3): yield str(n)
def none(req): req.write("written")
def created(req): return Response(201, [("X-One", "1"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], {"a": 1})
def empty(req): return Response(204)
async def coroutine(req): return "never"
def function(req): return helper
def fails(req): raise RuntimeError(password)
def wrote_and_fails(req):
    req.write("begun")
    raise RuntimeError(password)
def refused(req): raise HttpError(409, "The <item> is gone.")
def returned(req, status="404"): raise apache.SERVER_RETURN(int(status))
def moved(req): util.redirect(req, "/page/text")
def pickled(req): return str(pickle.loads(pickle.dumps(Point(1))))
def upload(req, doc): return [doc.filename, doc.type, len(doc.value)]
def body(req): return req.read().decode()
def json_list(req): return req.json
def cached(req): return not_modified(req, etag="v1") or "fresh"
def dated(req): return not_modified(req, modified=datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc)) or "fresh"
def größe(req): return "größe"
"""


def serve_site(packages, mpm):
    # Without a locale, as Debian starts Apache, and with two further kinds of names.
    return Httpd(
        packages=packages,
        conf=f"{mpm}.conf",
        site={"page.py": SITE, "index.py": "def index(req): return 'home'\ndef other(req): return 'other'",
              "directory/index.py": "def index(req): return 'inside'", "directory/deep.py": "def index(req): return 'deep'",
              "größe.py": "def index(req): return 'größe'",
              "żółw.py": "def index(req): return req.filename.rpartition('/')[2]", "_hidden.py": "def index(req): return 'geheim'"},
        env={"LANG": "C"},
        extra=f"AddHandler mod_python .html\nTraceEnable Off\n{PATIENT}",
        options={"handlers.max_body": 200_000, "handlers.max_fields": 50, "handlers.max_field_size": 10_000},
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(packages):
    """One server for all the tables: nothing in them changes the site."""
    server = serve_site(packages, "worker")
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", "home"), ("/index", "home"), ("/index.py", "home"), ("/other", "other"), ("/other/", "other"),
        ("/directory/", "inside"), ("/directory/deep", "deep"), ("/directory/deep/", "deep"), ("/directory/deep.py", "deep"),
        ("/page", "hello world"), ("/page/", "hello world"), ("/page.py", "hello world"), ("/page/index", "hello world"),
        ("/page.py/index/", "hello world"), ("/page.html", "hello world"), ("/page?name=you", "hello you"),
        ("/page/proxy/method", "method"), ("/page/proxy.method", "method"), ("/page/Shop?item=3", '{"item": 3}'),
        ("/page/größe", "größe"), ("/größe", "größe"), ("/größe/index", "größe"), ("/żółw", "żółw.py"), ("/page/pickled", "Point(x=1, y=2)"),
    ],
)  # fmt: skip
def test_urls_lead_to_functions_as_they_always_did(site, path, body):
    answer = site.get(quote(path, safe="/?=."))
    assert (answer.status, answer.text) == (200, body)


REFUSED = [
    "password",
    "settings",
    "settings/password",
    "settings/keys",
    "_private",
    "helper",
    "connection",
    "Handler",
    "publish",
    "mpool",
    "mpool/close_pools",
    "getoutput?cmd=id",
    "subprocess",
    "subprocess/getoutput",
    "os",
    "os/system",
    "functools",
    "apache",
    "apache/main_server",
    "util/redirect",
    "__name__",
    "__file__",
    "__builtins__",
    "__builtins__/eval",
    "__dict__",
    "__mp_info__",
    "__mp_info__/source",
    "index/__globals__",
    "index/__code__",
    "index/func_globals",
    "index/__globals__/password",
    "index.__globals__",
    "index/x",
    "proxy/password",
    "proxy/run?cmd=id",
    "proxy/_private",
    "proxy/prop",
    "proxy/secret",
    "proxy/method/__self__",
    "proxy/__class__",
    "proxy/__dict__",
    "proxy/method/__func__/__globals__",
    "Proxy",
    "Proxy/secret",
    "Point",
    "Colour",
    "Colour/RED",
    "Shop/get",
    "Shop/handler",
    "nothing",
    "nothing/at/all",
]


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_published_is_a_404_like_what_does_not_exist(site, path, method):
    answer = site.request(method, f"/page/{path}")
    assert answer.status == 404
    assert b"geheim" not in answer.body and b"uid=" not in answer.body
    assert answer.body == site.request(method, "/page/nothing").body


IMPOSSIBLE = ["/%ff", "/page/%ff", "/page/%00", "/page/%c0%80", "/page/a%0Ab", "/page/" + "a" * 5000, "/" + "a" * 300]
IMPOSSIBLE += ["/gr%C3%B6%C3%9Fer", "/_hidden", "/_hidden/index", "/__init__"]
IMPOSSIBLE += ["/%", "/page/%2e%2e/x", "/page//x/..;/", "/page/..%2f..%2fetc/passwd"]


@pytest.mark.parametrize("path", IMPOSSIBLE)
def test_a_path_that_no_function_can_have_is_refused(site, path):
    assert site.get(path).status in (400, 403, 404)


ARGUMENTS = [
    ("typed?a=1", [1, 0.5, False, "None", "None", []]),
    ("typed?a=-5&b=1e3&c=on&d=1.10&e=r&f=1&f=2", [-5, 1000.0, True, "1.10", "Colour.RED", [1, 2]]),
    ("typed?a=1&c=false&d=&e=RED&f=7", [1, 0.5, False, "None", "Colour.RED", [7]]),
    (
        "dates?d=2024-02-29&u=00000000-0000-0000-0000-000000000001",
        ["2024-02-29", "00000000-0000-0000-0000-000000000001"],
    ),
    ("keyword_only?a=1", ["1", "b"]),
    ("keyword_only?a=1&b=2", ["1", "2"]),
    ("positional_only?a=1", ["1", "b"]),
    ("positional_only?a=1&b=2&req=3", ["1", "2"]),
    ("echo?a=1&a=2&b=", [{"a": ["1", "2"], "b": ""}, "GET"]),
    ("echo?req=1&conn=2&self=3&fields=4", [{"self": "3", "fields": "4"}, "GET"]),
    ("echo?a=b=c&d=%26%3D&e+f=g+h", [{"a": "b=c", "d": "&=", "e f": "g h"}, "GET"]),
    ("echo?" + quote("größe") + "=" + quote("ü€𝄞"), [{"größe": "ü€𝄞"}, "GET"]),
    ("echo?;&&=x&y", [{";": "", "": "x", "y": ""}, "GET"]),
]


@pytest.mark.parametrize(("path", "value"), ARGUMENTS)
def test_arguments_arrive_by_query_and_by_form(site, path, value):
    answer = site.get(f"/page/{path}")
    assert (answer.status, json.loads(answer.body)) == (200, value)
    path, _, query = path.partition("?")
    answer = site.post(f"/page/{path}", query, {"Content-Type": "application/x-www-form-urlencoded"})
    if value[-1] == "GET":
        value = [value[0], "POST"]
    assert (answer.status, json.loads(answer.body)) == (200, value)


BAD = [
    *[("typed?" + query, name) for query, name in [("", "a"), ("a=", "a"), ("a=x", "a"), ("a=1.5", "a"), ("a=1&a=2", "a"), ("a=1&b=x", "b"),
       ("a=1&b=nan", "b"), ("a=1&c=maybe", "c"), ("a=1&d=x", "d"), ("a=1&e=blue", "e"), ("a=1&f=x", "f"), ("a=1&f=1&f=", "f"), ("a=" + "9" * 5000, "a")]],
    ("dates?d=2023-02-29&u=1", "d"), ("dates?d=2024-02-29&u=1", "u"), ("keyword_only", "a"), ("positional_only?b=1", "a"),
    ("required", "x"), ("Shop", "item"), ("Shop?item=x", "item"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "name"), BAD)
def test_a_missing_or_unfitting_field_is_a_400_that_names_it(site, path, name):
    answer = site.get(f"/page/{path}")
    assert answer.status == 400
    assert f"&#x27;{name}&#x27;" in answer.text
    assert answer.headers.get_content_type() == "text/html"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("x=" + "a" * 10_000, "application/x-www-form-urlencoded", 200),
        ("x=" + "a" * 10_001, "application/x-www-form-urlencoded", 413),
        ("&".join(["x=1"] * 50), "application/x-www-form-urlencoded", 200),
        ("&".join(["x=1"] * 51), "application/x-www-form-urlencoded", 400),
        ("x=" + "a" * 200_000, "application/x-www-form-urlencoded", 413),
        (b"x" * 200_001, "application/octet-stream", 413),
        ("x=%ff", "application/x-www-form-urlencoded", 400),
        (b"x=\xff", "application/x-www-form-urlencoded", 400),
        ("x=" + quote_plus("ü".encode("latin-1")), "application/x-www-form-urlencoded; charset=latin-1", 200),
        ("x=1", "application/x-www-form-urlencoded; charset=nonsense", 415),
        ("{", "application/json", 400), ('{"x": NaN}', "application/json", 400), (b"\xff", "application/json", 400),
        ("[" * 50_000, "application/json", 400), ('{"x": "1"}', "application/json", 200), ("{}", "application/json", 400),
        ("garbage", "multipart/form-data; boundary=b", 400), ("garbage", "multipart/form-data", 400),
        ("--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n--b--\r\n", "multipart/form-data; boundary=b", 200),
        ("--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1", "multipart/form-data; boundary=b", 400),
        ("--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
    ],
)  # fmt: skip
def test_bodies_are_read_within_their_limits_or_refused(site, body, content_type, status):
    with site.session() as session:
        answer = session.post("/page/required", body, {"Content-Type": content_type})
        assert answer.status == status
        assert session.get("/page").status == 200, "the next request on this connection is not disturbed"


def test_uploads_json_lists_and_other_bodies_arrive(site):
    part = 'Content-Disposition: form-data; name="doc"; filename="grün.bin"\r\nContent-Type: image/png'
    content = bytes(range(256)) * 100
    body = b"--b\r\n" + part.encode() + b"\r\n\r\n" + content + b"\r\n--b--\r\n"
    answer = site.post("/page/upload", body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert json.loads(answer.body) == ["grün.bin", "image/png", len(content)]
    assert site.post("/page/json_list", "[1]", {"Content-Type": "application/json"}).text == "[1]"
    assert site.post("/page/body", "<ü/>".encode(), {"Content-Type": "text/xml"}).text == "<ü/>"


@pytest.mark.parametrize(
    ("path", "status", "content_type", "body"),
    [
        ("text", 200, "text/plain; charset=utf-8", "grün"), ("html", 200, "text/html; charset=utf-8", "<html>grün</html>"),
        ("raw", 200, "application/octet-stream", "\0\1"), ("declared", 200, "text/html; charset=utf-8", "grün"),
        ("stream", 200, "text/plain; charset=utf-8", "012"), ("created", 201, "application/json", '{"a": 1}'),
        ("empty", 204, None, ""), ("refused", 409, "text/html; charset=utf-8", None), ("coroutine", 500, None, None),
        ("function", 500, None, None), ("fails", 500, None, None), ("returned", 404, None, None),
        ("returned?status=403", 403, None, None), ("moved", 302, None, None),
    ],
)  # fmt: skip
def test_results_become_answers(site, path, status, content_type, body):
    answer = site.get(f"/page/{path}")
    assert answer.status == status
    assert content_type is None or answer.headers["Content-Type"] == content_type
    assert body is None or answer.body == body.encode()
    assert b"geheim" not in answer.body and b"Traceback" not in answer.body and b"object at" not in answer.body


def test_a_response_may_send_a_header_twice(site):
    answer = site.get("/page/created")
    assert answer.headers.get_all("Set-Cookie") == ["a=1", "b=2"] and answer.headers["X-One"] == "1"


def test_a_message_to_the_client_is_escaped(site):
    assert "The &lt;item&gt; is gone." in site.get("/page/refused").text


def test_nothing_is_appended_to_an_answer_that_has_begun(site):
    mark = site.log_mark()
    answer = site.get("/page/wrote_and_fails")
    assert (answer.status, answer.body) == (200, b"begun")
    site.wait_for_log("RuntimeError: geheim", since=mark)


@pytest.mark.parametrize("path", ["text", "html", "stream", "created", "index"])
def test_head_is_answered_as_get_without_a_body(site, path):
    get, head = site.get(f"/page/{path}"), site.request("HEAD", f"/page/{path}")
    assert head.status == get.status and head.body == b""
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    if path != "stream":
        assert head.headers["Content-Length"] == str(len(get.body))


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "BREW"])
def test_other_methods_are_a_405_with_a_right_allow(site, method):
    answer = site.request(method, "/page/text")
    assert answer.status == 405
    if method != "TRACE":  # Apache's own
        assert {name.strip() for name in answer.headers["Allow"].split(",")} == {"GET", "HEAD", "POST"}


def test_a_class_answers_the_methods_that_it_defines(site):
    allowed = {"GET", "HEAD", "PUT", "OPTIONS"}
    assert site.request("PUT", "/page/Shop?item=1").status == 201
    assert site.request("HEAD", "/page/Shop?item=1").status == 200
    for method, status in (("OPTIONS", 204), ("POST", 405), ("DELETE", 405), ("BREW", 405)):
        answer = site.request(method, "/page/Shop?item=1")
        assert answer.status == status
        assert {name.strip() for name in answer.headers["Allow"].split(",")} == allowed


def test_conditional_get(site):
    first = site.get("/page/cached")
    assert (first.status, first.headers["ETag"], first.text) == (200, '"v1"', "fresh")
    again = site.get("/page/cached", {"If-None-Match": '"v1"'})
    assert (again.status, again.body) == (304, b"")
    assert site.get("/page/cached", {"If-None-Match": '"v2"'}).status == 200
    assert site.get("/page/cached", {"If-Match": '"v2"'}).status == 412
    dated = site.get("/page/dated")
    assert (dated.status, dated.headers["Last-Modified"]) == (200, "Thu, 29 Feb 2024 00:00:00 GMT")
    assert site.get("/page/dated", {"If-Modified-Since": dated.headers["Last-Modified"]}).status == 304
    assert site.get("/page/dated", {"If-Modified-Since": "Wed, 28 Feb 2024 00:00:00 GMT"}).status == 200


@pytest.mark.parametrize("mpm", MPMS[1:])
def test_the_tables_hold_under_the_other_mpms(packages, mpm):
    server = serve_site(packages, mpm)
    try:
        for path, method in itertools.product(REFUSED, ("GET", "POST")):
            answer = server.request(method, f"/page/{path}")
            assert answer.status == 404 and b"geheim" not in answer.body and b"uid=" not in answer.body, path
        for path in IMPOSSIBLE:
            assert server.get(path).status in (400, 403, 404), path
        for path, value in ARGUMENTS:
            assert json.loads(server.get(f"/page/{path}").body) == value, path
        for path, name in BAD:
            answer = server.get(f"/page/{path}")
            assert answer.status == 400 and f"&#x27;{name}&#x27;" in answer.text, path
    finally:
        server.close()


def test_the_inside_is_shown_to_a_developer_only(httpd):
    site = {"page.py": "def page(req): raise RuntimeError('<inside>')\ndef _private(req): pass"}
    server = httpd(site=site, extra="PythonDebug On")
    answer = server.get("/page/page")
    assert answer.status == 500 and "RuntimeError" in answer.text and "<inside>" not in answer.text
    assert server.get("/page/_private").status == 403
