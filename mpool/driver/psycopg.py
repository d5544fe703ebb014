"""What psycopg2 needs to be whole in every interpreter of a process, and what its errors mean to a pool."""

from __future__ import annotations

import functools
import select
from collections.abc import Callable
from enum import Enum
from typing import Any, ParamSpec, TypeVar

from mpool.host.apache import log

try:
    import psycopg2
    import psycopg2.errors
    from psycopg2 import _psycopg
except ImportError as error:
    if "_psycopg" not in str(error):
        raise
    # Seen where another interpreter was the first to import it, and always in a first import outside the main one
    # from Python 3.13 on.
    raise ImportError(
        "psycopg2 cannot be used in this interpreter, because main_interpreter has not imported it first: put "
        "'PythonImport psycopg2 main_interpreter' into the server configuration"
    ) from error


POLLRDHUP = getattr(select, "POLLRDHUP", 0)  # Linux: told without POLLIN, which says that there is something to read


class Verdict(Enum):
    """What an error says of the connection's server."""

    NOTHING = "nothing"
    GONE = "the server went away"
    READ_ONLY = "the server is read-only"


def complete_errors() -> int:
    """Give psycopg2.errors its names; the number of those that were missing.

    psycopg2 fills that module in the interpreter that imports it first, and in no other; the classes themselves are
    shared by the process.
    """
    missing = 0
    for error in _psycopg.sqlstate_errors.values():
        if not hasattr(psycopg2.errors, error.__name__):
            setattr(psycopg2.errors, error.__name__, error)
            missing += 1
    return missing


# Noted at import, once per interpreter: complete already means that psycopg2 was imported here first.
imported_here_first = complete_errors() == 0


def main_interpreter_imported_first(interpreter: str) -> bool:
    """False if psycopg2's first import in this process was in *interpreter*, and that is not the main one.

    On newer Pythons psycopg2 is then unusable in all the others.
    """
    return interpreter in ("main_interpreter", "python") or not imported_here_first


def verdict(error: BaseException | None) -> Verdict:
    """Judge an error by its SQLSTATE: class 08 and 57P01 to 57P03 mean gone, 25006 read-only.

    The error of a killed connection carries no SQLSTATE at all; there the connection itself has to be asked.
    """
    code: Any = getattr(error, "pgcode", None) if isinstance(error, psycopg2.Error) else None
    if not isinstance(code, str):
        return Verdict.NOTHING
    if code.startswith("08") or code in ("57P01", "57P02", "57P03"):
        return Verdict.GONE
    return Verdict.READ_ONLY if code == "25006" else Verdict.NOTHING


def went_unanswered(error: BaseException) -> bool:
    """No server stands behind this failure to connect: refused, no route, no answer in time.

    A server's own refusal (too many connections, a wrong password, starting up) reads "FATAL:  ...". psycopg2 gives it
    no SQLSTATE and the word is in the server's language, but libpq writes two spaces after it, and after nothing of its
    own. The type is exact: a subclass comes of a statement, or is ours.
    """
    return type(error) is psycopg2.OperationalError and ":  " not in str(error)


def is_broken(conn: Any) -> bool:
    """The driver has seen the connection die (as against: someone closed it)."""
    return bool(conn.closed == 2)


def last_words(conn: Any) -> str:
    """What the server said when it ended the session, which the driver's exception leaves out; "" if nothing."""
    words: str = (conn.info.error_message or "").partition("\n")[0]
    return " ".join(words.split()) if words.startswith("FATAL") else ""


def has_hung_up(conn: Any) -> bool:
    """Has the server closed its end of the connection? Looks at the socket, and reads nothing of it."""
    poller = select.poll()  # of its own: two threads may not use one at a time
    try:
        poller.register(conn.fileno(), POLLRDHUP)
    except psycopg2.Error:
        return bool(conn.closed)  # closed just now
    return bool(poller.poll(0))


def was_idle_too_long(words: str) -> bool:
    """Do a connection's last *words* say that it alone was ended, by one of the server's timeouts for sessions?

    They come without a SQLSTATE (25P03, 25P04, 57P05) and in the server's language; in another than English this is
    not seen, and the connection counts as one whose server went away.
    """
    return words.endswith(" timeout") and "terminating connection due to" in words


def reads_read_only(conn: Any) -> bool:
    """The server has reported that this session cannot write. A parameter status: no round trip."""
    return "on" in (
        conn.get_parameter_status("in_hot_standby"),
        conn.get_parameter_status("default_transaction_read_only"),
    )


def without_traceback(error: BaseException) -> BaseException:
    """*error* without its frames: psycopg2.connect's own hold the password as a local variable."""
    error.__traceback__ = None
    error.__context__ = None
    return error


_P = ParamSpec("_P")
_R = TypeVar("_R")


def hides_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """For functions that are given a conninfo: what they raise shows none of their frames, where it is a local."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            failure = without_traceback(error)
        del args, kwargs
        raise failure

    return call


def close_quietly(conn: Any) -> None:
    try:
        conn.close()
    except psycopg2.Error as error:
        log("info", f"closing a connection failed: {one_line(error)}")


def one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def connection_info(conn: Any) -> str:
    """One line that tells a connection from others in pg_stat_activity."""
    if conn.closed:
        return "closed connection"
    name = conn.get_parameter_status("application_name")
    return f"connection to backend {conn.get_backend_pid()}" + (f" (application_name {name!r})" if name else "")
