"""Who waits for whom, step by step: threads that do one call at a time, in an order that the test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from handlers.reload.loads import Load, Loads, State
from handlers.reload.modules import ModuleCache, ModuleInfo

PATIENCE = 60.0


class Actor:
    """A thread that carries out what it is told, one call after the other."""

    def __init__(self, loads: Loads) -> None:
        self.loads = loads
        self.stack: list[Load] = []
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[Any] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._results.put(call())

    def begin(self, call: Callable[[], Any]) -> None:
        self._calls.put(call)

    def result(self) -> Any:
        return self._results.get(timeout=PATIENCE)

    def do(self, call: Callable[[], Any]) -> Any:
        self.begin(call)
        return self.result()

    def is_waiting(self) -> bool:
        """Does it wait for a load now? Its call has been begun."""
        ended = threading.Event()
        for _ in range(int(PATIENCE / 0.005)):
            if self.thread.ident in self.loads._waiting:
                return True
            if not self._results.empty():
                return False
            ended.wait(0.005)
        raise AssertionError("neither waits nor has done it")

    # what the importer does

    def _join(self, key: str) -> Load:
        parent = self.stack[-1] if self.stack else None
        load, mine = self.loads.join(key, parent, lambda: ModuleInfo(ModuleCache(f"/{key}.py")))
        assert load is not None
        if mine:
            self.stack.append(load)
        return load

    def imports(self, key: str) -> Load:
        """Import *key*; a load that is this thread's own has to be ended by it."""
        return self.do(lambda: self._join(key))

    def begins_to_import(self, key: str) -> None:
        self.begin(lambda: self._join(key))

    def _executed(self) -> BaseException | None:
        load = self.stack.pop()
        error = self.loads.executed(load, settled.append)
        if self.stack and not load.settled:
            self.stack[-1].took.add(load)
        return error

    def executes(self) -> BaseException | None:
        """The code of the innermost load has come to its end."""
        return self.do(self._executed)

    def fails(self, error: BaseException, between: Callable[[], None] = lambda: None) -> list[Load]:
        """The code of the innermost load has raised; *between* is what the rollback hooks do."""

        def fail() -> list[Load]:
            doomed = self.loads.failing(self.stack.pop(), error)
            between()
            self.loads.failed(doomed, abandoned.append)
            return doomed

        return self.do(fail)


settled: list[Load] = []
abandoned: list[Load] = []


@pytest.fixture
def loads() -> Loads:
    settled.clear()
    abandoned.clear()
    return Loads()


@pytest.fixture
def actors(loads: Loads) -> Iterator[list[Actor]]:
    made = [Actor(loads) for _ in range(4)]
    yield made
    for actor in made:
        actor._calls.put(None)
    for actor in made:
        actor.thread.join(PATIENCE)
        assert not actor.thread.is_alive(), "a thread hangs"
    assert not loads._loads and not loads._waiting


def test_one_loads_and_the_others_wait_and_take_its_result(actors: list[Actor]) -> None:
    one, two, three, _ = actors
    load = one.imports("a")
    two.begins_to_import("a")
    three.begins_to_import("a")
    assert two.is_waiting() and three.is_waiting()
    assert one.executes() is None
    assert two.result() is load and three.result() is load
    assert load.state is State.DONE and settled == [load]


def test_waiters_of_a_load_that_fails_get_it_with_its_error(actors: list[Actor]) -> None:
    one, two, _, _ = actors
    load = one.imports("a")
    two.begins_to_import("a")
    assert two.is_waiting()
    error = RuntimeError()
    assert one.fails(error) == [load]
    assert two.result() is load and load.state is State.FAILED and load.error is error
    assert abandoned == [load]


def test_a_cycle_of_one_thread_is_settled_as_a_whole(actors: list[Actor]) -> None:
    one, *_ = actors
    a = one.imports("a")
    b = one.imports("b")
    assert one.imports("a") is a
    one.executes()
    assert b.state is State.EXECUTED and settled == []
    one.executes()
    assert {a, b} == set(settled) and len(settled) == 2


def test_a_thread_outside_a_cycle_waits_for_the_whole_of_it(actors: list[Actor]) -> None:
    one, two, _, _ = actors
    one.imports("a")
    b = one.imports("b")
    one.imports("a")
    one.executes()
    two.begins_to_import("b")
    assert two.is_waiting()
    one.executes()
    assert two.result() is b and b.state is State.DONE


def test_two_threads_that_load_modules_which_import_each_other(actors: list[Actor]) -> None:
    one, two, _, _ = actors
    a, b = one.imports("a"), two.imports("b")
    one.begins_to_import("b")
    assert one.is_waiting()
    assert two.imports("a") is a, "its wait would close the circle"
    assert a.state is State.EXECUTING
    two.executes()
    assert one.result() is b, "executed, and now a member of the circle that it waits in"
    assert b.state is State.EXECUTED and settled == []
    one.executes()
    assert {a, b} == set(settled)


def test_a_circle_of_three_threads_and_one_outside_of_it(actors: list[Actor]) -> None:
    one, two, three, outside = actors
    a, b, c = one.imports("a"), two.imports("b"), three.imports("c")
    one.begins_to_import("b")
    assert one.is_waiting()
    two.begins_to_import("c")
    assert two.is_waiting()
    outside.begins_to_import("b")
    assert outside.is_waiting()
    assert three.imports("a") is a
    three.executes()
    assert two.result() is c
    two.executes()
    assert one.result() is b
    assert outside.is_waiting(), "nothing is settled yet"
    one.executes()
    assert outside.result() is b and set(settled) == {a, b, c}


def test_a_circle_that_closes_through_a_nested_load(actors: list[Actor]) -> None:
    """One executes a, and in it x; two executes b, and in it imports a; one then needs b."""
    one, two, _, _ = actors
    a = one.imports("a")
    x = one.imports("x")
    b = two.imports("b")
    two.begins_to_import("a")
    assert two.is_waiting()
    assert one.imports("b") is b
    one.executes()
    assert x.state is State.EXECUTED, "it holds b, which is not finished"
    one.executes()
    assert two.result() is a
    two.executes()
    assert set(settled) == {a, b, x}


def test_no_deadlock_where_a_member_needs_what_somebody_outside_loads_who_waits_for_the_circle(
    actors: list[Actor],
) -> None:
    one, two, three, _ = actors
    a, b, d = one.imports("a"), two.imports("b"), three.imports("d")
    one.begins_to_import("b")
    assert one.is_waiting()
    three.begins_to_import("a")  # d waits for a, which waits for b
    assert three.is_waiting()
    assert two.imports("d") is d, "b needs d: a circle of three"
    two.executes()
    assert one.result() is b
    one.executes()
    assert three.result() is a
    three.executes()
    assert set(settled) == {a, b, d}


def test_what_holds_the_unfinished_module_of_a_failed_load_fails_with_it(actors: list[Actor]) -> None:
    one, *_ = actors
    a = one.imports("a")
    b = one.imports("b")
    one.imports("a")
    one.executes()
    c = one.imports("c")
    one.executes()
    error = RuntimeError()
    assert one.fails(error) == [b, a]
    assert (a.error, b.error, c.error) == (error, error, None) and settled == [c]


def test_a_load_that_took_a_failed_one_cannot_succeed(actors: list[Actor]) -> None:
    one, two, _, _ = actors
    a, b = one.imports("a"), two.imports("b")
    two.begins_to_import("a")
    assert two.is_waiting()
    assert one.imports("b") is b
    error = RuntimeError()
    assert two.loads is one.loads
    one.executes()
    assert two.result() is a
    assert set(two.fails(error)) == {a, b}
    assert settled == []


def test_two_members_of_a_circle_that_fail_at_once_put_back_what_both_doom_once(actors: list[Actor]) -> None:
    """b holds a and c unfinished; a and c fail in two threads, the second within the rollback hooks of the first."""
    one, two, three, _ = actors
    a, b, c = one.imports("a"), two.imports("b"), three.imports("c")
    one.begins_to_import("b")
    three.begins_to_import("b")
    assert one.is_waiting() and three.is_waiting()
    assert two.imports("a") is a and two.imports("c") is c
    two.executes()
    assert one.result() is b and three.result() is b
    second: list[list[Load]] = []
    first = one.fails(RuntimeError("a"), between=lambda: second.append(three.fails(RuntimeError("c"))))
    assert sorted(load.key for load in first + second[0]) == ["a", "b", "c"]
    assert set(abandoned) == {a, b, c} and len(abandoned) == 3
    assert {load.state for load in (a, b, c)} == {State.FAILED}


def test_a_load_that_took_one_which_is_being_put_back_fails_as_well(actors: list[Actor]) -> None:
    one, two, _, _ = actors
    a, b = one.imports("a"), two.imports("b")
    one.begins_to_import("b")
    assert one.is_waiting()
    assert two.imports("a") is a
    b.took.add(a)
    error = RuntimeError("b")
    assert two.fails(error) == [b]
    assert one.result() is b and b.error is error
    assert one.executes() is None, "it was told of the error, and has gone on without b"


def test_a_hook_that_imports_while_its_load_is_put_back_does_not_wait_for_itself(actors: list[Actor]) -> None:
    one, *_ = actors
    a = one.imports("a")
    seen: list[Load] = []
    one.fails(RuntimeError(), between=lambda: seen.append(one._join("a")))
    assert seen == [a]
    one.stack.clear()


def test_a_load_that_is_not_due_any_more_is_not_begun(loads: Loads) -> None:
    assert loads.join("a", None, lambda: None) == (None, False)


def test_nothing_is_done_to_a_module_whose_load_is_under_way(actors: list[Actor], loads: Loads) -> None:
    one, *_ = actors
    done: list[str] = []

    def do(what: str) -> bool:
        done.append(what)
        return what != "refused"

    assert loads.unless_under_way("a", lambda: do("before"))
    one.imports("a")
    assert not loads.unless_under_way("a", lambda: do("while"))
    one.executes()
    assert loads.unless_under_way("a", lambda: do("after"))
    assert not loads.unless_under_way("a", lambda: do("refused"))
    assert done == ["before", "after", "refused"]
