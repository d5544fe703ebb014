"""How an answer leaves: the short way into Apache's buffer, and what must not notice it."""

from __future__ import annotations

import pytest

AFTER = """
from mod_python import apache
from handlers.request import output

def handler(req):
    if req.args == "how":
        req.write(f" queued {req._bytes_queued} sent {output.has_sent(req)}")
    elif req.args == "more":
        output.write(req, b"b" * output.BUFFER)
        output.write(req, b"c" * output.BUFFER)
    return apache.OK
"""

PAGES = """
from handlers.publisher import Response

def index(req, length: int = 5, how=None, more=None):
    return Response(headers={"Content-Type": "text/plain"}, body="a" * length)

def late(req):
    req.write("before ")
    return "after"
"""

FILTERS = """
def upper(fltr):
    text = fltr.read()
    while text:
        fltr.write(text.upper())
        text = fltr.read()
    if text is None:
        fltr.close()
"""


@pytest.fixture
def server(httpd):
    filtered = 'PythonOutputFilter ~/filters.py::upper UPPER\n<LocationMatch "^/page">\nSetOutputFilter UPPER\n'
    return httpd(
        site={"page.py": PAGES, "after.py": AFTER, "filters.py": FILTERS},
        handler="handlers.publisher after",
        extra=filtered + "</LocationMatch>\n",
    )


def test_the_first_short_answer_is_not_written_by_mod_python(server):
    assert server.get("/page?how").text == "AAAAA QUEUED 0 SENT TRUE"


@pytest.mark.parametrize("length", [0, 1, 7999, 8000, 8001, 70_000])
def test_an_answer_of_any_length_arrives(server, length):
    answer = server.get(f"/page?length={length}")
    assert (answer.status, answer.text) == (200, "A" * length)


def test_what_follows_it_does_not_wait_for_a_filter_with_the_lock_held(server):
    """A filter in Python needs the interpreter's lock, which a full buffer's way out must not hold."""
    answer = server.get("/page?more")
    assert answer.text == "A" * 5 + "B" * 8000 + "C" * 8000


def test_a_page_that_has_written_itself_goes_on(server):
    assert server.get("/page/late").text == "BEFORE AFTER"


def test_a_head_has_the_length_and_no_body(httpd):
    server = httpd(site={"page.py": PAGES})
    answer = server.request("HEAD", "/page?length=40")
    assert (answer.status, answer.headers["Content-Length"], answer.text) == (200, "40", "")
    assert server.get("/page?length=40").headers["Content-Length"] == "40"
