"""From a path to the object that it publishes.

Published are functions and classes that the page's own module defines, instances of its own classes, and what its
author marks with `publish`. Names are looked up in dictionaries, never by getattr: no property, and no `__getattr__`,
runs for a URL. What is refused and what does not exist look the same from outside.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from handlers.errors import Undecidable
from handlers.pages.access import ACCESS, AUTH, NO_PROTECTION, Protection, cells, follow, level_values, protection
from handlers.pages.arguments import Plan, make_plan
from handlers.pages.definitions import NAMES, CodeKey, Facts, facts_of_globals
from handlers.pages.methods import Handler
from mpool import is_connection, is_cursor, is_pool

PAGE_METHODS = ("GET", "HEAD", "POST")

_MISSING = object()
_attributes_of = operator.attrgetter("__dict__")
_MARK = "__mp_publish__"


@dataclass(frozen=True)
class Mark:
    """What `publish` notes of an object: who marked it, and how it may be called."""

    module: str
    methods: tuple[str, ...] = PAGE_METHODS


class Published:
    """An object that a page publishes though it does not define it: behaves as the object when it is called."""

    def __init__(self, target: Any, mark: Mark) -> None:
        self.__wrapped__ = target
        setattr(self, _MARK, mark)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<published {self.__wrapped__!r}>"


def publish(target: Any = None, *, methods: Iterable[str] | None = None) -> Any:
    """Mark *target* as published by the module that calls this: `@publish`, or `page = publish(imported)`.

    A function that is marked gets `conn` even if it does not take `req`. *methods* are the HTTP methods it answers,
    GET, HEAD and POST if not given.
    """
    caller = sys._getframe(1).f_globals
    allowed = PAGE_METHODS if methods is None else tuple(dict.fromkeys(method.upper() for method in methods))
    if "GET" in allowed and "HEAD" not in allowed:
        allowed += ("HEAD",)
    mark = Mark(caller.get("__name__", ""), allowed)

    def wrap(target: Any) -> Any:
        if isinstance(target, types.FunctionType) and target.__globals__ is caller:
            setattr(target, _MARK, mark)
            return target
        return Published(target, mark)

    return wrap if target is None else wrap(target)


class Refused(Exception):
    """The path leads to nothing that is published; the text says why, for the log."""

    def __init__(self, reason: str, *, exists: bool = True) -> None:
        super().__init__(reason)
        self.exists = exists


@dataclass
class Target:
    """What a path leads to, and how to call it."""

    steps: list[tuple[Any, str, Any]]  # (holder, name, what was found there): still true, or it is resolved anew
    levels: list[Any]  # the instances and classes on the way, whose __auth__ counts
    call: Any = None  # what is called; with `cls` a function of its fresh instance
    cls: type | None = None  # a class of which each request gets an instance
    attribute: str | None = None  # the method of that instance; None: the instance itself
    plan: Plan | None = None
    constructor: Plan | None = None
    protection: Protection = NO_PROTECTION
    methods: tuple[str, ...] = PAGE_METHODS
    is_handler: bool = False
    required: set[CodeKey] = field(default_factory=set)

    def bound_to(self, instance: Any) -> Any:
        """The method, or `__call__`, of a fresh instance."""
        found = self.steps[-1][2] if self.attribute is not None else self.call
        return found.__get__(instance, type(instance)) if hasattr(found, "__get__") else found

    def is_current(self) -> bool:
        """Do the names on the way still stand for the same objects?"""
        for holder, name, found in self.steps:
            if holder.__class__ is types.ModuleType:
                if holder.__dict__.get(name) is not found:
                    return False
            elif _lookup(holder, name)[0] is not found:
                return False
        return True

    def is_open(self, module: types.ModuleType) -> bool:
        """Does nothing on the way say who may call it?"""
        names = module.__dict__
        if self.levels or self.protection.defined or AUTH in names or ACCESS in names:
            return False
        return not any(map(_attributes_of, self.protection.functions))


#: Paths kept per module: `a/b/a/b` may go round in a circle for ever.
_MAX_TARGETS = 500


def resolve(module: types.ModuleType, path: str) -> Target:
    """The target of *path* (names joined by dots) in *module*: decided once, and checked to be still true.

    Refused where there is nothing published; Undecidable where it cannot be told who may call it.
    """
    # Kept by the instance itself: a table of ours, weak or not, would keep every old instance for ever by its values.
    info = module.__dict__.get("__mp_info__")
    targets: dict[str, Target] = {} if info is None else info.kept
    target = targets.get(path)
    if target is None or not target.is_current():
        target = _resolve(module, path.split("."))
        if len(targets) >= _MAX_TARGETS:
            targets.clear()
        targets[path] = target
    return target


def _resolve(module: types.ModuleType, names: list[str]) -> Target:
    for name in names:
        if not name or name.startswith("_"):
            raise Refused(f"{name!r} is no public name", exists=bool(name))
    facts = facts_of_globals(module.__dict__)
    if facts is None:
        raise Undecidable(f"the source of {module.__dict__.get('__file__', module.__name__)} cannot be read")
    listed = module.__dict__.get("__all__", _MISSING)
    if listed is not _MISSING and names[0] not in listed:
        raise Refused(f"{names[0]!r} is not in __all__", exists=names[0] in module.__dict__)
    target = Target(steps=[], levels=[])
    current, _ = _lookup(module, names[0])
    if current is _MISSING:
        raise Refused(f"there is no {names[0]!r}", exists=False)
    target.steps.append((module, names[0], current))
    target.required |= facts.required(names[0])
    _check_class_guard(facts, names[0], current)
    try:
        current = _published(module, current, target, names[0])
    except Refused as refused:
        if facts.defines_guarded(names[0]):
            raise Undecidable(
                f"its source says who may call it, and what stands under its name does not: {refused}"
            ) from None
        raise
    for depth, name in enumerate(names[1:], 1):
        target.required |= facts.required(".".join(names[: depth + 1]))  # page.part = ...
        current = _step(module, facts, target, current, name)
    _finish(module, facts, target, current, names[-1])
    return target


def _lookup(holder: Any, name: str) -> tuple[Any, type | None]:
    """What *name* stands for in *holder*, and the class that defines it; no code of the page is run."""
    if isinstance(holder, types.ModuleType):
        return holder.__dict__.get(name, _MISSING), None
    if not isinstance(holder, type):
        attributes = _own_names(holder)
        if name in attributes:
            return attributes[name], None
        holder = type(holder)
    for cls in holder.__mro__:
        if name in cls.__dict__:
            return cls.__dict__[name], cls
    return _MISSING, None


def _published(module: types.ModuleType, found: Any, target: Target, name: str) -> Any:
    """*found* if the page's own module defines it or marked it; else Refused."""
    mark = _mark(found)
    if mark is not None and mark.module == module.__name__:
        target.methods = mark.methods
        if isinstance(found, Published):
            inner = found.__wrapped__
            return inner if isinstance(inner, (type, types.FunctionType)) or not callable(inner) else found
        return found
    if isinstance(found, type):
        if found.__module__ == module.__name__:
            return found
    elif is_function_like(found) or (callable(found) and "__wrapped__" in _own_names(found)):
        if is_own(module, found):
            return found
    elif type(found).__module__ == module.__name__ and not (is_connection(found) or is_pool(found) or is_cursor(found)):
        return found
    raise Refused(f"{name!r} is not defined in this module")


def _own_names(holder: Any) -> Any:
    """The dictionary of *holder* itself; empty where it has none."""
    try:
        return object.__getattribute__(holder, "__dict__")
    except (AttributeError, TypeError):
        return {}


def _mark(found: Any) -> Mark | None:
    if isinstance(found, (types.FunctionType, Published)):
        mark = found.__dict__.get(_MARK)
        return mark if isinstance(mark, Mark) else None
    return None


_FUNCTION_LIKE = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
    staticmethod,
    classmethod,
    type(functools.lru_cache(lambda: None)),
)


def is_function_like(found: Any) -> bool:
    """Functions, and what decorators and caches of the standard library make of them."""
    return isinstance(found, _FUNCTION_LIKE)


def is_own(module: types.ModuleType, found: Any) -> bool:
    """Does *found* lead to a function that was defined in *module*?"""
    while isinstance(found, functools.partial):
        found = found.func  # what it passes to that may be the page's own, and is not what a request would call
    return any(function.__globals__ is module.__dict__ for function in follow(found)[0])


def _check_class_guard(facts: Facts, name: str, found: Any) -> None:
    """A class decorator must not have lost the `__auth__` that the class body defines."""
    if isinstance(found, Published):
        found = found.__wrapped__
    if name in facts.guarded_classes:
        cls = found if isinstance(found, type) else type(found)
        if not any(guard in base.__dict__ for base in cls.__mro__ for guard in NAMES[:2]):
            raise Undecidable(f"the class {name} defines who may call it, and what stands under its name does not")


def _step(module: types.ModuleType, facts: Facts, target: Target, holder: Any, name: str) -> Any:
    """From an instance or a class of the page to what *name* stands for in it."""
    if (_is_callable_part(holder) and not isinstance(holder, type)) or target.attribute is not None:
        raise Refused(f"{name!r} is an attribute of a function")
    if issubclass(holder if isinstance(holder, type) else type(holder), Handler):
        # Otherwise a link could call the method for POST, past prepare() and finish().
        raise Refused(f"{name!r} belongs to a Handler, which chooses the method by that of the request")
    if isinstance(holder, type) and not _mark_of_class(target):
        raise Refused(f"{name!r} belongs to the class {holder.__name__}, which is not marked @publish")
    target.levels.append(holder)
    found, owner = _lookup(holder, name)
    if found is _MISSING:
        raise Refused(f"there is no {name!r}", exists=False)
    target.steps.append((holder, name, found))
    if owner is not None:
        target.required |= facts.required(f"{owner.__qualname__}.{name}")
        _check_class_guard(facts, f"{owner.__qualname__}.{name}", found)
    if owner is None and _mark(found) is None and _is_callable_part(found):
        page = _page_name(module, found)
        if page is None:
            raise Refused(f"{name!r} is data of an instance")
        target.steps.insert(0, (module, page, found))
        target.required |= facts.required(page)
    found = _published(module, found, target, name)
    if isinstance(holder, type):
        if not is_function_like(found) or not _may_be_made(holder):
            raise Refused(f"{name!r} is not a method of {holder.__name__}")
        target.cls, target.attribute = holder, name
        return found
    if owner is not None and is_function_like(found):
        return found.__get__(holder, type(holder)) if hasattr(found, "__get__") else found
    return found


def _is_callable_part(found: Any) -> bool:
    """A function, a class, or what a decorator made of one: not an object of the page with names of its own."""
    return isinstance(found, type) or is_function_like(found) or "__wrapped__" in _own_names(found)


def _page_name(module: types.ModuleType, found: Any) -> str | None:
    """The public name that *found* has in the module itself: an instance that holds it is one more URL for a page."""
    listed = module.__dict__.get("__all__")
    for name, value in list(module.__dict__.items()):
        if value is found and not name.startswith("_") and (listed is None or name in listed):
            return name
    return None


def _may_be_made(cls: type) -> bool:
    """May a URL make an instance? Not of what only counts, names or reports: enumerations, errors, tuples."""
    return not issubclass(cls, (BaseException, tuple, int, str, bytes, type)) and not hasattr(cls, "__members__")


def _finish(module: types.ModuleType, facts: Facts, target: Target, found: Any, name: str) -> None:
    """Decide how *found* is called, and who may call it."""
    if isinstance(found, type):
        _finish_class(module, target, found, name)
    elif target.cls is not None:
        plain = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
        target.call = plain
        target.constructor = _plan(target.cls)
        target.plan = make_plan(_signature_source(plain), drop_first=not isinstance(found, staticmethod))
    elif is_function_like(found) or "__wrapped__" in _own_names(found):
        target.call = found
        target.plan = _plan(_signature_source(found))
    else:
        _finish_instance(module, facts, target, found, name)
    if target.plan is not None and target.plan.wants_conn and not target.plan.takes_req and not _is_marked(target):
        raise Refused(f"{name!r} needs a connection and takes no request: it is a helper")
    if not target.is_handler:
        target.protection = protection(target.call, target.required, is_thorough=facts.speaks_of_access)
        _add_holders(target)


def _add_holders(target: Target) -> None:
    """What a method belongs to has its say, by whatever name the method is published."""
    for holder in target.protection.holders:
        known = (level if isinstance(level, type) else type(level) for level in target.levels)
        if isinstance(holder, type):
            if any(issubclass(cls, holder) for cls in known):
                continue
            if any(isinstance(_lookup(holder, name)[0], types.FunctionType) for name in NAMES[:2]):
                raise Undecidable(f"it is a method of {holder.__name__}, whose rules need an instance")
        if not any(level is holder for level in target.levels):
            target.levels.insert(0, holder)


def _finish_class(module: types.ModuleType, target: Target, cls: type, name: str) -> None:
    target.levels.append(cls)
    target.cls = cls
    if issubclass(cls, Handler):
        target.is_handler = True
        return
    call, owner = _lookup(cls, "__call__")
    target.constructor = _plan(cls) if owner is not type else None
    if not _mark_of_class(target) or not _may_be_made(cls):
        raise Refused(f"the class {name!r} is neither a Handler nor marked @publish")
    if call is _MISSING or not is_own(module, call):
        raise Refused(f"instances of {name!r} cannot be called")
    target.call = call
    target.plan = make_plan(call, drop_first=True)


def _finish_instance(module: types.ModuleType, facts: Facts, target: Target, found: Any, name: str) -> None:
    call, owner = _lookup(type(found), "__call__")
    if call is _MISSING or owner is None or not is_own(module, call):
        raise Refused(f"{name!r} is data")
    target.levels.append(found)
    target.required |= facts.required(f"{owner.__qualname__}.__call__")
    target.call = types.MethodType(call, found) if isinstance(call, types.FunctionType) else call.__get__(found)
    target.plan = _plan(target.call)
    if target.plan.any_name and not target.plan.named and not target.plan.takes_req:
        # A decorator of the page's own making: the arguments of the one function that it holds count.
        held = [value for value in _own_names(found).values() if is_function_like(value)]
        if len(held) == 1:
            target.plan = _plan(_signature_source(held[0]))


def _mark_of_class(target: Target) -> bool:
    return isinstance(target.steps[-1][2], Published)


def _is_marked(target: Target) -> bool:
    return any(_mark(found) is not None for _, _, found in target.steps)


def _plan(call: Callable[..., Any]) -> Plan:
    try:
        return make_plan(call)
    except (TypeError, ValueError) as error:
        raise Refused(f"it has no signature: {error}") from None


def _signature_source(found: Any) -> Any:
    """The function whose arguments count: behind a wrapper that takes anything and does not say what it wraps."""
    if isinstance(found, types.FunctionType) and "__wrapped__" not in found.__dict__:
        kinds = {parameter.kind for parameter in inspect.signature(found).parameters.values()}
        if kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            wrapped = [inner for inner in cells(found) if is_function_like(inner)]
            if len(wrapped) == 1:
                return _signature_source(wrapped[0])
    return found


def all_values(target: Target, module: types.ModuleType, levels: list[Any]) -> Callable[[str], list[Any]]:
    """What module, classes, instances and functions on the way define for a name, outermost first."""

    def values(name: str) -> list[Any]:
        found = [module.__dict__[name]] if name in module.__dict__ else []
        for level in levels:
            found += level_values(level, name)
        found += target.protection.values(name)
        return found

    return values
