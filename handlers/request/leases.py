"""One leased connection per main request, inside one transaction.

The state hangs on the main request object itself: subrequests and internal redirects reach it by following
`main` and `prev`, and nothing is keyed on a thread, because mod_python's thread states travel between threads.
Whoever runs a handler brackets it with `enter` and `leave`; the connection goes back when
the outermost bracket ends, and not in the request's cleanup, which under the event MPM waits for the client to read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from handlers.reload.context import Imports
from handlers.request.output import has_sent
from mpool import end_transaction, get_connection, interpreter_name, log, note_stack, release

#: The attribute of the main request that holds its `RequestLeases`: this interpreter's, since another, which may serve
#: other phases, has pools of its own, and from Python 3.12 on mixes up the attributes of our objects with its own.
ATTRIBUTE = f"mpool_leases_{id(sys.modules)}"

#: psycopg2.extensions.STATUS_READY: no statement has been sent since the last commit or rollback.
_READY = 1

_told_of_missing_install = False


class RequestLeases(Imports):
    """What one main request holds: how deep its dispatches nest, its connections by pool name, and what it imports."""

    depth = 0
    connections: Mapping[str, Any] = MappingProxyType({})  # replaced, never changed

    def __repr__(self) -> str:
        return f"<RequestLeases depth={self.depth} pools={sorted(self.connections)}>"


def root(req: Any) -> Any:
    """The main request that *req* belongs to: itself, or what its subrequests and redirects came from."""
    while True:
        parent = req.main or req.prev
        if parent is None:
            return req
        req = parent


def held_by(req: Any) -> RequestLeases:
    """What the main request of *req* holds: the first look finds it, where *req* is that itself."""
    leases: RequestLeases | None = getattr(req, ATTRIBUTE, None)
    if leases is None:
        main = root(req)
        if main is not req:
            return held_by(main)
        leases = RequestLeases()
        setattr(main, ATTRIBUTE, leases)
    return leases


def connection(req: Any, name: str = "default") -> Any:
    """The connection of pool *name* that this request has leased, leasing it now if it has none yet.

    Subrequests and internal redirects get the same one. It is inside one transaction, which is committed when the
    outermost handler ends well and rolled back when it does not; the caller neither closes nor returns it.
    Raises `mpool.PoolTimeout` or `mpool.TooManyRequests` when there is none to be had.
    """
    main = root(req)
    leases = held_by(main)
    leased = leases.connections.get(name)
    if leased is None:
        leased = get_connection(name, req=main)
        leases.connections = {**leases.connections, name: leased}
        if leases.depth == 0 and len(leases.connections) == 1:
            _end_with_request(main)
    return leased


def is_dispatched(req: Any) -> bool:
    """Has somebody further out called `enter` for this request or the one it belongs to?"""
    return held_by(req).depth > 0


def enter(req: Any) -> RequestLeases:
    """A dispatch (a phase's handlers, a filter) begins: leases taken from now on last at least until its `leave`.

    Returns what the main request holds.
    """
    note_stack()
    leases = held_by(req)
    leases.depth += 1
    return leases


def leave(req: Any, commit: bool) -> bool:
    """A dispatch ends. The outermost one ends the transaction and gives the connections back.

    False where a commit failed and the answer can still be a 500. The log has the reason at ERR, which is all that
    can be done once a part of the answer has been sent: nothing is appended to it.
    Never raises: the caller is already on its way out, often with an exception of its own.
    """
    leases = held_by(req)
    leases.depth -= 1
    if not leases.connections:
        return True
    try:
        # A failed subrequest or redirect takes the shared transaction with it: half of its work is not to be kept.
        if leases.depth <= 0 or not commit:
            _end_transactions(leases, commit)
    except Exception as error:
        log("err", f"the transaction of {_uri(req)} could not be {'committed' if commit else 'rolled back'}: {error}")
        return not commit or has_sent(req)
    finally:
        if leases.depth <= 0:
            _give_back(leases)
    return True


def settle(req: Any, commit: bool) -> None:
    """End the transaction now, before the answer goes out; the lease stays until the outermost `leave`.

    Raises the driver's error where a commit fails: nothing of that transaction is stored then.
    """
    leases = held_by(req)
    if leases.connections:
        _end_transactions(leases, commit)


def give_back(req: Any) -> None:
    """Return the connections before the dispatch ends; a later `connection()` leases anew.

    For an answer whose last row has been read and whose client may still be slow to take it. Nothing is returned for
    a subrequest or a redirect: the main request's handler may go on using the connection.
    """
    leases: RequestLeases | None = getattr(req, ATTRIBUTE, None)
    if leases is not None and root(req) is req:
        _give_back(leases)


def _end_transactions(leases: RequestLeases, commit: bool) -> None:
    """Commit or roll back every leased connection; after a failed commit the rest is rolled back, then it is raised."""
    failure: Exception | None = None
    for leased in leases.connections.values():
        if leased.status == _READY and not leased.autocommit:
            continue  # no transaction is open
        try:
            end_transaction(leased, commit and failure is None)
        except Exception as error:
            failure = failure or error
    if failure is not None and commit:
        raise failure


def _give_back(leases: RequestLeases) -> None:
    """Release every connection; the pool itself rolls back and checks what comes back."""
    connections, leases.connections = leases.connections, RequestLeases.connections
    for name, leased in connections.items():
        try:
            release(leased)
        except Exception as error:
            log("err", f"a connection of pool {name!r} could not be returned: {error}")


def _end_with_request(main: Any) -> None:
    """No dispatch of ours is running: the importer is not installed here, so the request's own cleanup must do."""
    main.register_cleanup(_at_request_end, main)
    tell_of_missing_install()


def tell_of_missing_install() -> None:
    """One line from an interpreter in which our code runs, and ``handlers.importer.install`` did not."""
    global _told_of_missing_install
    if not _told_of_missing_install:
        _told_of_missing_install = True
        log(
            "warning",
            "handlers is used in this interpreter, where handlers.importer::install has not run: modules are not "
            "reloaded by its rules, and a connection leased outside of a page goes back only when the client has read "
            f"the whole answer. Add: PythonImport handlers.importer::install {interpreter_name()}",
        )


def _at_request_end(main: Any) -> None:
    leases: RequestLeases = getattr(main, ATTRIBUTE)
    try:
        _end_transactions(leases, commit=main.status < 400)
    except Exception as error:
        log("err", f"the transaction of {_uri(main)} could not be committed: {error}")
    finally:
        _give_back(leases)


def _uri(req: Any) -> str:
    try:
        return f"{req.method} {req.uri}"
    except UnicodeDecodeError:  # mod_python decodes at each access, and clients send what they like
        return "a request"
