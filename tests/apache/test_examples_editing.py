"""The example site is edited while it runs: the new code serves, the connections stay."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from servers.base import wait_until
from servers.example_site import PAGES, SITE, edit, footer, fresh, loader, make_rows, make_site

rows = pytest.fixture(scope="module")(make_rows)
site = pytest.fixture(make_site)


@pytest.mark.parametrize("how", ["rename", "copy", "inplace"])
def test_an_edited_page_is_a_new_instance_on_the_same_backend(site: Any, how: str) -> None:
    before = footer(site.get("/countries").text)
    source = (site.site / "countries.py").read_text(encoding="utf-8")
    for number in range(1, 6):
        site.write("countries.py", source.replace('title="Countries"', f'title="Countries {number}"'), how)
        after = footer(fresh(site, "/countries", f"<h1>Countries {number}</h1>"))
        assert after["instance"] == str(number + 1)
        assert int(after["generation"]) > int(before["generation"])
        assert (after["process"], after["backend"]) == (before["process"], before["backend"])


def test_an_edited_layout_changes_every_page(site: Any) -> None:
    before = {path: footer(site.get(path).text) for path in PAGES}
    edit(site, "layout.py", 'SITE = "Codes of the world"', 'SITE = "The new name"')
    fresh(site, "/countries", "The new name")
    for path, told in before.items():
        page = site.get(path).text
        assert "The new name" in page, path
        assert footer(page)["instance"] != told["instance"], path
        if path != "/naive":
            assert footer(page)["backend"] == told["backend"], path


def test_an_edited_style_sheet_gets_a_new_address(site: Any) -> None:
    pattern = r'href="(/style\?v=\w+)"'
    (old,) = re.findall(pattern, site.get("/").text)
    edit(site, "style.py", "--accent: #0b6e69", "--accent: #8a2be2")

    def changed() -> bool:
        return re.findall(pattern, site.get("/").text) != [old]

    wait_until(changed, what="another address of the style sheet")
    (new,) = re.findall(pattern, site.get("/").text)
    assert "#8a2be2" in site.get(new).text


def test_a_broken_edit_leaves_the_page_as_it_was(site: Any) -> None:
    before = site.get("/currencies")
    mark = site.log_mark()
    edit(site, "currencies.py", "def index(", "def index((")

    def reported() -> bool:
        answer = site.get("/currencies")
        assert answer.status == 200
        assert footer(answer.text)["instance"] == footer(before.text)["instance"]
        return "SyntaxError" in site.log(mark)

    wait_until(reported, what="a SyntaxError in the log")
    edit(site, "currencies.py", "def index((", "def index(")
    assert "Swiss Franc" in site.get("/currencies").text


def test_the_naive_page_leaves_no_connection_behind(site: Any, rows: Any) -> None:
    first = footer(site.get("/naive").text)["backend"]
    source = (site.site / "naive.py").read_text(encoding="utf-8")
    for number in range(1, 11):
        site.write("naive.py", source.replace("Five subdivisions", f"Five subdivisions {number}"))
        last = footer(fresh(site, "/naive", f"Five subdivisions {number}<"))["backend"]
    assert last != first

    def only_the_last() -> bool:
        return [pid for pid, name, _ in rows.backends(prefix="") if name == "naive page"] == [int(last)]

    wait_until(only_the_last, what="one backend of the naive page")


def test_the_carried_pool_lives_through_edits(site: Any) -> None:
    before = footer(site.get("/carried").text)
    source = (site.site / "carried.py").read_text(encoding="utf-8")
    for number in range(1, 6):
        site.write("carried.py", source.replace('title="Carried over"', f'title="Carried over {number}"'))
        after = footer(fresh(site, "/carried", f"<h1>Carried over {number}</h1>"))
        assert after["backend"] == before["backend"]
    assert after["instance"] == "6"


def test_without_its_hooks_the_page_hands_over_once_more(site: Any) -> None:
    """As the page says; and the pools that are not handed over are closed."""
    first = footer(site.get("/carried").text)["backend"]
    hooks = "from handlers.base import __mp_clone__, __mp_purge__"
    edit(site, "carried.py", hooks, "")
    source = (site.site / "carried.py").read_text(encoding="utf-8")
    backends = []
    for number in range(1, 4):
        site.write("carried.py", source.replace('title="Carried over"', f'title="Carried over {number}"'))
        backends.append(footer(fresh(site, "/carried", f"<h1>Carried over {number}</h1>"))["backend"])
    assert backends[0] == first
    assert len(set(backends)) == 3

    def one_is_left() -> bool:
        return len(re.findall(r"/carried</span>", site.get("/backends").text)) == 1

    wait_until(one_is_left, what="one pool of the carried page")


def test_after_a_restart_of_postgresql_only_the_naive_page_needs_an_edit(
    httpd: Callable[..., Any], postgres_factory: Callable[..., Any]
) -> None:
    server = postgres_factory()
    conn = psycopg2.connect(server.conninfo)
    try:
        loader().load(conn)
    finally:
        conn.close()
    site = httpd(site=SITE, options={"mpool.conninfo": server.conninfo})
    paths = ("/countries", "/carried", "/naive")
    assert [site.get(path).status for path in paths] == [200, 200, 200]
    server.restart()
    assert site.get("/naive").status >= 500

    def recovered() -> bool:
        return all(site.get(path).status == 200 for path in ("/countries", "/carried"))

    wait_until(recovered, what="the pages that have a pool")
    assert site.get("/naive").status >= 500
    edit(site, "naive.py", "Five subdivisions", "Five places")

    def reconnected() -> bool:
        return bool(site.get("/naive").status == 200)

    wait_until(reconnected, what="the edited naive page")


HINTS = (
    ("countries.py", "ORDER BY c.name", "ORDER BY c.alpha_3", "/countries", r"<tbody>.*?>Aruba<.*?>Afghanistan<"),
    ("countries.py", "<dt>Two letters</dt>", "<dt>alpha-2</dt>", "/countries/show?code=FI", "<dt>alpha-2</dt>"),
    ("languages.py", "PAGE_SIZE = 50", "PAGE_SIZE = 20", "/languages", "1 to 20 of"),
    ("guestbook.py", "MESSAGE_LENGTH = 500", "MESSAGE_LENGTH = 50", "/guestbook", 'maxlength="50"'),
    ("currencies.py", 'title="Currencies"', 'title="Money"', "/currencies", "<h1>Money</h1>"),
    ("style.py", "--accent: #0b6e69", "--accent: #8a2be2", "/style", "#8a2be2"),
)


def test_what_the_pages_tell_to_edit_can_be_edited_and_seen(site: Any) -> None:
    for name, old, new, path, expected in HINTS:
        assert site.get(path).status == 200
        edit(site, name, old, new)

        def seen(path: str = path, expected: str = expected) -> bool:
            answer = site.get(path)
            assert answer.status == 200
            return re.search(expected, answer.text, re.DOTALL) is not None

        wait_until(seen, what=f"{expected} in {path}")


def test_edits_under_load_fail_no_request(site: Any) -> None:
    paths = ["/", "/countries?q=an", "/languages", "/guestbook", "/accounts", "/naive", "/carried", "/backends"]
    with site.load(paths, clients=4) as load:
        for number in range(5):
            edit(site, "layout.py", 'SITE = "', f'SITE = "{number}')
            fresh(site, "/currencies", f"· {number}")
    assert load.statuses() == {200}
    assert not load.errors
    assert len(load.responses) > len(paths)


def test_backends_lists_the_pool_and_the_pages_own_connections(site: Any) -> None:
    backend = {path: footer(site.get(path).text)["backend"] for path in ("/naive", "/carried", "/backends")}
    page = site.get("/backends?every=2").text
    assert '<meta http-equiv="refresh" content="2">' in page
    for pid in backend.values():
        assert f"<b>{pid}</b>" in page
    assert re.search(rf'<tr class="mine"><td><b>{footer(page)["backend"]}</b>', page)


def test_the_ten_line_page_of_the_first_page_works_as_printed(site: Any) -> None:
    (source,) = re.findall(r"<pre><code>(.*?)</code></pre>", site.get("/").text, re.DOTALL)
    assert site.get("/hello").status == 404
    site.write("hello.py", html.unescape(source))

    def served() -> bool:
        return bool(site.get("/hello").status == 200)

    wait_until(served, what="/hello")
    assert re.fullmatch(r"Hello, Zoë: it is \d\d:\d\d", site.get("/hello?name=Zo%C3%AB").text)
