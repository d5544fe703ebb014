"""Forks, sub-interpreters, the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from postgres.helpers import DEADLINE, wait_for

ROOT = Path(__file__).resolve().parents[2]


def run_python(code, postgres, *arguments, **environment):
    """Run *code* in a process of its own, in development mode; its output. Any warning is a failure."""
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(code), *arguments],
        capture_output=True, text=True, timeout=4 * DEADLINE, cwd="/",
        env={**os.environ, **postgres.env, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def test_a_fork_gets_its_own_empty_pool_and_leaves_the_parents_sockets_alone(postgres):
    out, err = run_python(
        """
        import gc, os, mpool

        def pid_of(conn):
            with conn.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                return cursor.fetchone()[0]

        pool = mpool.get_pool()
        conns = [pool.getconn() for _ in range(3)]
        parents = {pid_of(conn) for conn in conns}
        held = conns.pop()
        for conn in conns:
            pool.putconn(conn)
        del conns, conn
        child = os.fork()
        if child == 0:
            stats = pool.get_stats()
            assert stats["pool_size"] == stats["leased"] == 0, stats
            with pool.connection() as conn:
                assert pid_of(conn) not in parents
            with mpool.connection() as conn:
                assert pid_of(conn) not in parents
            pool.putconn(held)   # the parent's: ignored
            held.close()         # and not closed
            del held
            gc.collect()
            mpool.close_pools()
            pool.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pid_of(held) in parents
        pool.putconn(held)
        again = [pool.getconn() for _ in range(3)]
        assert {pid_of(conn) for conn in again} == parents
        for conn in again:
            pool.putconn(conn)
        print("ok")
        """,
        postgres,
    )
    assert out == "ok\n" and "Error" not in err


def test_a_fork_with_threads_that_wait_and_a_housekeeper_that_runs(postgres):
    run_python(
        """
        import os, threading, mpool

        pool = mpool.init_pool(max_size=2, min_size=1)
        held = [pool.getconn(), pool.getconn()]
        waiter = threading.Thread(target=lambda: pool.putconn(pool.getconn(60)))
        waiter.start()
        while not pool.get_stats()["requests_waiting"]:
            pass
        child = os.fork()
        if child == 0:
            done = threading.Event()
            mpool.run_soon(done.set)     # the child's own housekeeper
            assert done.wait(30)
            with pool.connection() as conn:
                conn.cursor().execute("SELECT 1")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for conn in held:
            pool.putconn(conn)
        waiter.join(30)
        assert not waiter.is_alive()
        """,
        postgres,
    )


def test_the_end_of_a_process_closes_the_pools_after_the_callbacks(postgres):
    out, _ = run_python(
        """
        import mpool
        mpool.on_child_exit(lambda: print("first registered", mpool.get_pool().closed))
        mpool.on_child_exit(lambda: print("last registered", mpool.get_pool().closed))
        pool = mpool.get_pool()
        with pool.connection() as conn:
            print(conn.get_backend_pid())
        """,
        postgres,
    )
    pid, *lines = out.splitlines()
    assert lines == ["last registered False", "first registered False"]
    wait_for(lambda: int(pid) not in [backend for backend, _, _ in postgres.backends()])


def test_a_callback_that_hangs_does_not_keep_the_process(postgres):
    out, err = run_python(
        """
        import threading, mpool.host.apache
        mpool.host.apache.EXIT_SECONDS = 0.2
        mpool.on_child_exit(threading.Event().wait)
        mpool.host.apache.run_exit_callbacks(0.2)
        print("ended")
        """,
        postgres,
    )
    assert out == "ended\n"
    assert "did not wait longer" in err


def test_close_leaves_no_thread(postgres):
    run_python(
        """
        import threading, time, mpool
        pool = mpool.ConnectionPool(__import__("os").environ["MPOOL_CONNINFO"], min_size=2, max_size=4)
        pool.wait(30)
        assert [t.name for t in threading.enumerate() if t.name == "mpool housekeeper"]
        pool.close()
        until = time.monotonic() + 30
        while threading.active_count() > 1:
            assert time.monotonic() < until, threading.enumerate()
            time.sleep(0.01)
        """,
        postgres,
    )


def test_development_mode_has_nothing_to_say(postgres):
    _, err = run_python(
        """
        import gc, threading, mpool, mpool.compat
        pool = mpool.init_pool(max_size=3, min_size=1)
        def use():
            for _ in range(50):
                with pool.connection() as conn:
                    conn.cursor().execute("SELECT 1")
        threads = [threading.Thread(target=use) for _ in range(6)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        conn = pool.getconn()
        del conn
        null = mpool.NullConnectionPool(max_size=1)
        with null.connection() as conn:
            pass
        null.close()
        old = mpool.compat.ThreadedConnectionPool(1, 2)
        old.putconn(old.getconn())
        old.closeall()
        gc.collect()
        mpool.close_pools()
        """,
        postgres,
    )
    assert "Warning" not in err and "Traceback" not in err, err


SUB = """
    import os, sys
    try:
        import _interpreters as interpreters
        create = lambda: interpreters.create("legacy")
        run = lambda interpreter, code: interpreters.exec(interpreter, code)
    except ImportError:
        import _xxsubinterpreters as interpreters
        create = lambda: interpreters.create(isolated=False)
        run = interpreters.run_string
    {first}
    read, write = os.pipe()
    alive = [create() for _ in range({count})]   # as in mod_python: interpreters are not destroyed
    for interpreter in alive:
        failure = run(interpreter, {code!r}.replace("WRITE", str(write)))
        assert not failure, failure
    os.close(write)
    with os.fdopen(read) as file:
        sys.stdout.write(file.read())
    sys.stdout.flush()
    os._exit(0)   # and threads are cut
"""


def in_interpreters(postgres, code, first="import psycopg2", count=3):
    try:
        __import__("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    except ImportError:
        pytest.skip("this Python offers no sub-interpreters")
    return run_python(SUB.format(first=first, count=count, code=textwrap.dedent(code)), postgres)


def test_three_interpreters_have_a_pool_each_and_whole_errors(postgres):
    out, _ = in_interpreters(
        postgres,
        """
        import os, mpool, psycopg2
        pool = mpool.get_pool()
        assert mpool.get_pool() is pool
        with mpool.connection() as conn:
            cursor = conn.cursor()
            cursor.execute("CREATE TEMP TABLE t (n int UNIQUE)")
            cursor.execute("INSERT INTO t VALUES (1)")
            try:
                with conn.transaction():
                    cursor.execute("INSERT INTO t VALUES (1)")
            except psycopg2.errors.UniqueViolation as error:
                assert error.pgcode == "23505"
            else:
                raise AssertionError("no error")
            assert len([n for n in dir(psycopg2.errors) if n[0].isupper()]) > 200
            os.write(WRITE, b"%d %d\\n" % (conn.get_backend_pid(), pool.get_stats()["pool_size"]))
        """,
    )
    rows = [line.split() for line in out.splitlines()]
    assert len({pid for pid, _ in rows}) == 3
    assert [size for _, size in rows] == ["1"] * 3


def test_a_first_import_in_the_wrong_interpreter_is_warned_of(postgres):
    code = """
        import sys
        try:
            import mpool.host.apache, mpool.registry
        except ImportError as error:   # from Python 3.13 on psycopg2 cannot be imported at all then
            print(error, file=sys.stderr, flush=True)
        else:
            mpool.host.apache.interpreter_name = lambda: "a.test"
            mpool.get_pool()
    """
    # One only: on newer Pythons the others cannot use psycopg2 then, which is what the warning is about.
    _, err = in_interpreters(postgres, code, first="import decimal", count=1)
    assert "PythonImport psycopg2 main_interpreter" in err
    _, err = in_interpreters(postgres, code)
    assert "PythonImport" not in err
