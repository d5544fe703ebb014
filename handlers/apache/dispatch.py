"""All that handlers knows of mod_python's internals.

``install`` replaces the methods of mod_python's callback object, since its ``import_module`` is told neither the
request nor the directory, and rules that need them could not be kept. What is replaced does what mod_python's own
does, with these differences: nothing is put on sys.path; a handler may be a file name; one request is one set of
modules and one leased connection, whatever phases and filters it runs through.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from mod_python import apache

from handlers.apache.filters import Filter
from handlers.reload import finder
from handlers.reload.context import Call, Imports, Settings, begin, current, end, entered, settings
from handlers.reload.debug_page import error_page
from handlers.reload.failures import is_ours
from handlers.reload.importing import Importer
from handlers.reload.interpreter import (
    freeze_modules,
    import_module,
    module_info,
    modules_graph,
    page_module,
    request_modules_graph,
)
from handlers.reload.modules import ModuleCache, ModuleInfo
from handlers.request import leases
from handlers.request.underway import Underway
from mpool import find_request_by, interpreter_name, log, note_stack

_importer: Importer
_underway: Underway


def _request_served() -> Any:
    call = current()
    return None if call is None else call.req


def install(importer: Importer) -> bool:
    """Put our methods in the place of mod_python's; False where the configuration says to leave them (or they are)."""
    global _importer, _underway
    if apache.CallBack.HandlerDispatch is handler_dispatch:
        return False
    legacy = apache.main_server.get_options().get("mod_python.legacy.importer", "").split()
    if "*" in legacy or interpreter_name() in legacy:
        log("notice", "the importer is not installed: PythonOption mod_python.legacy.importer names this interpreter")
        return False
    _replace_publishers_parts()  # imports modules, so it may fail: before anything else is replaced
    _importer, _underway = importer, Underway(importer.retirement)
    find_request_by(_request_served)
    callback = apache.CallBack
    callback.HandlerDispatch = handler_dispatch
    callback.FilterDispatch = filter_dispatch
    callback.ConnectionDispatch = connection_dispatch
    callback.ImportDispatch = import_dispatch
    callback.IncludeDispatch = _include_dispatch(callback.IncludeDispatch)
    callback.ReportError = _report_error(callback.ReportError)
    apache.ximport_module = apache.import_module
    for function in (
        *(import_module, freeze_modules, modules_graph, request_modules_graph, module_info),
        *(get_current_config, get_current_options, get_handler_root),
    ):
        setattr(apache, function.__name__, function)
    return True


def _replace_publishers_parts() -> None:
    """What mod_python's publisher and util do in a way of their own: a page cache, and a 302 before the commit."""
    from mod_python import util

    from handlers.pages.serving import redirect

    util.redirect = redirect
    with contextlib.suppress(ImportError):  # it needs what a later Python no longer has
        from mod_python import publisher

        publisher.page_cache = _Pages()


class _Pages:
    """mod_python.publisher's page cache: its pages are managed modules, hooks included. (item 48)"""

    def __getitem__(self, req: Any) -> Any:
        return page_module(req, req.filename)


def get_current_config() -> Any:
    """The directives in force for the present request, or the main server's."""
    call = current()
    return call.req.get_config() if call is not None and call.req is not None else apache.main_server.get_config()


def get_current_options() -> Any:
    """The PythonOption values in force for the present request, or the main server's."""
    call = current()
    return call.req.get_options() if call is not None and call.req is not None else apache.main_server.get_options()


def get_handler_root() -> str | None:
    """The directory that ``~`` stands for in the present request; None outside of one. (item 12)"""
    call = current()
    return call.handler_root if call is not None else None


# -- the calls ---------------------------------------------------------------------------------------------------------


def _call(imports: leases.RequestLeases, req: Any, directory: str | None) -> Call:
    """The context of one dispatch of *req*, whose main request has imported *imports* so far."""
    if not imports.is_under_way:
        _underway.begin(req, imports)
    return Call(imports, None, req, directory)


def _server_settings(server: Any) -> Settings:
    return settings(server.get_config(), server.get_options())


def call_outside(req: Any) -> Call:
    """The context of an import that none of our dispatches is responsible for."""
    if req is None:
        return Call(settings=_server_settings(apache.main_server))
    return _call(leases.held_by(req), req, None)


class _Again:
    """Stands for a handler's module, and for the handler in it: mod_python's dispatch calls ours instead."""

    def __init__(self, dispatch: Callable[[Any], Any], handler: str) -> None:
        self._dispatch = dispatch
        vars(self)[handler] = self  # where mod_python looks

    def __getattr__(self, name: str) -> _Again:
        return self  # the parts of a dotted name

    def __call__(self, argument: Any) -> Any:
        result = self._dispatch(argument)
        if self._dispatch.__name__ == "handler_dispatch":
            # Ours has gone through the handlers; theirs would go beyond the last, which ends the process.
            raise _Answered(result)
        return result


class _Answered(Exception):
    """Takes the result of a whole phase through mod_python's loop over the handlers, to our ReportError."""


def begin_again(caller: FrameType) -> _Again | None:
    """The handler for a dispatch of mod_python's own that was under way when ``install`` ran; None for other callers.

    An interpreter that installs by a PythonPath expression is in the middle of its first dispatch then, and a
    connection that is leased there is to go back at its end, not with the request.
    """
    name = caller.f_code.co_name
    if caller.f_globals is not vars(apache) or name not in ("HandlerDispatch", "FilterDispatch", "ConnectionDispatch"):
        return None
    return _Again(getattr(caller.f_locals["self"], name), caller.f_locals["obj_str"])


def _module(name: str, call: Call, directory: str | None) -> Any:
    """The module of a handler: a bare name is looked for in *directory*, then by the rules of all imports.

    Where it was configured for no directory, that is the document root. (items 12 and 45)
    """
    if finder.is_managed(name):
        directory = _normpath(directory) if directory else call.handler_root
        if name.startswith(("./", "../")) and directory:
            name = os.path.normpath(os.path.join(directory, name))
        found = _importer.find(name, call, None, [directory] if directory else [])
        return __import__(name, {}, {}, ["*"]) if found is None else _importer.obtain(found, call, None).module
    # Another thread may be in the middle of its import: then the import statement waits.
    module = _packaged[name] = __import__(name, {}, {}, ["*"])
    return module


_packaged: dict[str, Any] = {}  # the modules of handlers that are not ours to manage, when their import was complete


_normpath = functools.lru_cache(maxsize=256)(os.path.normpath)


@functools.lru_cache(maxsize=256)
def _split(handler: str, default: str) -> tuple[str, str]:
    name, separator, attribute = handler.partition("::")
    return name, attribute if separator else default


def _set_python_path(config: Any) -> None:
    """PythonPath is evaluated once for each of its values, as mod_python does, and by its own cache."""
    expression = config.get("PythonPath")
    if expression is None or expression in apache._path_cache:
        return
    with apache._path_cache_lock:
        if expression not in apache._path_cache:
            path = eval(expression, vars(apache))
            apache._path_cache[expression] = None
            sys.path[:] = path


# Its own name of a phase's handler, and the results after which the next one is called.
_phases = {phase: (name, apache._status_values[name]) for phase, name in apache._phase_handler_names.items()}

# mod_python drops a result when it has given up the interpreter's lock already. An int that nobody else holds would be
# freed without the lock, which on Python 3.14 (Debian sid) ends the child: these are kept.
_RESULTS = {result: result for result in range(-256, 1000)}

_may_debug = apache.exists_config_define("ONE_PROCESS")


def _run(handler: Any, argument: Any, config: Any) -> Any:
    """Call a handler: under pdb, where it is enabled and httpd was started with -DONE_PROCESS."""
    if _may_debug and config.get("PythonEnablePdb") == "1":
        return _run_in_pdb(handler, argument)
    return handler(argument)


def _run_in_pdb(handler: Any, argument: Any) -> Any:
    import pdb

    debugger = pdb.Pdb()
    debugger.reset()
    sys.settrace(debugger.trace_dispatch)
    try:
        return handler(argument)
    finally:
        debugger.quitting = True
        sys.settrace(None)


# -- the dispatchers ---------------------------------------------------------------------------------------------------


def handler_dispatch(callback: Any, req: Any) -> int:
    """One phase of a request: its handlers in order, until one answers with more than "go on"."""
    config = req.get_config()
    hlist = req.hlist
    result: int = apache.HTTP_INTERNAL_SERVER_ERROR
    committed = False
    call = outer = None
    held = leases.enter(req)
    try:
        default, expected = _phases[req.phase]
        _set_python_path(config)
        directory = None if hlist.is_location else hlist.directory  # of a <Location> it is the prefix of the URL
        call = _call(held, req, directory)
        outer = begin(call)
        name = hlist.handler
        while name is not None:
            handler = _handler(name, default, call, directory, hlist.silent)
            if handler is not None:
                try:
                    result = _run(handler, req, config)
                except apache.SERVER_RETURN as value:
                    result = _server_return(value, req)
                if result.__class__ is not int:
                    raise AssertionError(apache._result_warning % result.__class__)
                if result not in expected:
                    break
            elif result == apache.HTTP_INTERNAL_SERVER_ERROR:
                # A silent handler that is missing declines, where it is the first and only one.
                result = apache.DECLINED
            hlist.next()
            name = hlist.handler
            if name is not None and not hlist.is_location:
                directory = hlist.directory or directory
        committed = True
    except BaseException:
        result = _reported(callback, config, req=req, phase=req.phase, hname=hlist.handler)
    finally:
        if call is not None:
            end(outer)
        if held.connections:
            committed = committed and _is_success(result, req)
        if not leases.leave(req, committed) and result in (apache.OK, apache.DONE):
            result = apache.HTTP_INTERNAL_SERVER_ERROR
    return _RESULTS.get(result, 500)


def _handler(name: str, default: str, call: Call, directory: str | None, silent: bool) -> Any:
    """The object to call; None where a silent one does not exist."""
    name, attribute = _split(name, default)
    module: Any = _packaged.get(name)
    if module is None or module is not sys.modules.get(name):
        module = _module(name, call, directory)
    if "." in attribute:
        return apache.resolve_object(module, attribute, call.req, silent=silent)
    found = vars(module).get(attribute)
    if found is None and not silent:
        raise AttributeError(f"module {module.__file__!r} contains no {attribute!r}")
    return found


def _server_return(value: Any, req: Any) -> Any:
    """What SERVER_RETURN(result) or SERVER_RETURN(result, status) says."""
    if len(value.args) == 2:
        result, status = value.args
        if status:
            req.status = status
        return result
    return value.args[0]


def _is_success(result: int, req: Any) -> bool:
    """Is the transaction to be committed: OK, DONE, DECLINED, or a status below 400?"""
    if result > 0:
        return result < 400
    # After the content phase the status is the answer's, and says nothing of the handler that logs it.
    return req.status < 400 or req.phase in ("PythonLogHandler", "PythonCleanupHandler")


def filter_dispatch(callback: Any, fltr: Any) -> int | None:
    """One run of an input or output filter; it shares the modules and the connection of its request."""
    req = fltr.req
    _underway.keep(fltr)
    fltr = Filter(fltr)
    config = req.get_config()
    committed = False
    held = leases.enter(req)
    try:
        _set_python_path(config)
        call = _call(held, req, fltr.dir)
        with entered(call):
            name, attribute = _split(fltr.handler, "inputfilter" if fltr.is_input else "outputfilter")
            module = _module(name, call, fltr.dir)
            handler = apache.resolve_object(module, attribute, fltr, silent=0)
            _run(handler, fltr, config)
            if not fltr.closed:
                fltr.flush()  # without a FLUSH or EOS bucket the content is never written to the network
        committed = True
    except apache.SERVER_RETURN as value:
        result = _server_return(value, req)
        if result.__class__ is not int:
            log("err", f"{fltr.handler}: SERVER_RETURN has to be raised with an int or a tuple, not {result!r}")
            return None
        committed = _is_success(result, req)
    except BaseException:
        fltr.disable()
        _reported(callback, config, req=req, filter=fltr, phase=fltr.name, hname=fltr.handler)
    finally:
        leases.leave(req, committed)
    return int(apache.OK)


def connection_dispatch(callback: Any, conn: Any) -> int:
    """A connection handler: no request, no directory, the main server's configuration. (item 45)"""
    note_stack()
    server = conn.base_server
    config = server.get_config()
    handler = conn.hlist.handler
    imports = Imports()
    request = _importer.retirement.begin(imports)
    try:
        _set_python_path(config)
        call = Call(imports=imports, settings=_server_settings(server))
        with entered(call):
            name, attribute = _split(handler, "connectionhandler")
            module = _module(name, call, None)
            result = _run(apache.resolve_object(module, attribute, conn, silent=0), conn, config)
        if result.__class__ is not int:
            raise AssertionError(f"ConnectionHandler {handler!r} returned invalid return code.")
        return _RESULTS.get(result, 500)
    except BaseException:
        return _RESULTS.get(_reported(callback, config, srv=server, phase="ConnectionHandler", hname=handler), 500)
    finally:
        _importer.retirement.end(request)


def import_dispatch(callback: Any, name: str) -> None:
    """One line of PythonImport: ``module`` or ``module::function``, which is called without arguments. (item 46)"""
    _set_python_path(apache.main_server.get_config())
    call = Call(settings=_server_settings(apache.main_server))
    with entered(call):
        module_name, function = _split(name, "")
        module = _module(module_name, call, None)
        if function:
            getattr(module, function)()


def _include_dispatch(original: Callable[..., Any]) -> Callable[..., Any]:
    def include_dispatch(callback: Any, fltr: Any, tag: str, code: str) -> Any:
        """Python in a server-side include: its imports are relative to the including file. (item 47)"""
        req = fltr.req
        _underway.keep(fltr)
        if not hasattr(req, "ssi_globals"):
            req.ssi_globals = {}
        req.ssi_globals["__mp_info__"] = ModuleInfo(ModuleCache(req.filename))
        req.ssi_globals["__mp_path__"] = []
        held = leases.enter(req)
        done = False
        try:
            with entered(_call(held, req, None)):
                result = original(callback, fltr, tag, code)
            done = True
            return result
        finally:
            leases.leave(req, done)

    return include_dispatch


# -- errors ------------------------------------------------------------------------------------------------------------


def _reported(callback: Any, config: Any, **context: Any) -> int:
    """Report the exception under way: to the log and, with PythonDebug On, to the browser."""
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_next is not None and is_ours(trace.tb_frame):
        trace = trace.tb_next  # what matters begins below the importer's own frames
    try:
        return int(callback.ReportError(kind, error, trace, debug=config.get("PythonDebug") == "1", **context))
    finally:
        del trace, error


def _report_error(original: Callable[..., Any]) -> Callable[..., Any]:
    def report_error(
        callback: Any, kind: Any, error: BaseException, trace: Any, req: Any = None, debug: bool = False, **context: Any
    ) -> int:
        """To the log as mod_python does it; the page for the browser is ours."""
        if isinstance(error, _Answered):
            return int(error.args[0])
        result = original(callback, kind, error, trace, req=req, debug=0, **context)
        is_write_error = isinstance(error, OSError) and str(error).startswith("Write")  # there is no client any more
        if not debug or req is None or is_write_error:
            return int(result or apache.HTTP_INTERNAL_SERVER_ERROR)
        title = f"{context.get('phase')} {context.get('hname')}"
        imported = leases.held_by(req).infos
        page = error_page(title, error.with_traceback(trace), _importer.caches(), imported)
        req.status = apache.HTTP_INTERNAL_SERVER_ERROR
        req.content_type = "text/html; charset=utf-8"
        target = context.get("filter") or req
        target.write(page)
        if target is not req:
            target.flush()
        return int(apache.DONE)

    return report_error
