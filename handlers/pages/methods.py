"""`Handler`: a class with one method per HTTP method, one fresh instance per request.

    class Accounts(Handler):
        def get(self, req, number: int): ...
        def post(self, req, conn, number: int, amount: Decimal): ...

    handler = Accounts.handler

Arguments are bound, results sent and transactions ended as for page functions; but a number that is a status, such as
`apache.OK` or `apache.HTTP_NOT_FOUND`, is the status, as for every handler of mod_python. In another phase than the
content phase the method that bears the phase's name is called (`accesshandler`, `fixuphandler`, `loghandler`, ...).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from handlers.errors import HttpError
from handlers.pages.access import Protection, admit, level_values, protection
from handlers.pages.arguments import Plan, make_plan
from handlers.pages.definitions import facts_of_globals
from handlers.pages.forms import read_form
from handlers.pages.results import Response
from handlers.pages.serving import DECLINED, DONE, OK, serve, server_return
from handlers.request import leases

HTTP_OK = 200

#: The HTTP methods that a subclass may define, by the name of the method in lower case.
HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


#: The phases whose handler says who may pass.
GATES = ("accesshandler", "authenhandler", "authzhandler")


class Handler:
    """Base of class-based handlers. `Subclass.handler` is the mod_python handler; it may serve in any phase."""

    #: Names of methods that a subclass turns off again, such as ("post",).
    closed: ClassVar[tuple[str, ...]] = ()
    _mp_calls: ClassVar[dict[str, Any]] = {}

    def __init__(self, req: Any = None) -> None:
        # A filter's object, where the class is used as a filter: it knows its request.
        self.req = getattr(req, "req", req)

    def prepare(self, req: Any) -> Any:
        """Called before the method, inside the transaction; a result other than None is sent in place of its own."""
        return None

    def finish(self, req: Any, result: Any) -> Any:
        """Called with the method's result before it is sent; what it returns is sent."""
        return result

    @classmethod
    def handler(cls, req: Any) -> int:
        """The mod_python handler: dispatch to the method for this request or this phase."""
        phase = req.phase
        if phase and phase != "PythonHandler":
            return cls._serve_phase(req, phase.removeprefix("Python").lower())
        return serve(req, cls.respond)

    @classmethod
    def allowed(cls) -> list[str]:
        """The HTTP methods that this class answers, for the Allow header."""
        defined = [m for m in HTTP_METHODS if m.lower() not in cls.closed and callable(getattr(cls, m.lower(), None))]
        if "GET" in defined and "HEAD" not in defined:
            defined.insert(defined.index("GET") + 1, "HEAD")
        if "OPTIONS" not in defined:
            defined.append("OPTIONS")
        return defined

    @classmethod
    def respond(cls, req: Any, admitted: Callable[[str], list[Any]] | None = None) -> Any:
        """The result for this request; HttpError where it is refused. Runs inside a dispatch of the caller.

        *admitted* gives further levels of access control, outermost first: those of the page that publishes the class.
        """
        allowed = cls.allowed()
        instance = cls(req)
        method = req.method if req.method in allowed else None
        name = "get" if method == "HEAD" and not hasattr(cls, "head") else (method or "").lower()
        call = _call_of(cls, name) if name and hasattr(cls, name) else None
        admit(req, _values(cls, instance, call, admitted))
        if call is None:
            if method == "OPTIONS":
                return Response(204, {"Allow": ", ".join(allowed)})
            req.allow_methods(allowed, 1)
            raise HttpError(405, headers={"Allow": ", ".join(allowed)})
        return instance._run(req, getattr(instance, name), call.plan)

    def _run(self, req: Any, method: Callable[..., Any], plan: Plan) -> Any:
        form = req.form = read_form(req)
        result = self.prepare(req)
        if result is None:
            args, kwargs = plan.bind(form.grouped(), req, leases.connection)
            result = method(*args, **kwargs)
        return _unless_status(self.finish(req, result))

    @classmethod
    def _serve_phase(cls, req: Any, name: str) -> int:
        """Run the method for a phase other than the content phase; None counts as OK."""
        method = getattr(cls(req), name, None)
        if method is None:
            if name in GATES:
                # A gate without a keeper must not stand open; as mod_python has it for a function that is missing.
                raise AttributeError(f"{cls.__qualname__} has no method {name!r}, and is to decide who may pass")
            return DECLINED
        leases.enter(req)
        status: int | None = None
        try:
            status = method(req)
            return OK if status is None else status
        finally:
            leases.leave(req, commit=sys.exc_info()[0] is None and (status is None or status < 400))


def _unless_status(result: Any) -> Any:
    """*result*, or None where it says that all is well; any other status is raised, as mod_python's SERVER_RETURN."""
    if not isinstance(result, int) or isinstance(result, bool):
        return result
    if result in (OK, DONE, HTTP_OK):
        return None
    if result != DECLINED and not 100 <= result <= 599:
        return result
    stop = server_return()
    raise HttpError(int(result)) if stop is None else stop(int(result))


@dataclass(frozen=True)
class _Call:
    """How a method is called and who may call it."""

    function: Any
    plan: Plan
    protection: Protection


def _call_of(cls: type[Handler], name: str) -> _Call:
    # Kept by the class itself: a table of ours, weak or not, would keep every reloaded class for ever by its values.
    calls: dict[str, _Call] | None = cls.__dict__.get("_mp_calls")
    if calls is None:
        calls = {}
        cls._mp_calls = calls
    function = getattr(cls, name)
    call = calls.get(name)
    if call is None or call.function is not function:
        owner = next(base for base in cls.__mro__ if name in base.__dict__)
        module = sys.modules.get(owner.__module__)
        facts = facts_of_globals(module.__dict__) if module is not None else None
        required = facts.required(f"{owner.__qualname__}.{name}") if facts is not None else set()
        call = calls[name] = _Call(function, make_plan(function, drop_first=True), protection(function, required))
    return call


def _values(
    cls: type, instance: Handler, call: _Call | None, admitted: Callable[[str], list[Any]] | None
) -> Callable[[str], list[Any]]:
    def values(name: str) -> list[Any]:
        if admitted is not None:
            found = admitted(name)
        else:
            module = sys.modules.get(cls.__module__)
            found = [module.__dict__[name]] if module is not None and name in module.__dict__ else []
        found += level_values(instance, name)
        if call is not None:
            found += call.protection.values(name)
        return found

    return values
