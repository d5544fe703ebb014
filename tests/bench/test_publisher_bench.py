"""`make bench`: pages per second beside what else serves pages under Apache. Figures, not judgements."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from bench.publisher_bench import AB, as_json, measure, rows_with_a_database, rows_without_a_database, table

RESULTS = Path(os.environ.get("BENCH_RESULTS", "build/bench"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
REQUESTS = int(os.environ.get("BENCH_REQUESTS", "10000"))


@pytest.mark.bench
@pytest.mark.skipif(not Path(AB).exists(), reason="needs ab, of Debian's apache2-utils")
@pytest.mark.parametrize("kind", ["page", "page_with_database"])
def test_pages_beside_their_peers(packages, postgres, kind):
    rows = rows_without_a_database() if kind == "page" else rows_with_a_database(postgres.conninfo)
    measure(rows, packages, ROUNDS, REQUESTS)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{kind}.json").write_text(json.dumps(as_json(rows), indent=2) + "\n", encoding="utf-8")
    print(f"\n{table(kind.replace('_', ' '), rows)}\n{json.dumps({kind: as_json(rows)})}")
    assert all(rate > 0 for row in rows for rate in row.rates)
