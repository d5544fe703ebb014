"""The example site on a real Apache, with the rows of iso-codes in a real PostgreSQL."""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
from servers.base import wait_until

SITE = Path(__file__).resolve().parents[2] / "handlers" / "examples"

PAGES = {
    "/": "7,910</b> languages",
    "/countries": "Åland Islands",
    "/countries/show?code=FI": "Varsinais-Suomi",
    "/languages": "1 to 50 of 7,910 languages",
    "/currencies": "Swiss Franc",
    "/guestbook": "Sign the guest book",
    "/accounts": "Björn",
    "/naive": "Five subdivisions",
    "/carried": "open in the pool",
    "/backends": "this request&#x27;s is marked",
}


def loader() -> Any:
    spec = importlib.util.spec_from_file_location("examples_load", SITE / "_setup" / "load.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(postgres: Any) -> Any:
    """The database with the site's rows in it."""
    conn = psycopg2.connect(postgres.conninfo)
    try:
        loader().load(conn)
    finally:
        conn.close()
    return postgres


@pytest.fixture
def site(httpd: Callable[..., Any], rows: Any) -> Any:
    """The example site on one child: what one request sees the next one sees too."""
    rows.execute("TRUNCATE demo.note")
    rows.execute("UPDATE demo.account SET balance = 100")
    return httpd(site=SITE, options={"mpool.conninfo": rows.conninfo})


def footer(page: str) -> dict[str, str]:
    """What the foot of a page says: process, thread, interpreter, instance, generation, backend."""
    return dict(re.findall(r'<b id="(\w+)">([^<]*)</b>', page))


def edit(site: Any, name: str, old: str, new: str) -> None:
    source = (site.site / name).read_text(encoding="utf-8")
    assert old in source
    site.write(name, source.replace(old, new))


def fresh(site: Any, path: str, expected: str) -> str:
    """The page at *path* as soon as it has *expected* in it: a file is taken over when it is 50 ms old."""
    found: list[str] = []

    def arrived() -> bool:
        answer = site.get(path)
        assert answer.status == 200, answer.text
        found.append(answer.text)
        return expected in answer.text

    wait_until(arrived, what=f"{expected!r} in {path}")
    return found[-1]


# -- loading -----------------------------------------------------------------------------------------------------------


def test_loading_twice_writes_once(rows: Any) -> None:
    conn = psycopg2.connect(rows.conninfo)
    try:
        assert loader().load(conn) == 0
        assert conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    finally:
        conn.close()
    assert rows.execute("SELECT count(*) FROM demo.country") == [(249,)]


def test_what_visitors_wrote_survives_new_iso_codes(rows: Any, tmp_path: Path) -> None:
    for number, content in loader().read().items():
        (tmp_path / f"iso_{number}.json").write_bytes(content + b"\n")
    rows.execute("INSERT INTO demo.note (author, message, country) VALUES ('Ada', 'stays', 'FI')")
    conn = psycopg2.connect(rows.conninfo)
    try:
        assert loader().load(conn, tmp_path) > 13_000
        assert loader().load(conn) > 13_000
    finally:
        conn.close()
    assert rows.execute("SELECT author, country FROM demo.note WHERE message = 'stays'") == [("Ada", "FI")]


def test_a_load_that_fails_leaves_the_old_rows(rows: Any, tmp_path: Path) -> None:
    for number, content in loader().read().items():
        (tmp_path / f"iso_{number}.json").write_bytes(content)
    (tmp_path / "iso_4217.json").write_text('{"4217": [{"alpha_3": "XXX", "numeric": "999", "name": null}]}')
    conn = psycopg2.connect(rows.conninfo)
    try:
        with pytest.raises(psycopg2.errors.NotNullViolation):
            loader().load(conn, tmp_path)
        assert conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    finally:
        conn.close()
    assert rows.execute("SELECT count(*) FROM demo.currency") == [(181,)]


# -- reading -----------------------------------------------------------------------------------------------------------


def test_every_page_shows_real_rows_and_who_answered(site: Any, rows: Any) -> None:
    (child,) = site.children()
    for path, expected in PAGES.items():
        answer = site.get(path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8"), path
        assert expected in answer.text, path
        assert not re.search(r"<a [^>]*>\s*(<span[^>]*></span>)?\s*</a>", answer.text), f"a link without text: {path}"
        told = footer(answer.text)
        assert told["process"] == str(child)
        assert told["interpreter"] == "main_interpreter"
        assert told["instance"] == "1"
        assert int(told["generation"]) >= 1 and int(told["thread"]) > 0
        assert int(told["backend"]) in {pid for pid, _, _ in rows.backends(prefix="")}, path


def test_pages_that_take_conn_share_the_pool(site: Any) -> None:
    paths = [path for path in PAGES if path not in ("/naive", "/carried")]
    backends = {footer(site.get(path).text)["backend"] for path in paths}
    assert len(backends) == 1


def test_the_style_sheet_is_served_to_be_kept(site: Any) -> None:
    address = re.search(r'<link rel="stylesheet" href="([^"]+)">', site.get("/").text)
    assert address is not None
    answer = site.get(address[1])
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert "immutable" in answer.headers["Cache-Control"]
    assert "--accent" in answer.text


NO_PAGES = [
    *("/settings", "/settings/conninfo", "/markup/Html", "/markup/fill?template=x"),
    *("/layout/page", "/layout/text?value=x", "/layout/see_other?address=/", "/layout.py/page"),
    *("/naive/myconnection", "/naive/psycopg2", "/carried/pool", "/carried/opened"),
    *("/countries/SEARCH", "/countries/_parts", "/countries.pyc", "/guestbook/_show"),
    *("/accounts/index/_transfer", "/accounts/index/get", "/accounts/Accounts/handler"),
    "/accounts/index/post?payer=Amina&payee=Chidi&amount=1",
    *("/_setup/load", "/_setup/load/read", "/_setup/load/main?arguments=x", "/_setup/load.py", "/_setup/schema.sql"),
]


def test_what_is_no_page_has_no_address(site: Any, rows: Any) -> None:
    before = balances(rows)
    for path in NO_PAGES:
        answer = site.get(path)
        assert answer.status in (403, 404), (path, answer.text)
        assert "host=" not in answer.text and "dbname" not in answer.text, path
    assert balances(rows) == before


SEARCHES = (
    ("d'ivo", ["Côte d&#x27;Ivoire"], ["Finland"]),
    ("COTE D’IVO", ["Côte d&#x27;Ivoire"], ["Finland"]),  # noqa: RUF001
    ("aland", ["Åland Islands", "New Zealand"], ["Sweden"]),
    ("fin", ["Finland"], ["Sweden"]),
    ("%", ["No country has <b>%</b>"], ["Finland"]),
    ("_", ["No country has <b>_</b>"], ["Finland"]),
    ("\\", ["No country has <b>\\</b>"], ["Finland"]),
    ("'; DROP TABLE demo.country; --", ["No country has"], ["Finland"]),
    ("<script>alert(1)</script>", ["&lt;script&gt;alert(1)&lt;/script&gt;"], ["<script"]),
    ('"><img src=x>', ["&quot;&gt;&lt;img src=x&gt;"], ["<img"]),
    ("fin\x00", ["Finland"], []),
    ("日本", ["No country has <b>日本</b>"], []),
)


def test_search_takes_what_people_type(site: Any) -> None:
    for q, found, missing in SEARCHES:
        answer = site.get("/countries?q=" + quote(q))
        assert answer.status == 200, q
        body = answer.text[answer.text.index("<h1>") : answer.text.index("<aside")]
        assert all(text in body for text in found), body
        assert not any(text in body for text in missing), body


def test_languages_are_paged(site: Any) -> None:
    first, second = site.get("/languages?q=sign&page=1").text, site.get("/languages?q=sign&page=2").text
    assert "1 to 50 of" in first and "51 to 100 of" in second
    assert "/languages?q=sign&amp;page=2" in first
    for page in ("999999", "-1", "9" * 40):
        assert site.get(f"/languages?page={page}").status == 200
    answer = site.get("/languages?page=two")
    assert answer.status == 400 and "page" in answer.text


def test_what_does_not_exist_is_a_404(site: Any) -> None:
    for path in ("/countries/show?code=XX", "/countries/show", "/countries/show?code=%27", "/nothing"):
        assert site.get(path).status == 404, path


def test_a_country_is_found_by_either_code_in_either_case(site: Any) -> None:
    for code in ("fi", "FI", "fin", "FIN"):
        answer = site.get(f"/countries/show?code={code}")
        assert (answer.status, "Republic of Finland" in answer.text) == (200, True)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_the_guest_book_keeps_what_was_written(site: Any, rows: Any) -> None:
    entry = {"author": "Zoë <b>", "message": "It's 100% <script>\r\nsecond line", "country": "fi"}
    answer = site.post("/guestbook", entry)
    assert (answer.status, answer.headers["Location"]) == (303, "/guestbook?signed=1")
    written = rows.execute("SELECT author, message, country FROM demo.note")
    assert written == [("Zoë <b>", "It's 100% <script>\nsecond line", "FI")]
    page = site.get("/guestbook?signed=1").text
    assert "Thank you" in page and "<script" not in page
    assert html.escape("It's 100% <script>\nsecond line") in page
    assert "Zoë &lt;b&gt;" in site.get("/countries/show?code=FI").text


FAULTY = (
    ({"author": "", "message": "hello"}, "Please give a name."),
    ({"author": "Ada", "message": " \r\n "}, "Please write a message."),
    ({"author": "A" * 61, "message": "hello"}, "longer than 60"),
    ({"author": "Ada", "message": "<" * 501}, "longer than 500"),
    ({}, "Please give a name."),
)


def test_a_faulty_entry_is_shown_again_and_not_written(site: Any, rows: Any) -> None:
    for entry, fault in FAULTY:
        answer = site.post("/guestbook", entry)
        assert (answer.status, fault in answer.text) == (422, True), answer.text
        assert html.escape(entry.get("message", "").strip()) in answer.text
        assert rows.execute("SELECT count(*) FROM demo.note") == [(0,)]


def test_an_unknown_country_is_left_out(site: Any, rows: Any) -> None:
    assert site.post("/guestbook", {"author": "Ada", "message": "hello", "country": "XX"}).status == 303
    assert rows.execute("SELECT author, country FROM demo.note") == [("Ada", None)]
    assert re.search(r"<b>Ada</b>, [-\d]+ [:\d]+ UTC </span>", site.get("/guestbook").text)


def test_a_form_of_another_site_is_refused(site: Any, rows: Any) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert site.post("/guestbook", {"author": "Eve", "message": "hello"}, headers).status == 403
    assert rows.execute("SELECT count(*) FROM demo.note") == [(0,)]


def test_an_exception_after_the_insert_takes_it_back(site: Any, rows: Any) -> None:
    site.get("/guestbook")
    edit(site, "guestbook.py", "cur.execute(WRITE, entry)", "cur.execute(WRITE, entry)\n        raise OSError('gone')")

    def fails() -> bool:
        return bool(site.post("/guestbook", {"author": "Ada", "message": "hello"}).status == 500)

    wait_until(fails, what="the edited guest book")
    before = rows.execute("SELECT count(*) FROM demo.note")
    assert site.post("/guestbook", {"author": "Ada", "message": "again"}).status == 500
    assert rows.execute("SELECT count(*) FROM demo.note") == before
    assert site.get("/guestbook").status == 200


def balances(rows: Any) -> dict[str, Decimal]:
    return dict(rows.execute("SELECT owner, balance FROM demo.account"))


def test_a_transfer_changes_both_accounts(site: Any, rows: Any) -> None:
    answer = site.post("/accounts", {"payer": "Björn", "payee": "D'Arcy", "amount": "12.50"})
    assert (answer.status, answer.headers["Location"]) == (303, "/accounts?moved=12.50")
    after = balances(rows)
    assert (after["Björn"], after["D'Arcy"]) == (Decimal("87.50"), Decimal("112.50"))
    page = site.get("/accounts?moved=12.50").text
    assert "12.50 moved" in page and "87.50" in page


IMPOSSIBLE = (
    ({"amount": "100.01"}, "Amina has 100.00 only."),
    ({"amount": "0"}, "more than nothing"),
    ({"amount": "-5"}, "more than nothing"),
    ({"amount": "0.005"}, "whole cents"),
    ({"amount": "1" + "0" * 40}, "whole cents"),
    ({"payee": "Amina"}, "two different accounts"),
    ({"payee": "nobody"}, "two different accounts"),
    ({"payer": "' OR true --"}, "two different accounts"),
)


def test_an_impossible_transfer_changes_nothing(site: Any, rows: Any) -> None:
    before = balances(rows)
    for change, fault in IMPOSSIBLE:
        answer = site.post("/accounts", {"payer": "Amina", "payee": "Chidi", "amount": "1"} | change)
        assert (answer.status, fault in answer.text) == (422, True), answer.text
        assert balances(rows) == before


def test_a_transfer_without_an_amount_is_a_400_that_names_it(site: Any) -> None:
    answer = site.post("/accounts", {"payer": "Amina", "payee": "Chidi"})
    assert answer.status == 400 and "amount" in answer.text


def test_a_method_that_the_class_lacks_is_a_405(site: Any) -> None:
    answer = site.request("DELETE", "/accounts")
    assert answer.status == 405


def test_transfers_in_both_directions_at_once_all_happen(site: Any, rows: Any) -> None:
    there = {"payer": "Amina", "payee": "Chidi", "amount": "1"}
    back = {"payer": "Chidi", "payee": "Amina", "amount": "2"}
    with ThreadPoolExecutor(10) as clients:
        answers = list(clients.map(lambda form: site.post("/accounts", form).status, [there, back] * 20))
    assert answers == [303] * 40
    after = balances(rows)
    assert (after["Amina"], after["Chidi"]) == (120, 80)


def test_what_the_page_forgets_to_check_the_database_refuses(site: Any, rows: Any) -> None:
    site.get("/accounts")
    edit(site, "accounts.py", "if balances[self.payer] < self.amount:", "if False:")
    before = balances(rows)

    def refused() -> bool:
        return bool(site.post("/accounts", {"payer": "Amina", "payee": "Chidi", "amount": "900"}).status == 500)

    wait_until(refused, what="a refused transfer")
    assert balances(rows) == before
    assert site.get("/accounts").status == 200


# -- editing -----------------------------------------------------------------------------------------------------------


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
