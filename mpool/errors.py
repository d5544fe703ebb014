"""The errors a caller of mpool can see, all on psycopg2's own tree.

``except psycopg2.Error`` catches every one of them, so code written for a bare connection keeps its error handling.
No text of theirs contains a conninfo string: a password can stand in one.
"""

from __future__ import annotations

import psycopg2


class PoolError(psycopg2.OperationalError):
    """Base of everything that mpool raises by itself."""


class PoolClosed(PoolError):
    """The pool is not open: not opened yet, or closed."""


class PoolTimeout(PoolError):
    """No connection came free in the time that the caller gave."""


class PoolUnavailable(PoolTimeout):
    """The server cannot be reached, or refuses, and no connection of the pool's can be expected back.

    ``__cause__`` is the driver's own error. A subclass of PoolTimeout, so that a caller who treats "no connection to be
    had" in one place needs to name one class; it is raised without waiting for the timeout.
    """


class CommitUnknown(PoolError):
    """The connection was lost between COMMIT and its answer: the transaction is stored, or it is not.

    Never a reason to try again by itself: look for what it should have stored first.
    """


class TooManyRequests(PoolError):
    """``max_waiting`` callers are waiting already; this one was refused at once."""


class LeaseError(PoolError, ValueError):
    """A connection was given back that is not out on lease from this pool: foreign, or returned twice."""


class PoolConflict(PoolError):
    """Two sites ask one interpreter for a pool of one name with different options.

    They need two pool names or two interpreters; the message names the option and both scopes, never a value.
    """
