"""All that mpool knows of mod_python: options, log, the end of a child, facts about the MPM.

Outside Apache every function has its plain equivalent: the environment, the logging module, atexit.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from mpool.host.forking import at_fork

EXIT_SECONDS = 5.0  # a child that is told to stop is killed after 10
DEFAULT_MAX_SIZE = 10

_logger = logging.getLogger("mpool")
_LEVELS = {
    "err": logging.ERROR,
    "warning": logging.WARNING,
    "notice": logging.INFO,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}

_request_source: Callable[[], Any] | None = None
_lock = threading.RLock()  # guards the three below; a finalizer may come in between
_callbacks: list[Callable[[], object]] = []
_last_callbacks: list[Callable[[], object]] = []
_registered_in = 0  # the process whose exit is taken care of


def inside() -> Any:
    """mod_python.apache inside Apache, None outside: its _apache module exists only in the server."""
    if "_apache" not in sys.modules and "mod_python.apache" not in sys.modules:
        return None
    from mod_python import apache

    return apache


def interpreter_name() -> str:
    """The name mod_python gave this interpreter; "python" outside Apache."""
    apache = inside()
    return "python" if apache is None else str(apache.interpreter or "main_interpreter")


def log(level: str, message: str, source: str = "mpool") -> None:
    """One entry in Apache's main server error log, or for the logger "mpool". Levels: err warning notice info debug.

    *source* is what the entry begins with: old sites' tools look for the importer's as "mod_python (pid=".
    """
    apache = inside()
    if apache is None:
        _logger.log(_LEVELS[level], "%s", message)
        return
    code = getattr(apache, f"APLOG_{level.upper()}")
    prefix = f"{source} (pid={os.getpid()}, interpreter={interpreter_name()!r}): "
    # Apache takes neither lone surrogates nor null bytes, and whoever logs is not to fail for that.
    message = message.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    # It cuts an entry at some 8 kB and escapes line ends: a stack is easier to read line by line.
    for line in message.splitlines() or [""]:
        apache.log_error(prefix + line, code, apache.main_server)


def log_exception(what: str) -> None:
    """The exception being handled, by its class and text: its frames may hold what nobody should read."""
    error = sys.exc_info()[1]
    log("err", f"{what}: {type(error).__name__}: {' '.join(str(error).split())}")


def options(req: Any = None) -> dict[str, str]:
    """The PythonOption entries that hold for *req*, or for the main server; none outside Apache."""
    if req is not None:
        return dict(req.get_options())
    apache = inside()
    if apache is None or apache.main_server is None:
        return {}
    return dict(apache.main_server.get_options())


def scope(req: Any = None) -> str:
    """The server or virtual host that *req* belongs to, as one would look for it in the configuration."""
    if req is None:
        return "the main server" if inside() is not None else "the environment"
    server = req.server
    kind = "virtual host" if getattr(server, "is_virtual", False) else "server"
    # Apache notes where a <VirtualHost> begins; the name alone may be given twice.
    where = f" ({server.defn_name}:{server.defn_line_number})" if getattr(server, "defn_name", None) else ""
    return f"{kind} {server.server_hostname or '*'}:{server.port}{where}"


def find_request_by(source: Callable[[], Any]) -> None:
    """Have *source* tell, from now on, which request the calling thread serves; None where it serves none."""
    global _request_source
    _request_source = source


def current_request() -> Any:
    """The main request that the calling thread serves; None outside of any."""
    if _request_source is not None:
        return main_request(_request_source())
    apache = inside()
    if apache is None:
        return None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:  # mod_python's own dispatch is at the bottom of every request's stack
        if frame.f_globals is apache.__dict__ and frame.f_code.co_name in ("HandlerDispatch", "FilterDispatch"):
            given = frame.f_locals
            return main_request(given["req"] if "req" in given else given["filter"].req)
        frame = frame.f_back
    return None


def main_request(req: Any) -> Any:
    """The one that *req* came from, by subrequests and internal redirects."""
    while req is not None and (above := getattr(req, "main", None) or getattr(req, "prev", None)) is not None:
        req = above
    return req


def request_name(req: Any) -> str | None:
    """Who leases, for reports: the request line of the main request, the same for its subrequests and redirects."""
    if req is None:
        return None
    root = main_request(req)
    return f"{getattr(root, 'method', '?')} {getattr(root, 'uri', '?')} #{id(root):x}"


def default_max_size() -> int:
    """Threads of a child, at most 10; 1 where a child serves one request at a time."""
    apache = inside()
    if apache is None:
        return DEFAULT_MAX_SIZE
    if not apache.mpm_query(apache.AP_MPMQ_IS_THREADED):
        return 1
    return int(max(1, min(DEFAULT_MAX_SIZE, apache.mpm_query(apache.AP_MPMQ_MAX_THREADS))))


def on_child_exit(callback: Callable[[], object]) -> None:
    """Call *callback* when this child ends; the last registered first.

    mod_python runs no atexit handlers, never forgets a cleanup and pins what it refers to, so there is one cleanup per
    interpreter, and this list. All callbacks together have EXIT_SECONDS. In an interpreter that is named by a directory
    (PythonInterpPerDirectory, PythonInterpPerDirective) nothing is called: mod_python cannot do it safely.
    """
    _register(_callbacks, callback)


def at_the_very_end(callback: Callable[[], object]) -> None:
    """Like on_child_exit(), after all of those: for the closing of the pools, which they may still use."""
    _register(_last_callbacks, callback)


def _register(callbacks: list[Callable[[], object]], callback: Callable[[], object]) -> None:
    global _registered_in
    with _lock:
        callbacks.append(callback)
        if _registered_in == os.getpid():
            return
        _registered_in = os.getpid()
    apache = inside()
    if apache is None:
        atexit.register(_at_python_exit, os.getpid())
    elif interpreter_name().startswith("/"):
        # With PythonInterpPerDirectory mod_python keeps a name that lies in the memory of a request that has ended. It
        # would look this interpreter up by it: a segmentation fault, and nobody's cleanups run.
        log("notice", "interpreters named by a directory are not told of the end of the child: the system closes all")
    else:
        apache.register_cleanup(_at_child_exit)


def _at_child_exit(data: object = None) -> None:
    run_exit_callbacks()


def _at_python_exit(pid: int) -> None:
    if pid == os.getpid():  # a fork takes the parent's handlers along
        run_exit_callbacks()


def run_exit_callbacks(timeout: float = EXIT_SECONDS) -> None:
    """Run the callbacks in a thread of their own: one that hangs must not keep the child, which would be killed."""
    with _lock:
        callbacks = _callbacks[::-1] + _last_callbacks[::-1]
        _callbacks.clear()
        _last_callbacks.clear()

    def run() -> None:
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log_exception("a callback at the end of the process failed")

    if not callbacks:
        return
    thread = threading.Thread(target=run, name="mpool exit", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is too far gone for a thread
        run()
        return
    thread.join(timeout)
    if thread.is_alive():
        log("warning", f"the end of the process did not wait longer than {timeout:g}s for its callbacks")


def forget_parent() -> None:
    """In the child of a fork: the parent's callbacks are about the parent's connections."""
    global _lock
    _lock = threading.RLock()  # another thread of the parent's may have held it
    _callbacks.clear()
    _last_callbacks.clear()


at_fork(forget_parent)
