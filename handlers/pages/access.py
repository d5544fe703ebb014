"""Who may call a published object: `__auth__`, `__access__`, `__auth_realm__`.

Protection is certain or the object is not served. A published object is followed to its functions by `__wrapped__`,
closure cells and partial, the ways by which a decorator or cache keeps what it wraps. Each function found there whose
body defines a name protects the object; and each such function that the source says the object is made from must be
found there, or it is refused.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from handlers.errors import HttpError, Undecidable
from handlers.pages import credentials
from handlers.pages.definitions import NAMES, CodeKey, decide, defines_access, facts_of_globals, key_of

AUTH, ACCESS, REALM = NAMES

#: How many objects are looked at before an object counts as undecidable.
SEARCH_LIMIT = 100_000

_MISSING = object()
_ATOMS = (str, bytes, bytearray, int, float, complex, bool, type(None), type, types.ModuleType, types.CodeType)


@dataclass(frozen=True)
class Protection:
    """What the functions of one published object say of access."""

    functions: tuple[types.FunctionType, ...]
    defined: tuple[tuple[str, Callable[[], Any]], ...]  # (name, what yields its value)
    holders: tuple[Any, ...] = ()  # instances and classes that the functions are methods of, whose rules count

    def values(self, name: str) -> Iterator[Any]:
        for defined, value in self.defined:
            if defined == name:
                yield value()
        seen: list[Any] = []
        for function in self.functions:
            # Set from outside, `index.__auth__ = ...`; functools.wraps copies it from layer to layer.
            found = function.__dict__.get(name, _MISSING)
            if found is not _MISSING and not any(found is other for other in seen):
                seen.append(found)
                yield found


NO_PROTECTION = Protection((), ())


def protection(target: Any, required: Collection[CodeKey], *, is_thorough: bool = True) -> Protection:
    """What protects *target*, which must lead to every one of the *required* functions; else Undecidable.

    Not *is_thorough*: nothing in the page speaks of access, and an object too large to be searched is let pass.
    """
    functions, others, bound_to = follow(target)
    missing = set(required) - {key_of(function.__code__) for function in functions}
    if missing:
        names = ", ".join(sorted(f"{name} (line {line})" for name, line in missing))
        raise Undecidable(f"its source defines {AUTH} or {ACCESS} in {names}, and it does not lead to that function")
    defined: list[tuple[str, Callable[[], Any]]] = []
    for function in functions:
        defined += _definitions(function)
    for hidden in search(others, is_thorough):
        if hidden not in functions and (defines_access(hidden.__code__) or any(n in hidden.__dict__ for n in NAMES)):
            raise Undecidable(f"it holds the protected function {hidden.__qualname__} where it cannot be followed")
    return Protection(tuple(functions), tuple(defined), (*bound_to, *filter(None, map(_guarded_class, functions))))


def _guarded_class(function: types.FunctionType) -> type | None:
    """The class whose body *function* was defined in, where that class says who may call its methods.

    A method that the page gives another name, `page = Admin.page`, is still one.
    """
    owner = function.__qualname__.rpartition(".")[0]
    first, *inner = owner.split(".")
    found = function.__globals__.get(first)
    for part in inner:
        found = _own_attribute(found, part)
    marked = _own_attribute(found, "__wrapped__")
    if isinstance(marked, type):  # by @publish
        found = marked
    if isinstance(found, type) and any(name in cls.__dict__ for cls in found.__mro__ for name in NAMES[:2]):
        return found
    facts = facts_of_globals(function.__globals__)
    if facts is not None and owner in facts.guarded_classes:
        raise Undecidable(f"it is a method of {owner}, which defines who may call it, and cannot be found any more")
    return None


def _definitions(function: types.FunctionType) -> list[tuple[str, Callable[[], Any]]]:
    code = function.__code__
    bound = {name for name in NAMES if name in code.co_varnames or name in code.co_cellvars}
    facts = facts_of_globals(function.__globals__)
    guard = facts.guards.get(key_of(code)) if facts is not None else None
    definitions = guard.definitions if guard is not None else {}
    if unknown := bound - definitions.keys():
        raise Undecidable(f"how {function.__qualname__} defines {', '.join(sorted(unknown))} cannot be read")
    found: list[tuple[str, Callable[[], Any]]] = []
    for name, definition in definitions.items():
        decision = decide(definition, function)
        if isinstance(decision, str):
            raise Undecidable(f"{name} of {function.__qualname__}: {decision}")
        found.append((name, decision))
    return found


def follow(target: Any) -> tuple[list[types.FunctionType], list[Any], list[Any]]:
    """The functions that *target* certainly leads to, outermost first; what else it holds; what it is a method of."""
    functions: list[types.FunctionType] = []
    others: list[Any] = []
    bound_to: list[Any] = []
    seen: set[int] = set()
    todo = [target]
    while todo:
        current = todo.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, types.FunctionType):
            functions.append(current)
            todo += cells(current)
            others += current.__defaults__ or ()
            others += (current.__kwdefaults__ or {}).values()
            others += (value for name, value in current.__dict__.items() if name != "__wrapped__" and name not in NAMES)
        elif isinstance(current, types.MethodType):
            todo.append(current.__func__)
            others.append(current.__self__)
            bound_to.append(current.__self__)
        elif isinstance(current, (staticmethod, classmethod)):
            todo.append(current.__func__)
        elif isinstance(current, (functools.partial, functools.partialmethod)):
            todo += [current.func, *current.args, *current.keywords.values()]
        elif current is target or not isinstance(current, _ATOMS):
            others.append(current)
        wrapped = _own_attribute(current, "__wrapped__")
        if wrapped is not _MISSING:
            todo.append(wrapped)
    return functions, others, bound_to


def cells(function: types.FunctionType) -> Iterator[Any]:
    """What *function* holds from the functions around it."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _own_attribute(holder: Any, name: str) -> Any:
    """The attribute in the holder's own dictionary; no code of its class is run."""
    try:
        attributes = object.__getattribute__(holder, "__dict__")
    except (AttributeError, TypeError):
        return _MISSING
    return attributes.get(name, _MISSING) if isinstance(attributes, Mapping) else _MISSING


def search(roots: Iterable[Any], is_thorough: bool = True) -> Iterator[types.FunctionType]:
    """The functions that *roots* hold in attributes and containers, however deep; Undecidable where there is no end."""
    seen: set[int] = set()
    todo = [root for root in roots if not isinstance(root, _ATOMS)]
    while todo:
        current = todo.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if len(seen) > SEARCH_LIMIT:
            if not is_thorough:
                return
            raise Undecidable(f"it holds more than {SEARCH_LIMIT} objects, any of which may be a protected function")
        functions: list[types.FunctionType] = []
        inside: list[Any] = []
        if isinstance(current, (types.FunctionType, types.MethodType, functools.partial, functools.partialmethod)):
            functions, inside, _ = follow(current)
            yield from functions
            inside = [part for part in inside if part is not current]
        elif isinstance(current, Mapping) and isinstance(current, dict):
            inside = [*current.keys(), *current.values()]
        elif isinstance(current, (list, tuple, set, frozenset)):
            inside = list(current)
        else:
            inside = list(_attributes(current))
        todo += [part for part in inside if not isinstance(part, _ATOMS)]


def _attributes(holder: Any) -> Iterator[Any]:
    """The values in the holder's dictionary and slots, read without running code of its class."""
    with contextlib.suppress(AttributeError, TypeError):
        yield from object.__getattribute__(holder, "__dict__").values()
    for cls in type(holder).__mro__:
        for member in cls.__dict__.values():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    yield member.__get__(holder)
                except AttributeError:
                    continue


def level_values(holder: Any, name: str) -> Iterator[Any]:
    """The value that *holder*, an instance or a class on the way, defines for *name*, bound as Python binds it.

    A method of a class needs an instance: it is left out where *holder* is the class.
    """
    if isinstance(holder, type):
        raw = next((cls.__dict__[name] for cls in holder.__mro__ if name in cls.__dict__), _MISSING)
        if raw is not _MISSING and not isinstance(raw, types.FunctionType):
            yield getattr(holder, name)
    elif _own_attribute(holder, name) is not _MISSING or any(name in cls.__dict__ for cls in type(holder).__mro__):
        yield getattr(holder, name)


def admit(req: Any, values: Callable[[str], list[Any]]) -> str | None:
    """Let the request pass, or raise HttpError 401 or 403; Undecidable where a definition cannot be applied.

    *values* tells what the levels on the way define for a name, outermost first; all of them must agree. Returns the
    user name that was verified, here or by Apache.
    """
    auths, accesses = values(AUTH), values(ACCESS)
    if not auths and not accesses:
        return None
    user = _authenticate(req, auths, values(REALM)) if auths else None
    if user is None:
        user = _user_known_to_apache(req)
    for rule in accesses:
        if not _has_access(req, rule, user):
            raise HttpError(403, reason=f"{ACCESS} refuses {user!r}")
    return user


def _authenticate(req: Any, rules: list[Any], realms: list[Any]) -> str | None:
    """The user whom every rule accepts: None where they accept anybody and verify nothing."""
    given = credentials.basic_credentials(req)
    if given is None or not all(_accepts(req, rule, given) for rule in rules):
        raise HttpError(401, headers={"WWW-Authenticate": f'Basic realm="{_realm(realms)}"'})
    verified = any(callable(rule) or isinstance(rule, Mapping) for rule in rules)
    return given.user if verified else None


def _realm(realms: list[Any]) -> str:
    text = str(realms[-1]) if realms else "unknown"
    text = "".join(character for character in text if character.isprintable())
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _accepts(req: Any, rule: Any, given: credentials.Credentials) -> bool:
    if isinstance(rule, Mapping):
        return credentials.password_matches(rule, given)
    if callable(rule):
        return _answer(AUTH, rule(req, given.user, given.password))
    if rule is None or isinstance(rule, (bool, int)):
        return bool(rule)
    raise Undecidable(f"{AUTH} is a {type(rule).__name__}: a mapping, a function or a truth value is needed")


def _has_access(req: Any, rule: Any, user: str | None) -> bool:
    if isinstance(rule, (list, tuple, set, frozenset, Mapping)):
        return user is not None and user in rule
    if callable(rule):
        return _answer(ACCESS, rule(req, user))
    if rule is None or isinstance(rule, (bool, int)):
        return bool(rule)
    raise Undecidable(f"{ACCESS} is a {type(rule).__name__}: a list, a function or a truth value is needed")


def _answer(name: str, answer: Any) -> bool:
    """The truth of what a rule answered; a coroutine, which is always true, answers nothing."""
    if inspect.isawaitable(answer) or inspect.isasyncgen(answer) or inspect.isgenerator(answer):
        if hasattr(answer, "close"):
            answer.close()
        raise Undecidable(f"{name} is a coroutine or generator function: it must answer with a truth value")
    return bool(answer)


def _user_known_to_apache(req: Any) -> str | None:
    """The user whom Apache's own authentication has verified before the handler ran."""
    try:
        user = req.user
        return user if user and req.ap_auth_type and req.auth_type() else None
    except UnicodeDecodeError:
        return None
