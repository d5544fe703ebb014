"""What mod_python itself offers keeps working beside the publisher: cookies, sessions, PSP, its own publisher."""

from __future__ import annotations

import pytest

SITE = {
    "page.py": """
from mod_python import Cookie, Session, apache, psp, util

def index(req):
    return "page"

def set_cookie(req, value):
    Cookie.add_cookie(req, "plain", value)
    return "set"

def get_cookie(req):
    return Cookie.get_cookie(req, "plain").value

def count(req):
    session = Session.Session(req)
    session["count"] = session.get("count", 0) + 1
    session.save()
    return str(session["count"])

def template(req, name):
    template = psp.PSP(req, filename="hello.psp", vars={"name": name})
    template.run()

def form(req):
    return [req.form.getfirst("a"), req.form.getlist("b"), "c" in req.form, req.form["a"]]
""",
    "hello.psp": "<html>Hello <%= name %></html>",
    "direct.psp": "<html><% x = 6 * 7 %><%= x %></html>",
    ".htaccess": '<Files "direct.psp">\nPythonHandler mod_python.psp\n</Files>\n',
}


@pytest.fixture(params=["worker", "event", "prefork"])
def server(request, httpd):
    # For one process of one thread mod_python makes one lock, and divides by the number of the others.
    return httpd(conf=f"{request.param}.conf", site=SITE, processes=2)


def cookies(answer):
    return {"Cookie": "; ".join(header.split(";")[0] for header in answer.headers.get_all("Set-Cookie"))}


def test_a_cookie_comes_back(server):
    answer = server.get("/page/set_cookie?value=abc")
    assert server.get("/page/get_cookie", cookies(answer)).text == "abc"


def test_a_session_lives_from_request_to_request(server):
    answer = server.get("/page/count")
    assert answer.text == "1"
    for expected in ("2", "3"):
        assert server.get("/page/count", cookies(answer)).text == expected


def test_psp_serves_from_a_page_and_by_itself(server):
    assert server.get("/page/template?name=you").text.strip() == "<html>Hello you</html>"
    assert server.get("/direct.psp").text.strip() == "<html>42</html>"


def test_the_form_of_a_page_has_its_old_methods(server):
    assert server.post("/page/form?b=2", {"a": "1", "b": "3"}).text == '["1", ["2", "3"], false, "1"]'


def test_stock_publisher_still_serves_and_reloads_for_those_who_stay(httpd):
    server = httpd(site={"page.py": "def index(req): return 'one'"}, handler="mod_python.publisher")
    assert server.get("/page").text == "one"
    server.write("page.py", "def index(req): return 'two'")
    from servers.base import wait_until

    wait_until(lambda: server.get("/page").text == "two", what="the edit is served")
