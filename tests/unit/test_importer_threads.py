"""The importer under threads: what is executed how often, who waits, what is seen, and that nothing hangs."""

from __future__ import annotations

import builtins
import itertools
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from importer_site import Site
from servers.base import wait_until

from handlers.reload.context import Call, entered
from handlers.reload.failures import FIRST_RETRY
from handlers.reload.loads import Load, Loads
from handlers.reload.modules import ModuleInfo

PATIENCE = 60.0


def run_threads(targets: list[Callable[[], object]]) -> None:
    """Run them at the same time; what one of them raises is raised here, and so is that one of them hangs."""
    start = threading.Barrier(len(targets))
    errors: list[BaseException] = []

    def run(target: Callable[[], object]) -> None:
        try:
            start.wait(PATIENCE)
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    hanging = [thread.name for thread in threads if thread.is_alive()]
    assert not hanging, f"{hanging} hang"
    if errors:
        raise errors[0]


def save(path: Path, text: str) -> None:
    """As an editor does: no reader sees it unfinished."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


class Journal:
    """What the modules report; `JOURNAL` in their builtins."""

    def __init__(self) -> None:
        self.runs: list[tuple[Any, float]] = []
        self.purges: list[Any] = []
        self.meeting: threading.Barrier | None = None
        self.roots: dict[int, str] = {}

    def run(self, what: Any) -> None:
        self.runs.append((what, time.monotonic()))

    def meet(self, name: str) -> None:
        """Wait until every thread is inside the module that it was sent for."""
        if self.meeting is not None and self.roots.get(threading.get_ident()) == name:
            self.meeting.wait(PATIENCE)

    def counts(self) -> Counter[Any]:
        return Counter(what for what, _ in self.runs)


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    journal = Journal()
    monkeypatch.setattr(builtins, "JOURNAL", journal, raising=False)
    yield journal


class CountingLoads(Loads):
    """Counts for each thread the loads that it has carried out or waited for itself; its nested ones are one."""

    def __init__(self) -> None:
        super().__init__()
        self.met: Counter[int] = Counter()

    def join(self, key: Any, parent: Load | None, begin: Callable[[], ModuleInfo | None]) -> tuple[Load | None, bool]:
        load, mine = super().join(key, parent, begin)
        self.met[threading.get_ident()] += mine
        return load, mine

    def _wait(self, load: Load, or_else: Callable[[], bool]) -> None:
        self.met[threading.get_ident()] += 1
        super()._wait(load, or_else)


SLOW = """
version = first = {version}
JOURNAL.run({version})
import time
time.sleep(0.3)
{breaks}
last = {version}
"""


def test_32_threads_on_a_slow_module_that_is_edited_every_100_ms(site: Site, journal: Journal) -> None:
    path = site.root / "page.py"
    loads = site.importer.loader.loads = CountingLoads()
    ended = threading.Event()
    latest = 0
    save(path, SLOW.format(version=0, breaks=""))

    def edit() -> None:
        nonlocal latest
        try:
            until = time.monotonic() + 10
            while time.monotonic() < until:
                ended.wait(0.1)
                latest += 1
                save(path, SLOW.format(version=latest, breaks="1 / 0" if latest % 5 == 0 else ""))
            latest += 1
            save(path, SLOW.format(version=latest, breaks=""))
        finally:
            ended.set()

    def visit() -> None:
        seen = -1
        me = threading.get_ident()
        while not ended.is_set():
            loads.met[me] = 0
            module = site.load()
            assert module.first == module.last, "half built"
            assert module.version >= seen, "an older one than before"
            seen = module.version
            assert loads.met[me] <= 1, "more than one load in one request"

    run_threads([edit, *[visit] * 32])
    assert site.load().version == latest
    last_run: dict[int, float] = {}
    for version, at in journal.runs:
        if version in last_run:
            assert version % 5 == 0 and at - last_run[version] >= FIRST_RETRY, f"version {version} was executed twice"
        last_run[version] = at
    assert len(last_run) > 5
    assert site.importer.loader.loads is loads and not loads._loads and not loads._waiting


def graph_source(name: str, version: int, imports: list[str]) -> str:
    lines = [f"JOURNAL.run(({name!r}, {version}))", f"version = {version}", "done = False", f"JOURNAL.meet({name!r})"]
    lines += [f"import {child}" for child in imports]
    return "\n".join([*lines, "done = True", f"# {'x' * (version % 97)}"])


def reachable(graph: dict[str, list[str]], name: str) -> set[str]:
    found: set[str] = set()
    todo = [name]
    while todo:
        for child in graph[todo.pop()]:
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def check_tree(module: ModuleType, graph: dict[str, list[str]], seen: set[str]) -> None:
    """All that *module* was built on is finished, and is what is served."""
    info: ModuleInfo = module.__mp_info__
    name = Path(info.file).stem
    if name in seen:
        return
    seen.add(name)
    assert module.done, f"{name} is half built"
    assert info.cache.info is info, f"{name} is not what is served"
    for child in graph[name]:
        if child != name:
            check_tree(vars(module)[child], graph, seen)


@pytest.mark.parametrize("seed", range(int(os.environ.get("FUZZ_STEPS", "0")) // 1000 + 60))
def test_threads_over_a_random_import_graph_neither_hang_nor_see_anything_unfinished(
    site: Site, journal: Journal, seed: int
) -> None:
    """Each thread is inside another module of the graph when the first import statement runs; then some are edited."""
    rng = random.Random(seed)
    names = [f"graph_{letter}" for letter in "abcdef"]
    graph = {name: rng.sample(names, rng.randint(0, 3)) for name in names}
    versions = dict.fromkeys(names, 1)
    for name in names:
        site.write(f"{name}.py", graph_source(name, 1, graph[name]))

    def visit(root: str, check: bool) -> Callable[[], None]:
        def run() -> None:
            journal.roots[threading.get_ident()] = root
            module = site.load(root)
            assert module.done, "half built"
            if check:
                check_tree(module, graph, set())

        return run

    journal.meeting = threading.Barrier(len(names))
    run_threads([visit(name, True) for name in names])
    assert journal.counts() == Counter({(name, 1): 1 for name in names})
    journal.meeting = None

    for _ in range(3):
        journal.runs.clear()
        edited = set(rng.sample(names, rng.randint(1, 3)))
        for name in edited:
            versions[name] += 1
            site.write(f"{name}.py", graph_source(name, versions[name], graph[name]))
        run_threads([visit(name, True) for name in names * 2])
        expected = {name for name in names if name in edited or reachable(graph, name) & edited}
        assert journal.counts() == Counter({(name, versions[name]): 1 for name in expected})


def test_threads_over_a_random_graph_with_failing_members_do_not_hang(site: Site, journal: Journal) -> None:
    names = [f"graph_{letter}" for letter in "abcde"]
    for seed in range(40):
        rng = random.Random(seed)
        graph = {name: rng.sample(names, rng.randint(1, 3)) for name in names}
        broken = set(rng.sample(names, 2))
        for version, failing in ((2 * seed + 1, broken), (2 * seed + 2, set())):
            for name in names:
                source = graph_source(name, version, graph[name])
                site.write(f"{name}.py", source + ("\n1 / 0" if name in failing else ""))
            outcomes: list[object] = []

            def visit(name: str, outcomes: list[object] = outcomes) -> None:
                try:
                    outcomes.append(site.load(name))
                except ZeroDivisionError as error:
                    outcomes.append(error)

            journal.meeting = None
            run_threads([lambda name=name: visit(name) for name in names * 2])
            assert len(outcomes) == 10
            if seed or version == 2:
                assert all(isinstance(outcome, ModuleType) and outcome.done for outcome in outcomes), outcomes
        for name in names:
            check_tree(site.load(name), graph, set())
            assert site.load(name).version == 2 * seed + 2
        assert not site.importer.loader.loads._loads


def test_two_directories_with_the_same_names_are_never_mixed_up(site: Site, journal: Journal) -> None:
    page = "import util, config\nx = util.x, config.x, util.config.x\ndef again():\n    import config; return config.x"

    def save_all(version: int) -> None:
        for directory in "ab":
            site.write(f"{directory}/config.py", f"JOURNAL.meet('config')\nx = ('{directory}', {version})")
            site.write(f"{directory}/util.py", f"import config\nx = ('{directory}', {version})")
            site.write(f"{directory}/page.py", page)

    def visit(directory: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(10):
                with site.request() as request:
                    module = request.load(str(site.root / directory / "page.py"))
                    assert {x[0] for x in (*module.x, entered_call(request.call, module.again))} == {directory}

        return run

    for version in range(10):
        save_all(version)
        run_threads([visit("a"), visit("b")] * 8)
    for directory in "ab":
        assert site.load(str(site.root / directory / "page.py")).x == ((directory, 9),) * 3


def entered_call(call: Call, function: Callable[[], Any]) -> Any:
    with entered(call):
        return function()


GATED = """
import gate
version = {version}
def __mp_purge__():
    JOURNAL.purges.append(version)
if {version} == 2:
    gate.reached.set()
    gate.go.wait(60)
"""


def test_a_file_that_is_removed_while_it_is_loaded_is_retired_and_purged_once(site: Site, journal: Journal) -> None:
    gate = site.gate()
    site.write("page.py", GATED.format(version=1))
    site.load()
    path = site.write("page.py", GATED.format(version=2))
    served: list[int] = []

    def remove() -> None:
        try:
            assert gate.reached.wait(PATIENCE)
            path.unlink()
            with pytest.raises(ModuleNotFoundError):
                site.load()
        finally:
            gate.go.set()

    run_threads([lambda: served.append(site.load().version), remove])
    assert served == [2]
    site.drain()
    assert journal.purges == [1]
    with pytest.raises(ModuleNotFoundError):
        site.load()
    site.drain()
    site.drain()
    assert journal.purges == [1, 2]
    site.write("page.py", GATED.format(version=3))
    assert site.load().version == 3


def test_what_a_load_outside_of_any_request_was_built_on_is_not_purged_meanwhile(site: Site, journal: Journal) -> None:
    gate = site.gate()
    site.write("util.py", "version = 1\ndef __mp_purge__(): JOURNAL.purges.append(1)")
    site.write("page.py", "import gate, util\ngate.reached.set()\ngate.go.wait(60)")

    def outside() -> None:
        site.request().load("page")  # never begun: as in a thread of the site's own

    def edit() -> None:
        try:
            assert gate.reached.wait(PATIENCE)
            site.write("util.py", "version = 22")
            assert site.load("util").version == 22
            site.drain()
            assert journal.purges == []
        finally:
            gate.go.set()

    run_threads([outside, edit])
    site.drain()
    assert journal.purges == []
    assert site.load("page").util.version == 22
    site.drain()
    assert journal.purges == [1]


def test_a_request_that_waited_for_a_load_that_fails_does_not_execute_it_itself(site: Site, journal: Journal) -> None:
    gate = site.gate()
    site.write("page.py", "JOURNAL.run('page')\nimport gate\ngate.reached.set()\ngate.go.wait(60)\n1 / 0")

    def first() -> None:
        with pytest.raises(ZeroDivisionError):
            site.load()

    def second() -> None:
        assert gate.reached.wait(PATIENCE)
        with site.request() as request:
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    request.load()

    def release() -> None:
        wait_until(lambda: site.importer.loader.loads._waiting, what="the second one waits")
        gate.go.set()

    run_threads([first, second, release])
    assert journal.counts() == {"page": 1}


def test_threads_that_end_loads_at_the_same_time_retire_each_old_instance_once(site: Site, journal: Journal) -> None:
    names = [f"page_{number}" for number in range(8)]
    source = "version = {name!r}, {version}\nJOURNAL.meet({name!r})\ndef __mp_purge__(): JOURNAL.purges.append(version)"
    for version in range(30):
        journal.meeting = threading.Barrier(len(names))
        for name in names:
            site.write(f"{name}.py", source.format(name=name, version=version))

        def visit(name: str) -> Callable[[], None]:
            def run() -> None:
                journal.roots[threading.get_ident()] = name
                site.load(name)

            return run

        run_threads([visit(name) for name in names])
        site.drain()
    assert Counter(journal.purges) == Counter((name, version) for name in names for version in range(29))


CHAOS = """
execution = JOURNAL.execution()
purged = []
{imports}
def __mp_purge__():
    purged.append(1)
    JOURNAL.purges.append(execution)
{clone}
{breaks}
complete = True
"""


class Chaos:
    """Edits, breakages and removals at random under requests; nothing is used after its purge, nothing purged twice."""

    names = tuple(f"chaos_{letter}" for letter in "abcde")

    def __init__(self, site: Site, journal: Journal, seed: int) -> None:
        self.site = site
        self.rng = random.Random(seed)
        self.ended = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.executions = iter(range(10**9))
        journal.execution = self.executions.__next__  # type: ignore[attr-defined]

    def source(self) -> str:
        rng = self.rng
        return CHAOS.format(
            imports="\n".join(f"import {name}" for name in rng.sample(self.names, rng.choice([0, 0, 1, 2]))),
            clone=rng.choice(["", "", "def __mp_clone__(module): pass", "def __mp_clone__(module): 1 / 0"]),
            breaks=rng.choice(["", "", "", "", "1 / 0", "x = ("]),
        )

    def edit(self) -> None:
        try:
            deadline = time.monotonic() + PATIENCE / 2
            edits = itertools.count(1)
            # As long as it takes the requests to have met some of them, on a machine with other work, too.
            while next(edits) <= 250 or (self.outcomes["loaded"] <= 100 and time.monotonic() < deadline):
                path = self.site.root / f"{self.rng.choice(self.names)}.py"
                if self.rng.random() < 0.15:
                    path.unlink(missing_ok=True)
                else:
                    save(path, self.source())
                self.ended.wait(0.005)
        finally:
            self.ended.set()

    def visit(self, seed: int) -> Callable[[], None]:
        def run() -> None:
            rng = random.Random(seed)
            while not self.ended.is_set():
                with self.site.request(keep_last_good=rng.random() < 0.9) as request:
                    held = [self.load(request, rng.choice(self.names)) for _ in range(2)]
                    for module in filter(None, held):
                        for part in (module.__mp_info__, *(part for _, part, _, _ in module.__mp_info__.closure)):
                            assert part.module.complete, "half built"
                            assert not part.module.purged, "purged while it is used"

        return run

    def load(self, request: Any, name: str) -> ModuleType | None:
        try:
            module: ModuleType = request.load(name)
        except (ImportError, FileNotFoundError, ZeroDivisionError, SyntaxError) as error:
            self.outcomes[type(error).__name__] += 1
            return None
        self.outcomes["loaded"] += 1
        return module

    def housekeep(self) -> None:
        while not self.ended.is_set():
            self.site.drain()
            self.ended.wait(0.002)


@pytest.mark.parametrize("seed", range(int(os.environ.get("FUZZ_STEPS", "0")) // 10_000 + 1))
def test_nothing_is_used_after_its_purge_whatever_happens_to_the_files(site: Site, journal: Journal, seed: int) -> None:
    chaos = Chaos(site, journal, seed)
    run_threads([chaos.edit, chaos.housekeep, *[chaos.visit(100 * seed + number) for number in range(6)]])
    site.drain()
    assert chaos.outcomes["loaded"] > 100, chaos.outcomes
    assert max(Counter(journal.purges).values()) == 1, "purged twice"
    assert not site.importer.retirement.pending or all(
        any(part is info for other in site.importer.loader.serving() for _, part, _, _ in other.closure)
        for info in site.importer.retirement.pending
    )
    for info in site.importer.loader.serving():
        assert sys.modules[info.label] is info.module
        assert info.module.execution not in journal.purges
    assert not site.importer.loader.loads._loads and not site.importer.loader.loads._waiting


def test_a_serving_module_may_bind_new_names_while_another_is_let_go(site: Site) -> None:
    site.write("busy.py", "globals().update({f'name_{number}': number for number in range(50_000)})")
    busy = site.load("busy")
    ended = threading.Event()

    def bind() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            setattr(busy, f"other_{number % 1000}", number)
            if number % 1000 == 0:
                for name in [name for name in vars(busy) if name.startswith("other_")]:
                    delattr(busy, name)

    def reload() -> None:
        try:
            for version in range(20):
                site.write("page.py", f"version = {version}")
                site.load()
                site.drain()
        finally:
            ended.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        run_threads([bind, reload])
    finally:
        sys.setswitchinterval(interval)
    assert not site.importer.retirement.pending
