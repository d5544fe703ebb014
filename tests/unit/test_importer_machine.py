"""The importer as a state machine: random trees of modules, edited, broken, removed, against a model of the contract.

The model knows files, instances, requests and what 3.3 and our documentation say of them; it knows nothing of locks,
stats or caches. After every step all that can be seen from outside is compared: what is served and pinned, what was
executed, which hooks were called, what was purged, and what stands in sys.modules.
"""

from __future__ import annotations

import builtins
import gc
import itertools
import logging
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handlers.reload import failures, files, importing, interpreter, loader
from handlers.reload.context import Call, Imports, Settings, entered
from handlers.reload.importing import Importer
from handlers.reload.interpreter import statement
from handlers.reload.modules import ModuleInfo, label_of

NAMES = ("mod_a", "mod_b", "mod_c", "mod_d", "mod_e")
FIRST_RETRY, LAST_RETRY = 1.0, 60.0

steps = 0  # counted over the whole run
_serial = itertools.count(1)


# -- the model ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """One state of one file."""

    version: int
    imports: tuple[tuple[str, bool], ...] = ()  # (name, is it optional: in a try)
    breaks: str = ""  # "syntax"; "first", "last": raises before or after its imports
    wants_even: str = ""  # raises if this module, which it imports, is of an odd version
    clone: str = ""  # "share", "move", "fail"; "": no hook
    purge: bool = False
    friend: str = ""  # imported by a function
    stamp: int = 0  # what a stat of the file would give

    def text(self, name: str) -> str:
        lines = [f"version = {self.version}", f"execution = RECORD.execute({name!r}, {self.version})"]
        lines += ["raise RuntimeError('first')"] if self.breaks == "first" else []
        for child, optional in self.imports:
            plain = f"import {child}"
            lines += ["try:", f"    {plain}", "except Exception:", f"    {child} = None"] if optional else [plain]
        if self.wants_even:
            lines.append(f"if {self.wants_even}.version % 2: raise RuntimeError('odd')")
        lines.append("if 'state' not in globals(): state = RECORD.state()")
        if self.clone:
            lines += ["def __mp_clone__(new):", "    RECORD.hooks.append(('clone', execution))"]
            lines += {
                "share": ["    new.state = state"],
                "move": ["    new.state = globals().pop('state')"],
                "fail": ["    new.state = None", "    raise SystemExit('clone')"],
            }[self.clone]
            lines += ["def __mp_rollback__(new):", "    RECORD.hooks.append(('rollback', execution))"]
            lines += ["    globals()['state'] = new.state"] if self.clone == "move" else []
        if self.purge:
            lines += ["def __mp_purge__():", "    RECORD.purges.append(execution)"]
        if self.friend:
            lines += ["def friend():", f"    import {self.friend}", f"    return {self.friend}"]
        lines += ["raise RuntimeError('last')"] if self.breaks == "last" else []
        lines += ["x = ("] if self.breaks == "syntax" else []
        return "\n".join(lines) + "\n#" + "x" * (self.version % 89) + "\n"


@dataclass(eq=False)
class Instance:
    name: str
    source: Source
    serves: bool = False  # or did: it was finished without an error
    number: int = 0
    state: int = 0
    bound: dict[str, Instance] = field(default_factory=dict)

    def closure(self) -> list[Instance]:
        """All it was built on; itself only where it is part of a cycle of other instances' making."""
        found: list[Instance] = []
        todo = list(self.bound.values())
        while todo:
            each = todo.pop()
            if each not in found and each is not self:
                found.append(each)
                todo.extend(each.bound.values())
        return found


@dataclass(eq=False)
class Attempt:
    """One execution under way, or waiting for the rest of its import cycle."""

    instance: Instance
    old: Instance | None
    took: set[Attempt] = field(default_factory=set)
    seen: dict[str, int | None] = field(default_factory=dict)
    executed: bool = False
    settled: bool = False
    failed: bool = False
    cloned: str = ""

    def circle(self) -> set[Attempt]:
        found: set[Attempt] = set()
        todo = [self]
        while todo:
            each = todo.pop()
            if each not in found and not each.settled:
                found.add(each)
                todo.extend(each.took)
        return found


@dataclass(eq=False)
class Failure:
    error: type[BaseException]
    seen: dict[str, int | None]
    count: int
    retry_at: float


@dataclass(eq=False)
class ModelRequest:
    keep_last_good: bool = True
    pins: dict[str, Instance] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    checking: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Retired:
    instance: Instance
    handed_over: bool
    waiting: set[ModelRequest]


class Model:
    def __init__(self) -> None:
        self.files: dict[str, Source] = {}
        self.serving: dict[str, Instance] = {}
        self.failures: dict[str, Failure] = {}
        self.removed: set[str] = set()  # gone, but a serving module was built on it
        self.under_way: dict[str, Attempt] = {}
        self.requests: set[ModelRequest] = set()
        self.retired: list[Retired] = []
        self.now = 0.0
        self.runs: list[Instance] = []
        self.hooks: list[tuple[str, Instance]] = []
        self.purged: list[Instance] = []
        self.states = itertools.count(1)

    # An import: by a request, by the code of an attempt, or by a function of a module that the request has.

    def load(self, name: str, request: ModelRequest, parent: Attempt | None = None) -> Instance:
        instance = request.pins.get(name)
        if instance is None:
            if name not in self.files:
                if parent is not None:
                    parent.seen[name] = None
                    request.missing.add(name)
                if name in self.serving:
                    self.removed.add(name)
                    self.retire_removed()
                raise ModuleNotFoundError(name)
            self.removed.discard(name)
            before = self.serving.get(name)
            instance = self.current(name, request, parent)
            if instance.serves:
                # What a last good instance was built on is not what the request is to see beside it.
                closure = instance.closure() if instance is not before or self.is_fresh(instance) else []
                request.pins.setdefault(name, instance)
                for each in closure:
                    if self.serving.get(each.name) is each:
                        request.pins.setdefault(each.name, each)
        if parent is not None:
            if parent.instance is not instance:
                parent.instance.bound[name] = instance
            parts = [instance, *instance.closure()]
            for each in parts:
                current = self.serving.get(each.name, each) if each.serves else each
                parent.seen[each.name] = current.source.stamp
            for each in parts:
                if each.serves and each.name in self.failures:
                    parent.seen.update(self.failures[each.name].seen)
        return instance

    def call_friend(self, instance: Instance, request: ModelRequest) -> Instance:
        name = instance.source.friend
        if name in request.missing:
            raise ModuleNotFoundError(name)
        try:
            return self.load(name, request)
        except ModuleNotFoundError:
            if name not in self.files and name not in request.pins:
                request.missing.add(name)
            raise

    # Which instance is it to be?

    def current(self, name: str, request: ModelRequest, parent: Attempt | None) -> Instance:
        if name in request.failed:
            return self.despite(name, request.failed[name], request, parent)
        instance, failure = self.serving.get(name), self.failures.get(name)
        if instance is not None:
            if self.is_fresh(instance):
                self.failures.pop(name, None)
                return instance
            if failure is not None and request.keep_last_good and not self.is_due(failure):
                return instance
            if not self.must_execute(instance, request, parent):
                return self.serving.get(name, instance)
        if name in self.under_way:
            attempt = self.under_way[name]
            if parent is not None:
                parent.took.add(attempt)
            return attempt.instance
        if self.serving.get(name) is not instance or self.failures.get(name) is not failure:
            # Done meanwhile, for a member of its cycle.
            if name in self.failures:
                return self.despite(name, self.failures[name], request, parent)
            return self.serving[name]
        return self.execute(name, request, parent)

    def is_fresh(self, instance: Instance) -> bool:
        return self.files.get(instance.name) == instance.source and all(
            self.files.get(each.name) == each.source and self.serving.get(each.name) is each
            for each in instance.closure()
        )

    def is_due(self, failure: Failure) -> bool:
        return self.now >= failure.retry_at or any(
            (self.files[name].stamp if name in self.files else None) != stamp for name, stamp in failure.seen.items()
        )

    def must_execute(self, instance: Instance, request: ModelRequest, parent: Attempt | None) -> bool:
        """Has its file changed, or is what it was built on not what an import would give now?"""
        if self.files[instance.name] != instance.source:
            return True
        if instance.name in request.checking:
            return False
        request.checking.add(instance.name)
        try:
            return any(self.is_replaced(child, request, parent) for child in instance.bound.values())
        finally:
            request.checking.discard(instance.name)

    def is_replaced(self, child: Instance, request: ModelRequest, parent: Attempt | None) -> bool:
        if child.name in request.pins:
            return request.pins[child.name] is not child and self.serving.get(child.name) is not child
        if child.name not in self.files:
            if child.name in self.serving:
                self.removed.add(child.name)
            return True
        self.removed.discard(child.name)
        return self.current(child.name, request, parent) is not child

    def despite(self, name: str, failure: Failure, request: ModelRequest, parent: Attempt | None) -> Instance:
        if name in self.serving and request.keep_last_good:
            return self.serving[name]
        if parent is not None:
            parent.seen.update(failure.seen)
        request.failed[name] = failure
        raise failure.error

    # Execute it.

    def execute(self, name: str, request: ModelRequest, parent: Attempt | None) -> Instance:
        old = self.serving.get(name)
        instance = Instance(name, self.files[name], number=old.number + 1 if old else 1)
        attempt = self.under_way[name] = Attempt(instance, old)
        checking, request.checking = request.checking, set()
        error: type[BaseException] | None = None
        try:
            self.run(attempt, request)
        except (RuntimeError, SyntaxError, ImportError) as raised:
            error = type(raised)
            self.fail(attempt, error, request)
        else:
            attempt.executed = True
            self.settle()
        request.checking = checking
        self.retire_removed()
        if parent is not None and not attempt.settled:
            parent.took.add(attempt)
        return self.despite(name, request.failed[name], request, parent) if error is not None else instance

    def run(self, attempt: Attempt, request: ModelRequest) -> None:
        instance, source = attempt.instance, attempt.instance.source
        attempt.seen[instance.name] = source.stamp
        if source.breaks == "syntax":
            raise SyntaxError
        if attempt.old is not None and attempt.old.source.clone:
            attempt.cloned = attempt.old.source.clone
            self.hooks.append(("clone", attempt.old))
            if attempt.cloned != "fail":
                instance.state = attempt.old.state
        self.runs.append(instance)
        if source.breaks == "first":
            raise RuntimeError
        given: dict[str, Instance] = {}
        for child, optional in source.imports:
            try:
                given[child] = self.load(child, request, attempt)
            except (RuntimeError, SyntaxError, ImportError):
                if not optional:
                    raise
        if source.wants_even and given[source.wants_even].source.version % 2:
            raise RuntimeError
        instance.state = instance.state or next(self.states)
        if source.breaks == "last":
            raise RuntimeError
        if any(taken.failed for taken in attempt.took):
            raise RuntimeError

    def settle(self) -> None:
        for attempt in list(self.under_way.values()):
            circle = attempt.circle()
            if circle and all(each.executed for each in circle):
                for each in circle:
                    self.end(each)
                    each.instance.serves = True
                    self.serving[each.instance.name] = each.instance
                    self.failures.pop(each.instance.name, None)
                    self.removed.discard(each.instance.name)
                for each in circle:
                    if each.old is not None:
                        self.retire(each.old, each.cloned in ("share", "move"))

    def fail(self, attempt: Attempt, error: type[BaseException], request: ModelRequest) -> None:
        """It fails, and with it whatever waits for its end and holds its unfinished module."""
        doomed = [
            each for each in self.under_way.values() if each is attempt or (each.executed and attempt in each.circle())
        ]
        for each in doomed:
            each.failed = True
            self.end(each)
            name = each.instance.name
            if each.cloned:
                assert each.old is not None
                self.hooks.append(("rollback", each.old))
            before = self.failures.get(name)
            count = before.count + 1 if before and before.seen == each.seen else 1
            delay = min(FIRST_RETRY * 2 ** (count - 1), LAST_RETRY)
            request.failed[name] = self.failures[name] = Failure(error, dict(each.seen), count, self.now + delay)

    def end(self, attempt: Attempt) -> None:
        attempt.settled = True
        del self.under_way[attempt.instance.name]

    # Retire it.

    def retire(self, instance: Instance, handed_over: bool) -> None:
        self.retired.append(Retired(instance, handed_over, set(self.requests)))

    def retire_removed(self) -> None:
        used = {part for name, each in self.serving.items() if name not in self.removed for part in each.closure()}
        for name in sorted(self.removed):
            if name in self.serving and self.serving[name] not in used and name not in self.under_way:
                self.failures.pop(name, None)
                self.removed.discard(name)
                self.retire(self.serving.pop(name), handed_over=False)

    def drain(self) -> None:
        users = [*self.serving.values(), *(each.instance for each in self.retired if each.waiting)]
        used = {part for user in users for part in user.closure()}
        drained = [each for each in self.retired if not each.waiting and each.instance not in used]
        self.retired = [each for each in self.retired if each not in drained]
        self.purged += [each.instance for each in drained if not each.handed_over and each.instance.source.purge]


# -- the importer, driven beside it ------------------------------------------------------------------------------------


class Record:
    """What the modules report of themselves; holds none of them."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []
        self.hooks: list[tuple[str, int]] = []
        self.purges: list[int] = []
        self._states = itertools.count(1)

    def execute(self, name: str, version: int) -> int:
        self.runs.append((name, version))
        return len(self.runs) - 1

    def state(self) -> int:
        return next(self._states)


class Clock:
    """The `time` of the importer: it stands still until a rule moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


@dataclass(eq=False)
class OpenRequest:
    call: Call
    model: ModelRequest
    begun: weakref.ref[Imports]


def sources(names: tuple[str, ...] = NAMES) -> st.SearchStrategy[Source]:
    imports = st.lists(
        st.tuples(st.sampled_from(names), st.sampled_from([False, False, False, True])), max_size=3,
        unique_by=lambda pair: pair[0],
    ).map(tuple)  # fmt: skip
    return st.builds(
        Source,
        version=st.just(0),
        imports=imports,
        breaks=st.sampled_from(["", "", "", "", "", "syntax", "first", "last"]),
        wants_even=st.sampled_from(["", "", "", "wanted"]),
        clone=st.sampled_from(["", "", "share", "move", "fail"]),
        purge=st.booleans(),
        friend=st.sampled_from(["", *names]),
    )


class ImporterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="mpi-"))
        self.model = Model()
        self.record = builtins.RECORD = Record()  # type: ignore[attr-defined]
        self.clock = Clock()
        loader.time = failures.time = importing.time = self.clock  # type: ignore[assignment]
        self.importer = interpreter.importer = Importer()
        self.importer.retirement._later = lambda delay, step: None  # the housekeeper is a rule
        self.open: list[OpenRequest] = []
        self.real: dict[Instance, weakref.ref[ModuleInfo]] = {}  # what corresponds to what
        self.runs = 0  # how many have been compared

    def teardown(self) -> None:
        for label in [label_of(str(self.root / f"{name}.py")) for name in NAMES]:
            sys.modules.pop(label, None)
        shutil.rmtree(self.root)

    def path(self, name: str) -> Path:
        return self.root / f"{name}.py"

    # files

    def save(self, name: str, source: Source, how: str) -> None:
        number = next(_serial)
        wanted = next((child for child, optional in source.imports if not optional and child != name), "")
        source = replace(source, version=number, stamp=number, wants_even=source.wants_even and wanted)
        path = self.path(name)
        before = path.stat().st_mtime_ns if path.exists() else number
        if how == "in place":
            path.write_text(source.text(name))
            os.utime(path, ns=(number, number))
        else:
            fresh = self.root / f"{number}.new"
            fresh.write_text(source.text(name))
            stamp = before if how == "equal mtime" else before - 1_000_000_000
            os.utime(fresh, ns=(stamp, stamp))
            os.replace(fresh, path)
        self.model.files[name] = source
        note(f"{name}: {source}")

    @initialize(first=st.tuples(*[sources() for _ in NAMES]))
    def write_a_tree(self, first: tuple[Source, ...]) -> None:
        for name, source in zip(NAMES, first, strict=True):
            self.save(name, replace(source, breaks="", wants_even=""), "in place")
        self.begin()  # most of what can go wrong needs a request that goes on

    @rule(
        name=st.sampled_from(NAMES), source=sources(), how=st.sampled_from(["in place", "equal mtime", "older mtime"])
    )
    def edit(self, name: str, source: Source, how: str) -> None:
        self.save(name, source, how)

    @rule(name=st.sampled_from(NAMES), how=st.sampled_from(["in place", "older mtime"]))
    def mend(self, name: str, how: str) -> None:
        """The same once more, and nothing broken in it."""
        source = self.model.files.get(name) or Source(0)
        self.save(name, replace(source, breaks="", wants_even=""), how)

    @rule(name=st.sampled_from(NAMES), older=st.booleans())
    def touch(self, name: str, older: bool) -> None:
        if name in self.model.files:
            number = next(_serial)
            stamp = number if older else 10**18 + number
            os.utime(self.path(name), ns=(stamp, stamp))
            self.model.files[name] = replace(self.model.files[name], stamp=number)

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        if self.model.files.pop(name, None) is not None:
            self.path(name).unlink()

    # requests

    def begin(self, keep_last_good: bool = True) -> OpenRequest:
        call = Call(settings=Settings(keep_last_good=keep_last_good), handler_root=str(self.root))
        request = OpenRequest(call, ModelRequest(keep_last_good), self.importer.retirement.begin(call.imports))
        self.model.requests.add(request.model)
        self.open.append(request)
        return request

    def end(self, request: OpenRequest) -> None:
        self.open.remove(request)
        self.importer.retirement.end(request.begun)
        self.model.requests.discard(request.model)
        for retired in self.model.retired:
            retired.waiting.discard(request.model)

    def load(self, request: OpenRequest, name: str) -> None:
        expected: Instance | type[BaseException]
        try:
            expected = self.model.load(name, request.model)
        except (RuntimeError, SyntaxError, ImportError) as error:
            expected = type(error)
        self.compare(expected, lambda: self.obtain(request, name))

    def obtain(self, request: OpenRequest, name: str) -> ModuleInfo:
        with entered(request.call):
            found = self.importer.find(name, request.call, None, [str(self.root)])
            if found is None:
                raise ModuleNotFoundError(name)
            return self.importer.obtain(found, request.call, None)

    def compare(self, expected: Instance | type[BaseException], do) -> None:
        got: ModuleInfo | type[BaseException]
        try:
            got = do()
        except (RuntimeError, SyntaxError, ImportError) as error:
            got = type(error)
        if isinstance(expected, Instance):
            assert isinstance(got, ModuleInfo), f"expected {expected}, got {got}"
            self.same(expected, got)
        else:
            assert got is expected, f"expected {expected}, got {got}"

    def same(self, expected: Instance, got: ModuleInfo) -> None:
        """They correspond, and all that they were built on."""
        if expected in self.real:
            assert self.real[expected]() is got, f"another instance of {expected}"
            return
        assert got not in [reference() for reference in self.real.values()], f"{got} is not the new {expected}"
        self.real[expected] = weakref.ref(got)
        module = got.module
        assert got.file == str(self.path(expected.name))
        assert (module.version, module.state) == (expected.source.version, expected.state), f"{expected}"
        assert set(got.bound) == {label_of(str(self.path(name))) for name in expected.bound}
        for name, part in expected.bound.items():
            assert vars(module)[name] is got.bound[label_of(str(self.path(name)))].module
            self.same(part, got.bound[label_of(str(self.path(name)))])

    @rule(name=st.sampled_from(NAMES))
    def request(self, name: str) -> None:
        request = self.begin()
        self.load(request, name)
        self.end(request)

    @rule(first=st.sampled_from(NAMES), second=st.sampled_from(NAMES))
    def request_of_two(self, first: str, second: str) -> None:
        request = self.begin()
        self.load(request, first)
        self.load(request, second)
        self.end(request)

    @rule(name=st.sampled_from(NAMES))
    def request_without_last_good(self, name: str) -> None:
        request = self.begin(keep_last_good=False)
        self.load(request, name)
        self.end(request)

    @precondition(lambda self: len(self.open) < 3)
    @rule()
    def begin_a_request(self) -> None:
        self.begin()

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 2), name=st.sampled_from(NAMES))
    def import_in_an_open_request(self, number: int, name: str) -> None:
        self.load(self.open[number % len(self.open)], name)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 2), name=st.sampled_from(NAMES))
    def call_a_function_that_imports(self, number: int, name: str) -> None:
        request = self.open[number % len(self.open)]
        instance = request.model.pins.get(name)
        if instance is None or not instance.source.friend:
            return
        expected: Instance | type[BaseException]
        try:
            expected = self.model.call_friend(instance, request.model)
        except (RuntimeError, SyntaxError, ImportError) as error:
            expected = type(error)
        info = request.call.imports.infos[label_of(str(self.path(name)))]

        def call() -> ModuleInfo:
            with entered(request.call):
                return info.module.friend().__mp_info__

        self.compare(expected, call)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 2))
    def end_a_request(self, number: int) -> None:
        self.end(self.open[number % len(self.open)])

    # time

    @rule()
    def all_requests_end(self) -> None:
        for request in list(self.open):
            self.end(request)
        self.housekeeping()

    @rule()
    def housekeeping(self) -> None:
        self.model.drain()
        before = len(self.record.purges)
        in_use = self.in_use()
        self.importer.retirement.step()
        for execution in self.record.purges[before:]:
            assert execution not in in_use, "purged while it was in use"

    def in_use(self) -> set[int]:
        """The executions that requests and serving modules may still run."""
        infos = [info for request in self.open for info in request.call.imports.infos.values()]
        infos += self.importer.loader.serving()
        every = [*infos, *(part for info in infos for _, part, _, _ in info.closure)]
        return {info.module.execution for info in every}

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.model.now += seconds

    # what can be seen

    @invariant()
    def agrees(self) -> None:
        global steps
        steps += 1
        model, record = self.model, self.record
        expected = [(run.name, run.source.version) for run in model.runs]
        assert expected[self.runs :] == record.runs[self.runs :], "executions"
        self.runs = len(expected)
        number_of = {run: number for number, run in enumerate(model.runs)}
        assert sorted((what, number_of[which]) for what, which in model.hooks) == sorted(record.hooks), "hooks"
        assert sorted(number_of[instance] for instance in model.purged) == sorted(record.purges), "purges"
        assert len(set(record.purges)) == len(record.purges), "purged twice"
        served = {info.file: info for info in self.importer.loader.serving()}
        assert set(served) == {str(self.path(name)) for name in model.serving}
        for name in NAMES:
            file = str(self.path(name))
            if name in model.serving:
                self.same(model.serving[name], served[file])
                assert served[file].instance == model.serving[name].number
                assert served[file].module.state == model.serving[name].state
                assert sys.modules[label_of(file)] is served[file].module
            else:
                assert label_of(file) not in sys.modules
        loads = self.importer.loader.loads
        assert not loads._loads and not loads._waiting
        assert len(self.importer.retirement.pending) >= len(model.retired)
        for request in self.open:
            pins = {os.path.basename(info.file)[:-3]: info for info in request.call.imports.infos.values()}
            assert set(pins) == set(request.model.pins)
            for name, info in pins.items():
                self.same(request.model.pins[name], info)


BATCH = 4000  # steps of one test; a run of 100,000 is 25 of them
ImporterMachine.TestCase.settings = settings(
    settings.default,
    max_examples=BATCH // 40,  # some end early
    stateful_step_count=50,
    phases=[Phase.generate],  # to shrink one of these takes longer than anybody waits
)


@pytest.fixture
def _importer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(files, "QUIET", 0)
    monkeypatch.setattr(interpreter, "importer", interpreter.importer)
    monkeypatch.setattr(importing, "time", importing.time)
    monkeypatch.setattr(loader, "time", loader.time)
    monkeypatch.setattr(failures, "time", failures.time)
    monkeypatch.setattr(builtins, "RECORD", None, raising=False)
    monkeypatch.setattr(builtins, "__import__", statement)
    logging.disable()
    # Each retirement ends with a collection: of what these tests make, not of what the test runner holds.
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("batch", range(max(1, int(os.environ.get("FUZZ_STEPS", "0")) // BATCH)))
@pytest.mark.usefixtures("_importer_of_its_own")
def test_the_importer_does_what_the_model_of_the_contract_says(batch: int) -> None:
    before = steps
    ImporterMachine.TestCase("runTest").runTest()
    assert steps - before >= BATCH // 2
