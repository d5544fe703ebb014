"""From a call to an answer: the transaction around it, the order of commit and sending, and what errors become.

Used by the publisher and by `Handler` alike. Where the result is a value, it is rendered, then the transaction is
committed, then the answer is sent: a client never reads of what was not stored. A stream is sent while its
transaction is open, and committed when it ends.
"""

from __future__ import annotations

import html
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from handlers.errors import HttpError, Undecidable
from handlers.pages import results
from handlers.pages.forms import Form
from handlers.request import leases, output
from mpool import CommitUnknown, PoolError, PoolTimeout, TooManyRequests, log

OK, DECLINED, DONE = 0, -1, -2

#: AP_FILTER_ERROR: for Apache the answer has failed below us, and it adds nothing, not even the end of the body.
BROKEN_OFF = -102
_CLOSE = -1  # AP_CONN_CLOSE

#: Seconds after which a client may try again when there is no connection to be had.
RETRY_AFTER = "5"

#: Bytes that Apache takes without waiting for the client. Who reads more than that slowly must not hold a connection.
AT_ONCE = 65536

#: psycopg2's OperationalError, by way of the pool's errors, which are its subclasses.
_OPERATIONAL_ERROR = next(cls for cls in PoolError.__mro__ if cls.__name__ == "OperationalError")
_DATABASE_ERROR = _OPERATIONAL_ERROR.__bases__[0]

#: SQLSTATEs with which a server says that it is going away, starting, or full.
_DOWN = ("08", "57P01", "57P02", "57P03", "53300")


#: Apache's own numbers for the levels of its log.
_LEVELS = {"err": 3, "warning": 4, "notice": 5, "info": 6}


def server_return() -> type[BaseException] | None:
    """mod_python's SERVER_RETURN, whose class exists inside Apache only."""
    return getattr(sys.modules.get("_apache"), "SERVER_RETURN", None)


def status_returned(error: BaseException) -> int | None:
    """The status that a SERVER_RETURN carries; None where *error* is something else."""
    cls = server_return()
    if cls is None or not isinstance(error, cls):
        return None
    status = error.args[-1] if error.args and error.args[-1] else (error.args[0] if error.args else 500)
    return status if type(status) is int else 500


def is_success(status: int) -> bool:
    """Does a handler that ends with *status* commit? OK, DECLINED, DONE, and 1xx to 3xx."""
    return status < 400


def is_outage(error: BaseException) -> bool:
    """Is the pool exhausted or the database down, so that the same request may well succeed in a while?"""
    if isinstance(error, PoolError):
        return isinstance(error, (PoolTimeout, TooManyRequests))
    # Depending on the moment, psycopg2 has nothing but a bare DatabaseError for a server that closed the connection.
    if not isinstance(error, _OPERATIONAL_ERROR) and type(error) is not _DATABASE_ERROR:
        return False
    code = getattr(error, "pgcode", None)
    return code is None or code.startswith(_DOWN)


def serve(req: Any, call: Callable[[Any], Any]) -> int:
    """Call *call* with *req* and answer with what it returns; the status for Apache.

    Raises SERVER_RETURN, and errors of the page, on to mod_python's dispatch, which logs them, after the transaction
    has been ended.
    """
    is_outermost = not leases.is_dispatched(req)
    if is_outermost:
        leases.tell_of_missing_install()
        leases.enter(req)
    try:
        return _answer(req, call(req))
    except HttpError as error:
        leases.settle(req, False)
        return refuse(req, error)
    except Undecidable as error:
        leases.settle(req, False)
        log_error(req, f"{path_of(req)} is not served: {error}")
        return 500
    except Exception as error:
        status = _status_of(req, error)
        if status is None:
            raise  # from here: a frame that still held the error would keep it, and the request, alive
        return status
    finally:
        if is_outermost:
            leases.leave(req, False)  # what went well is committed by now
        form = getattr(req, "form", None)
        if form.__class__ is Form and form.list:
            form.close()


def _answer(req: Any, result: Any) -> int:
    """Render *result*, end the transaction, send."""
    headers: Sequence[tuple[str, str]] = ()
    status = 200
    if isinstance(result, results.Response):
        headers, status, result = result.pairs(), result.status, result.body
        for name, value in headers:
            if name.lower() == "content-type":
                req.content_type = value
    rendered = results.render(result, req.content_type if req._content_type_set else None)
    if rendered.stream is not None:
        return _stream(req, rendered, status, headers)
    if not _settle(req):
        return DONE
    if headers or status != 200:
        _send_headers(req, status, headers)
    if rendered.content_type:
        req.content_type = rendered.content_type
    if rendered.body and status not in results.BODILESS:
        if len(rendered.body) > AT_ONCE:
            leases.give_back(req)
        try:
            # Not flushed: Apache then counts the length, and discards the body of a HEAD itself.
            output.write(req, rendered.body)
        except OSError as error:
            _client_gone(req, error)
    return OK


def _settle(req: Any) -> bool:
    """Commit. A failure is raised where an answer can still say so; else the log says it, and the answer is False."""
    try:
        leases.settle(req, True)
    except Exception as error:
        if not output.has_sent(req):
            raise
        outcome = "" if isinstance(error, CommitUnknown) else "nothing is stored: "
        log_error(req, f"{path_of(req)}: the commit failed after the answer had been sent, {outcome}{error}")
        return False
    return True


def _send_headers(req: Any, status: int, headers: Sequence[tuple[str, str]]) -> None:
    if status != 200:
        req.status = status
    for name, value in headers:
        # Apache counts the length; a wrong one would break the connection.
        if name.lower() not in ("content-type", "content-length"):
            req.headers_out.add(name, value)


def _stream(req: Any, rendered: results.Rendered, status: int, headers: Sequence[tuple[str, str]]) -> int:
    """Send a stream part by part; the transaction ends with it, before the client has read the last of it.

    One that fails half way is broken off: its client must not take it for a complete answer.
    """
    assert rendered.stream is not None
    complete = ended = False
    try:
        _send_headers(req, status, headers)
        if rendered.content_type:
            req.content_type = rendered.content_type
        if req.method != "HEAD" and status not in results.BODILESS:
            for part in rendered.stream:
                if part:
                    req.write(part)
        complete = True
    except BaseException as error:
        ended = _is_end(error)
        if isinstance(error, OSError) and req.connection.aborted:
            _client_gone(req, error)
        elif not output.has_sent(req) or ended or is_debug(req):
            raise
        else:
            _log_traceback(req, error)
    finally:
        close = getattr(rendered.source, "close", None)
        if close is not None:
            close()  # its finally blocks run inside the transaction
        if not (complete or ended):
            leases.settle(req, False)
    complete = complete and _settle(req)
    leases.give_back(req)
    return OK if complete else _break_off(req)


def _is_end(error: BaseException) -> bool:
    """Is it the SERVER_RETURN by which a page says that it has sent all?"""
    status = status_returned(error)
    return status is not None and is_success(status)


def _break_off(req: Any) -> int:
    """End the answer so that the client sees that it is not complete: the connection closes before the body's end."""
    req.connection.keepalive = _CLOSE
    return BROKEN_OFF


def refuse(req: Any, error: HttpError) -> int:
    """Answer with the status of *error*: with a page of its own where it has a message, else with Apache's."""
    if error.reason:
        log_error(req, f"{path_of(req)}: {error.status}: {error.reason}", "info")
    for name, value in error.headers.items():
        results.check_header(name, value)
        req.err_headers_out[name] = value
    if not error.message or output.has_sent(req):
        return DONE if output.has_sent(req) else error.status
    req.status = error.status
    req.content_type = "text/html; charset=utf-8"
    req.write(results.error_page(error.status, error.message), 0)
    return OK


def _status_of(req: Any, error: Exception) -> int | None:
    """End the transaction, and answer for an *error* of the page; None where mod_python's dispatch is to have it."""
    status = status_returned(error)
    if status is not None and is_success(status):
        return None if _settle(req) else DONE
    leases.settle(req, False)
    if status is not None:
        return None
    if is_outage(error):
        log_error(req, f"{path_of(req)}: 503: {type(error).__name__}: {one_line(error)}")
        if output.has_sent(req):
            return DONE
        req.err_headers_out["Retry-After"] = RETRY_AFTER
        return 503
    if isinstance(error, OSError) and req.connection.aborted:
        _client_gone(req, error)
        return DONE
    if output.has_sent(req) and not is_debug(req):
        # The headers are gone: an error page would be appended to the page's own text.
        _log_traceback(req, error)
        return DONE
    return None


def _log_traceback(req: Any, error: BaseException) -> None:
    for line in traceback.format_exception(error):
        log_error(req, line.rstrip())


def _client_gone(req: Any, error: OSError) -> None:
    log_error(req, f"{path_of(req)}: the client has gone: {error}", "info")


def is_debug(req: Any) -> bool:
    return bool(req.get_config().get("PythonDebug", "0") == "1")


def log_error(req: Any, message: str, level: str = "err") -> None:
    """To the request's own error log, as mod_python's own messages; through the pool's log elsewhere."""
    try:
        req.log_error("handlers: " + message.replace("\x00", "?"), _LEVELS[level])
    except UnicodeError:
        log(level, message.encode("ascii", "backslashreplace").decode("ascii"))


def path_of(req: Any) -> str:
    """The request's method and path for a log line; what a client sent need not be text."""
    try:
        return f"{req.method} {req.uri}"
    except UnicodeDecodeError:
        return f"{req.method} (a path that is not UTF-8)"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def redirect(req: Any, location: str, permanent: bool = False, text: str | None = None) -> None:
    """As mod_python's util.redirect, but what the request has stored is committed before the client is sent on.

    Raises SERVER_RETURN in every case, or the driver's error where the commit fails and nothing has been sent.
    """
    if not isinstance(location, str):
        raise TypeError("location must be of type str")
    results.check_header("Location", location)
    if req.sent_bodyct:
        raise OSError("Cannot redirect after headers have already been sent.")
    leases.settle(req, True)
    req.err_headers_out["Location"] = location
    req.status = 301 if permanent else 302
    if text is None:
        if not req._content_type_set:
            req.content_type = "text/html; charset=utf-8"
        text = f'<p>The document has moved <a href="{html.escape(location)}">here</a></p>\n'
    req.write(text)
    stop = server_return()
    assert stop is not None, "redirect works inside Apache only"
    raise stop(DONE)
