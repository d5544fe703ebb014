"""`make bench`: what a request pays for the check that nothing has changed. Measured inside Apache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

RESULTS = Path(os.environ.get("BENCH_RESULTS", "build/bench"))

# One short round times each way in turn, and the best of many rounds counts: what other processes take is not ours.
MEASURE = """
import json, os, time
from mod_python import apache
from handlers.apache import dispatch
from handlers.reload.context import Call, Settings, entered

ROUNDS, TIMES = 300, 20
directory = os.path.dirname(__file__)
plain, resting = Settings(), Settings(check_interval=1.0)  # read once for each configuration, in real requests too

def import_as_a_request(settings):
    call = Call(settings=settings, handler_root=directory)
    with entered(call):
        dispatch._module("page{files}", call, directory)

def timed(function):
    begin = time.perf_counter()
    for _ in range(TIMES):
        function()
    return (time.perf_counter() - begin) / TIMES * 1e6

def handler(req):
    files = [os.path.join(directory, name) for name in os.listdir(directory) if name.startswith("part{files}_")]
    files.append(os.path.join(directory, "page{files}.py"))
    assert len(files) == {files}
    ways = {{
        "bare os.stat": lambda: [os.stat(file) for file in files],
        "handlers.importer": lambda: import_as_a_request(plain),
        "handlers.importer, check_interval=1": lambda: import_as_a_request(resting),
        "mod_python (reloads nothing, looks once a second)": lambda: apache.ximport_module("stock{files}"),
    }}
    import sys
    if directory not in sys.path:
        sys.path.append(directory)
    for way in ways.values():
        way()
    rounds = [{{name: timed(way) for name, way in ways.items()}} for _ in range(ROUNDS)]
    req.content_type = "application/json"
    req.write(json.dumps({{name: min(each[name] for each in rounds) for name in ways}}))
    return apache.OK
"""


@pytest.mark.bench
def test_what_an_unchanged_tree_costs_a_request(httpd) -> None:
    results = {}
    for count in (1, 10, 50):
        parts = [f"part{count}_{number}" for number in range(1, count)]
        site = {f"{name}.py": "x = 1\n" for name in parts}
        site[f"page{count}.py"] = "".join(f"import {name}\n" for name in parts)
        site[f"stock{count}.py"] = "x = 1\n"
        site["measure.py"] = MEASURE.format(files=count)
        server = httpd(site=site, handler="measure")
        answer = server.get("/x")
        assert answer.status == 200, server.log()
        results[str(count)] = json.loads(answer.text)
        server.stop()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "importer.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print("\nwhat an import of an unchanged tree costs a request, in microseconds (and times the bare stats)")
    print(f"{'':52}" + "".join(f"{count + ' files':>18}" for count in results))
    for name in results["1"]:
        cells = [f"{row[name]:.2f} ({row[name] / row['bare os.stat']:.2f})" for row in results.values()]
        print(f"{name:52}" + "".join(f"{cell:>18}" for cell in cells))
