"""One lease per main request: who shares it, when its transaction ends, and that it always goes back."""

from __future__ import annotations

import pytest
from fake_request import OnQuietSocket, Request

from handlers.request import leases

READY, BEGUN = 1, 2  # psycopg2.extensions.STATUS_READY and STATUS_BEGIN


class Leased(OnQuietSocket):
    """A connection with fault knobs; notes what is done to it."""

    def __init__(self, events: list[str], name: str = "default") -> None:
        self.name, self.events, self.closed = name, events, 0
        self.commit_fails: Exception | None = None
        self.status = READY
        self.autocommit = False

    def execute(self) -> None:
        self.status = BEGUN

    def commit(self) -> None:
        if self.commit_fails:
            raise self.commit_fails
        self.status = READY
        self.events.append(f"commit {self.name}")

    def rollback(self) -> None:
        self.status = READY
        self.events.append(f"rollback {self.name}")


class Pool:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.made: list[Leased] = []
        self.asked: list[Request] = []
        self.error: Exception | None = None

    def get_connection(self, name: str = "default", *, req: Request) -> Leased:
        if self.error:
            raise self.error
        self.asked.append(req)
        self.events.append(f"lease {name}")
        self.made.append(Leased(self.events, name))
        self.made[-1].execute()
        return self.made[-1]

    def release(self, leased: Leased) -> None:
        self.events.append(f"release {leased.name}")


@pytest.fixture
def pool(monkeypatch):
    pool = Pool()
    monkeypatch.setattr(leases, "get_connection", pool.get_connection)
    monkeypatch.setattr(leases, "release", pool.release)
    monkeypatch.setattr(leases, "log", lambda level, message: pool.events.append(f"{level}: {message}"))
    monkeypatch.setattr(leases, "_told_of_missing_install", False)
    return pool


def test_a_request_that_asks_for_no_connection_leases_none(pool):
    req = Request()
    leases.enter(req)
    assert leases.leave(req, True)
    assert pool.events == []


def test_a_request_gets_the_same_connection_each_time(pool):
    req = Request()
    leases.enter(req)
    assert leases.connection(req) is leases.connection(req)
    leases.leave(req, True)
    assert pool.events == ["lease default", "commit default", "release default"]


def test_subrequests_and_redirects_share_the_lease_of_the_main_request(pool):
    main = Request()
    redirected = Request(prev=main)
    included = Request(main=redirected)
    leases.enter(included)
    first = leases.connection(included)
    leases.enter(redirected)
    assert leases.connection(redirected) is first
    leases.leave(redirected, True)
    assert "release default" not in pool.events
    leases.leave(included, True)
    assert pool.events[-1] == "release default"
    assert pool.asked == [main]


def test_the_pools_of_a_request_are_leased_and_settled_one_by_one(pool):
    req = Request()
    leases.enter(req)
    assert leases.connection(req) is not leases.connection(req, "reports")
    leases.leave(req, True)
    assert sorted(pool.events[2:]) == ["commit default", "commit reports", "release default", "release reports"]


def test_a_handler_that_failed_rolls_back(pool):
    req = Request()
    leases.enter(req)
    leases.connection(req)
    assert leases.leave(req, False)
    assert pool.events == ["lease default", "rollback default", "release default"]


def test_a_later_phase_leases_anew(pool):
    req = Request()
    for _ in range(2):
        leases.enter(req)
        leases.connection(req)
        leases.leave(req, True)
    assert pool.events.count("lease default") == pool.events.count("release default") == 2


def test_settle_commits_before_the_answer_and_keeps_the_lease(pool):
    req = Request()
    leases.enter(req)
    leased = leases.connection(req)
    leases.settle(req, True)
    assert pool.events == ["lease default", "commit default"]
    assert leases.connection(req) is leased
    leases.leave(req, True)


def test_settle_without_a_lease_does_nothing(pool):
    leases.settle(Request(), True)
    assert pool.events == []


def test_a_commit_that_fails_is_logged_and_the_connection_goes_back(pool):
    req = Request()
    leases.enter(req)
    leases.connection(req).commit_fails = RuntimeError("deferred constraint")
    assert leases.leave(req, True) is False
    assert pool.events[-2].startswith("err: ") and "deferred constraint" in pool.events[-2]
    assert pool.events[-1] == "release default"


def test_a_commit_that_fails_after_the_answer_was_sent_leaves_the_answer_alone(pool):
    req = Request()
    leases.enter(req)
    leases.connection(req).commit_fails = RuntimeError("deferred constraint")
    req.write("all is well")
    assert leases.leave(req, True) is True
    assert any(event.startswith("err: ") for event in pool.events)


def test_when_one_commit_fails_the_other_pools_roll_back(pool):
    req = Request()
    leases.enter(req)
    leases.connection(req, "first").commit_fails = RuntimeError("full")
    leases.connection(req, "second")
    with pytest.raises(RuntimeError, match="full"):
        leases.settle(req, True)
    assert "rollback second" in pool.events and "commit second" not in pool.events


def test_a_lease_that_cannot_be_had_leaves_nothing_behind(pool):
    req = Request()
    leases.enter(req)
    pool.error = RuntimeError("exhausted")
    with pytest.raises(RuntimeError):
        leases.connection(req)
    assert leases.leave(req, False)
    assert pool.events == []


def test_give_back_ends_the_lease_before_the_dispatch_does(pool):
    req = Request()
    leases.enter(req)
    leases.connection(req)
    leases.settle(req, True)
    leases.give_back(req)
    assert pool.events[-1] == "release default"
    leases.leave(req, True)
    assert pool.events.count("release default") == 1


def test_give_back_inside_a_subrequest_leaves_the_main_request_its_lease(pool):
    main = Request()
    leases.enter(main)
    leased = leases.connection(main)
    sub = Request(main=main)
    leases.enter(sub)
    leases.give_back(sub)
    leases.leave(sub, True)
    assert leases.connection(main) is leased
    leases.leave(main, True)


@pytest.mark.parametrize(
    ("status", "end"), [(200, "commit default"), (302, "commit default"), (500, "rollback default")]
)
def test_without_a_dispatch_the_requests_cleanup_ends_the_lease(pool, status, end):
    req = Request()
    leases.connection(req)
    req.status = status
    [(cleanup, data)] = req.cleanups
    cleanup(data)
    assert pool.events[-2:] == [end, "release default"]


def test_the_fallback_to_the_cleanup_is_logged_once(pool):
    for _ in range(3):
        leases.connection(Request())
    assert sum(event.startswith("warning: ") for event in pool.events) == 1


def test_a_failed_subrequest_takes_the_shared_transaction_with_it(pool):
    main = Request()
    leases.enter(main)
    leases.connection(main)
    sub = Request(main=main)
    leases.enter(sub)
    leases.leave(sub, False)
    assert pool.events == ["lease default", "rollback default"]
    leases.connection(main).execute()
    leases.leave(main, True)
    assert pool.events[2:] == ["commit default", "release default"]


def test_what_was_settled_is_not_ended_again(pool):
    req = Request()
    leases.enter(req)
    leases.connection(req)
    leases.settle(req, True)
    leases.leave(req, False)
    assert pool.events == ["lease default", "commit default", "release default"]


def test_what_is_stored_after_a_settled_redirect_is_committed_too(pool):
    main = Request()
    leases.enter(main)
    leased = leases.connection(main)
    redirected = Request(prev=main)
    leases.enter(redirected)
    leases.settle(redirected, True)
    leases.leave(redirected, True)
    leased.execute()
    leases.leave(main, True)
    assert pool.events == ["lease default", "commit default", "commit default", "release default"]
