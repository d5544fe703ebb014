"""The example site on a real Apache, with the rows of iso-codes in a real PostgreSQL: loading, reading, writing."""

from __future__ import annotations

import html
import re
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
from servers.base import wait_until
from servers.example_site import PAGES, edit, entries, footer, loader, make_rows, make_site

rows = pytest.fixture(scope="module")(make_rows)
site = pytest.fixture(make_site)


# -- loading -----------------------------------------------------------------------------------------------------------


def test_loading_twice_writes_once(rows: Any) -> None:
    conn = psycopg2.connect(rows.conninfo)
    try:
        assert loader().load(conn) == 0
        assert conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    finally:
        conn.close()
    assert rows.execute("SELECT count(*) FROM demo.country") == [(len(entries("3166-1")),)]


def test_what_visitors_wrote_survives_new_iso_codes(rows: Any, tmp_path: Path) -> None:
    for number, content in loader().read().items():
        (tmp_path / f"iso_{number}.json").write_bytes(content + b"\n")
    rows.execute("INSERT INTO demo.note (author, message, country) VALUES ('Ada', 'stays', 'FI')")
    conn = psycopg2.connect(rows.conninfo)
    try:
        assert loader().load(conn, tmp_path) > 10_000
        assert loader().load(conn) > 10_000
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
    assert rows.execute("SELECT count(*) FROM demo.currency") == [(len(entries("4217")),)]


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


def test_the_first_page_counts_what_iso_codes_has(site: Any) -> None:
    page = site.get("/").text
    standards = {"3166-1": "countries", "3166-2": "subdivisions", "639-3": "languages", "4217": "currencies"}
    for number, noun in standards.items():
        assert f"<b>{len(entries(number)):,}</b> {noun}" in page


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
