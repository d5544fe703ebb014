"""Every item of the reload contract that the code cites is in the repository."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_item_that_a_comment_names_stands_in_the_contract():
    contract = (ROOT / "handlers/reload/README.rst").read_text(encoding="utf-8")
    items = {int(number) for number in re.findall(r"^(\d+)\. ", contract, re.MULTILINE)}
    assert items == set(range(1, 51))
    for path in (ROOT / "handlers").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for cited in re.findall(r"\(?(?:reload contract, )?items? ((?:\d+(?:, | and | to )?)+)", source):
            assert {int(number) for number in re.findall(r"\d+", cited)} <= items, path
