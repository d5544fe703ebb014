"""The example site without a server: its markup, its helpers and what its loader makes of the files."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SITE = Path(__file__).resolve().parents[2] / "handlers" / "examples"
# Files of the site that its pages import, and that must not answer to an address.
HELPERS = ("layout", "markup", "settings", "_setup/load")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of the site by its bare name, as the pages do, and forgets it after the test."""
    monkeypatch.syspath_prepend(str(SITE))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("examples_load", SITE / "_setup" / "load.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_values_are_escaped_and_markup_is_not(module: Any) -> None:
    markup = module("markup")
    assert markup.fill("<p title='$a'>$b</p>", a="'\"", b="<&>") == "<p title='&#x27;&quot;'>&lt;&amp;&gt;</p>"
    inner = markup.fill("<b>$name</b>", name="<Ada>")
    assert markup.fill("<p>$inner</p>", inner=inner) == "<p><b>&lt;Ada&gt;</b></p>"
    assert markup.each("<td>$v</td>", [{"v": "<"}, {"v": None}, {"v": 0}]) == "<td>&lt;</td><td></td><td>0</td>"


def test_text_added_to_markup_is_escaped(module: Any) -> None:
    markup = module("markup")
    joined = markup.Html("<p>") + "<script>"
    joined += markup.Html("</p>")
    assert markup.markup(joined) == "<p>&lt;script&gt;</p>"


def test_a_dollar_sign_in_a_value_is_left_alone(module: Any) -> None:
    assert module("markup").fill("<p>$price</p>", price="$5 and $name") == "<p>$5 and $name</p>"


def test_markup_from_before_a_reload_is_still_markup(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = module("markup")
    monkeypatch.delitem(sys.modules, "markup")
    new = module("markup")
    assert new.Html is not old.Html
    assert new.fill("$part", part=old.Html("<b>x</b>")) == "<b>x</b>"


@pytest.mark.parametrize(
    ("sent", "used"),
    [
        ("  Ada ", "Ada"),
        ("nul\x00 and bell\x07", "nul and bell"),
        ("half \ud83d a pair", "half  a pair"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("família 👨‍👩‍👧", "família 👨‍👩‍👧"),
    ],
)
def test_text_is_fit_for_postgresql(module: Any, sent: str, used: str) -> None:
    assert module("layout").text(sent) == used


@pytest.mark.parametrize("name", HELPERS)
def test_helpers_publish_nothing(name: str) -> None:
    """With an empty `__all__` no function of the file can be reached by a URL."""
    body = ast.parse((SITE / f"{name}.py").read_text(encoding="utf-8")).body
    published = [
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == "__all__"
    ]
    assert published == [[]]


def test_every_page_is_linked_from_every_other(module: Any) -> None:
    linked = {address.strip("/") for address, _ in module("layout").NAVIGATION}
    pages = {path.stem for path in SITE.glob("*.py")} - {"index", "style", *HELPERS}
    assert linked == pages


def test_the_style_sheet_has_a_new_address_when_it_changes(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    style = module("style")
    source = (SITE / "style.py").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    exec(source.replace("--accent: #0b6e69", "--accent: #8a2be2"), namespace)
    assert namespace["VERSION"] != style.VERSION


# -- the loader --------------------------------------------------------------------------------------------------------


def write_source(directory: Path, **replaced: object) -> Path:
    """A tiny iso-codes: one or two entries of each standard."""
    country = {"alpha_2": "XA", "alpha_3": "XAA", "numeric": "901", "name": "Xa, Republic of", "common_name": "Xa"}
    entries: dict[str, object] = {
        "3166-1": [country],
        "3166-2": [
            {"code": "XA-1", "name": "North", "type": "Region"},
            {"code": "XA-2", "name": "Town", "type": "City", "parent": "1"},
            {"code": "XA-3", "name": "Port", "type": "City", "parent": "XA-1"},
        ],
        "4217": [{"alpha_3": "XAD", "name": "Xa Dollar", "numeric": "902"}],
        "639-2": [{"alpha_3": "xaa", "name": "Xaic"}],
        "639-3": [
            {"alpha_3": "xaa", "name": "Xaic", "scope": "I", "type": "L", "alpha_2": "xa"},
            {"alpha_3": "xab", "name": "Old Xaic", "scope": "I", "type": "E"},
        ],
        **replaced,
    }
    for number, content in entries.items():
        (directory / f"iso_{number}.json").write_text(json.dumps({number: content}), encoding="utf-8")
    return directory


def rows_of(load: Any, source: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows for table, _, rows in load.tables(load.read(source))}


def test_rows_are_made_of_the_files(load: Any, tmp_path: Path) -> None:
    rows = rows_of(load, write_source(tmp_path))
    assert rows["country"] == [("XA", "XAA", "901", "", "Xa", None)]
    assert rows["currency"] == [("XAD", "902", "Xa Dollar")]
    assert rows["language"] == [("xaa", "xa", "Xaic", "I", "L", True), ("xab", None, "Old Xaic", "I", "E", False)]


def test_a_parent_has_its_country_in_its_code_however_the_file_writes_it(load: Any, tmp_path: Path) -> None:
    parents = {code: parent for code, _, _, _, parent in rows_of(load, write_source(tmp_path))["subdivision"]}
    assert parents == {"XA-1": None, "XA-2": "XA-1", "XA-3": "XA-1"}


def test_each_changed_file_changes_the_fingerprint(load: Any, tmp_path: Path) -> None:
    before = load.fingerprint(load.read(write_source(tmp_path)).values())
    for number in load.STANDARDS:
        path = tmp_path / f"iso_{number}.json"
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert load.fingerprint(load.read(tmp_path).values()) != before, number
        path.write_bytes(content)
    assert load.fingerprint(load.read(tmp_path).values()) == before


def test_missing_iso_codes_is_one_line_that_says_what_to_install(load: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        load.read(tmp_path / "nothing")
    message = str(raised.value)
    assert "\n" not in message
    assert "iso_3166-1.json" in message and "apt-get install iso-codes" in message


def test_the_command_line_says_in_one_line_that_there_is_no_database(load: Any, capsys: Any, tmp_path: Path) -> None:
    assert load.main([f"host={tmp_path} dbname=site"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("load.py: ") and err.count("\n") == 1
    assert load.main([]) == 2
