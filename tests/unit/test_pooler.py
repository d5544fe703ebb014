"""Is there a PgBouncer in between, and what did it say at the end?"""

from __future__ import annotations

from types import SimpleNamespace

import psycopg2
import pytest

from mpool import PoolConfig
from mpool.driver.pooler import MODES, stands_before, was_full
from mpool.driver.psycopg import last_words
from mpool.engine.entry import PoolConnection


class Numbered:
    def __init__(self, pid: int) -> None:
        self._pid = pid

    def get_backend_pid(self) -> int:
        return self._pid


@pytest.mark.parametrize(
    ("pid", "mode", "expected"),
    [
        *((pid, "auto", False) for pid in (1, 12739, 4194304)),
        *((pid, "auto", True) for pid in (464650805, -142678111, 4194305, 0)),
        *((pid, "transaction", True) for pid in (12739, 464650805)),
        *((pid, "session", False) for pid in (12739, 464650805)),
    ],
)
def test_a_number_that_no_process_has_is_a_poolers(pid, mode, expected):
    assert stands_before(Numbered(pid), mode) is expected


def test_the_modes_are_words_and_others_are_refused():
    assert [PoolConfig(pooler=mode).pooler for mode in MODES] == list(MODES)
    with pytest.raises(ValueError, match="pooler must be one of auto, transaction, session"):
        PoolConfig(pooler="statement")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("FATAL:  query_wait_timeout\nserver closed the connection unexpectedly\n", "FATAL: query_wait_timeout"),
        ("server closed the connection unexpectedly\n", ""),
        ("ERROR:  division by zero\n", ""),
        (None, ""),
    ],
)
def test_last_words_are_those_of_the_end_alone(message, words):
    assert last_words(SimpleNamespace(info=SimpleNamespace(error_message=message))) == words


def test_only_a_full_pgbouncer_was_full():
    assert was_full("FATAL: query_wait_timeout")
    assert not was_full("FATAL: terminating connection due to administrator command") and not was_full("")


def test_values_that_change_nothing_are_not_refused():
    conn = PoolConnection.__new__(PoolConnection)
    conn._pooled = True
    conn._keep_to_itself(True, None, "default", "DEFAULT")
    conn._keep_to_itself(False, "SERIALIZABLE", True)
    with pytest.raises(psycopg2.NotSupportedError):
        conn._keep_to_itself(True, None, False)
