"""A thousand reloads of a tree of 20 modules: memory, descriptors, threads and backends level off."""

from __future__ import annotations

import faulthandler
import os

import pytest
from servers.endurance import Endurance, Figures

RELOADS = int(os.environ.get("RELOADS", "1000"))


@pytest.mark.bench
def test_a_thousand_reloads_level_off(httpd, postgres) -> None:
    faulthandler.cancel_dump_traceback_later()  # it takes some minutes, and every wait in it has its deadline
    endurance = Endurance(httpd, postgres)
    rows: list[Figures] = []
    print()
    for _ in range(10):
        endurance.reload(RELOADS // 10)
        rows.append(endurance.settle())
        print(rows[-1], flush=True)
    early, late = rows[2], rows[-1]
    assert late.threads <= early.threads + 1 and late.descriptors <= early.descriptors + 2
    # In KiB: some MiB are the allocator's; what each reload would leave behind is more than 2.
    assert late.rss - early.rss < 4000 + 2 * (late.reloads - early.reloads)
