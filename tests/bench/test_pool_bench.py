"""`make bench`: the pool beside its peers. Figures, not judgements: nothing here fails for being slow."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from bench.pool_bench import Bench, kill_backends, table

RESULTS = Path(os.environ.get("BENCH_RESULTS", "build/bench"))


def publish(name: str, result: dict[str, object], text: str) -> None:
    """The table to standard output, and as JSON to standard output and a file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\n{text}\n\n{json.dumps({name: result})}\n(also in {path})")


@pytest.mark.bench
def test_pool_beside_its_peers(postgres):
    result = Bench(
        postgres.conninfo, kill_backends(postgres.admin_conninfo), int(os.environ.get("BENCH_ROUNDS", "11"))
    ).run()
    publish("pool", result, table(result))
    assert result["rows"]["mpool"]["a_ns"] > 0
