"""What a module's source says of access: which functions define `__auth__` and the like in their bodies, and how.

mod_python let a function carry its own `__auth__`, `__access__` and `__auth_realm__` as assignments or nested
functions, and read them out of the compiled code by position, which is wrong in most functions. Here the source is
parsed. A definition is usable if it is the only one of its name, stands directly in the function's body, and needs
nothing but the module's globals; any other is undecidable, and what it protects is not served.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from handlers.reload.source import one_parse, parse

NAMES = ("__auth__", "__access__", "__auth_realm__")

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, ast.Lambda)

#: A function's code, as its compiled form and its syntax tree both know it: its name and the line it begins at.
CodeKey = tuple[str, int]


def key_of(code: types.CodeType) -> CodeKey:
    return code.co_name, code.co_firstlineno


def defines_access(code: types.CodeType) -> bool:
    """Does the body of *code* bind one of the names, by its compiled form?"""
    return any(name in code.co_varnames or name in code.co_cellvars for name in NAMES)


@dataclass(frozen=True)
class Definition:
    """One usable definition: run in the module's globals, it yields the value."""

    name: str
    code: types.CodeType
    loads: frozenset[str]  # names that it reads directly, outside of functions nested in it
    is_lasting: bool  # its value needs to be made once only

    def value(self, function: types.FunctionType) -> Any:
        """The value as the body of *function* would have bound it."""
        scope: dict[str, Any] = {}
        exec(self.code, function.__globals__, scope)  # the page's own statement, in the page's own globals
        return scope[self.name]


@dataclass
class Guard:
    """What one function's body defines; a str is the reason why a name cannot be decided."""

    name: str
    definitions: dict[str, Definition | str] = field(default_factory=dict)


@dataclass
class Facts:
    """What the source of one module says."""

    guards: dict[CodeKey, Guard] = field(default_factory=dict)
    guarded_classes: set[str] = field(default_factory=set)  # classes whose bodies bind __auth__ or __access__
    speaks_of_access: bool = True  # the text has one of the names anywhere
    _mentions: dict[str, set[str]] = field(default_factory=dict)  # name -> names that its value is made from
    _contains: dict[str, set[CodeKey]] = field(default_factory=dict)  # -> guarded functions defined by or inside it

    def defines_guarded(self, name: str) -> bool:
        """Is a function defined under *name* that says itself who may call it?"""
        return bool(self._contains.get(name))

    def required(self, name: str) -> set[CodeKey]:
        """The guarded functions that *name* (`name` or `Class.name`) stands for, or that its value was made from."""
        found: set[CodeKey] = set()
        seen, todo = {name}, [name]
        while todo:
            current = todo.pop()
            found |= self._contains.get(current, set())
            for other in self._mentions.get(current, set()) - seen:
                seen.add(other)
                todo.append(other)
        return found


_facts: WeakKeyDictionary[Any, Facts] = WeakKeyDictionary()


def facts_of_globals(namespace: dict[str, Any]) -> Facts | None:
    """What the source says that *namespace*, a managed module's globals, was executed from; None for other modules.

    The importer keeps the source of each instance of a module: the file itself may have changed since.
    """
    info: Any = namespace.get("__mp_info__")
    source = getattr(info, "source", None)
    if source is None:
        return None
    facts = _facts.get(info)
    if facts is None:
        with one_parse:  # after an edit, every request thread asks at once
            facts = _facts.get(info)
            if facts is None:
                facts = _facts.setdefault(info, read_facts(source, info.file))
    return facts


def read_facts(source: str | bytes, filename: str) -> Facts:
    """Parse *source*; SyntaxError where it is not Python."""
    tree = parse(source, filename)
    text = source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")
    facts = Facts(speaks_of_access=any(name.encode() in text for name in NAMES))
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            guard = _guard(node, filename)
            if guard.definitions:
                facts.guards[_key(node)] = guard
    _read_module_level(tree, facts)
    return facts


def _key(node: ast.FunctionDef | ast.AsyncFunctionDef) -> CodeKey:
    # The compiled form counts the line of the first decorator as the function's first line.
    return node.name, min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _read_module_level(tree: ast.Module, facts: Facts) -> None:
    _read_scope(tree.body, "", facts)


def _read_scope(body: list[ast.stmt], prefix: str, facts: Facts) -> None:
    """Note what each name of a module or class body stands for, a class's own as `Class.name`."""
    for statement in _same_scope(body):
        if isinstance(statement, _FUNCTIONS):
            facts._contains.setdefault(prefix + statement.name, set()).update(_guarded_within(statement, facts))
            _mention(facts, prefix, [statement.name], statement.decorator_list)
        elif isinstance(statement, ast.ClassDef):
            if any(name in NAMES[:2] for inner in _same_scope(statement.body) for name in _bound_by(inner)):
                facts.guarded_classes.add(prefix + statement.name)
            _read_scope(statement.body, f"{prefix}{statement.name}.", facts)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.With)):
            _mention(facts, prefix, [*_bound_by(statement), *_parts_bound_by(statement)], [statement])
        for walrus in _without_scopes(statement):
            if isinstance(walrus, ast.NamedExpr):
                _mention(facts, prefix, [walrus.target.id], [walrus.value])


def _guarded_within(node: ast.AST, facts: Facts) -> set[CodeKey]:
    return {_key(inner) for inner in ast.walk(node) if isinstance(inner, _FUNCTIONS) and _key(inner) in facts.guards}


def _mention(facts: Facts, prefix: str, names: list[str], made_from: list[Any]) -> None:
    mentioned = {
        inner.id
        for node in made_from
        for inner in ast.walk(node)
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load)
    }
    # In a class body a name may be one of the class or one of the module.
    mentioned |= {prefix + name for name in mentioned}
    for name in names:
        facts._mentions.setdefault(prefix + name, set()).update(mentioned)


def _same_scope(body: list[Any]) -> Iterator[ast.stmt]:
    """Every statement that runs in the scope of *body*, those inside if, try, with and loops included."""
    for statement in body:
        yield statement
        if not isinstance(statement, _SCOPES):
            for part in ("body", "orelse", "finalbody"):
                yield from _same_scope(getattr(statement, part, []))
            for inner in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
                yield from _same_scope(inner.body)


def _bound_by(statement: ast.AST) -> list[str]:
    """The names that *statement* itself binds, or declares to be somebody else's."""
    if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
        return [statement.name]
    names: list[str] = []
    if isinstance(statement, (ast.Global, ast.Nonlocal)):
        names += statement.names
    for node in _without_scopes(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.append(node.id)
        elif isinstance(node, ast.alias):
            names.append((node.asname or node.name).split(".")[0])
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            names.append(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names.append(node.rest)
    return names


def _parts_bound_by(statement: ast.AST) -> list[str]:
    """The attributes that *statement* binds, as `name.part`."""
    return [
        ast.unparse(node)
        for node in _without_scopes(statement)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    ]


def _without_scopes(node: ast.AST) -> Iterator[ast.AST]:
    """*node* and what is inside it, but not the bodies of functions, classes and statements nested in it."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*_SCOPES, ast.stmt)):
            yield from _without_scopes(child)


def _guard(function: ast.FunctionDef | ast.AsyncFunctionDef, filename: str) -> Guard:
    """What the body of *function* defines, each name once or not at all."""
    guard = Guard(function.name)
    arguments = function.args
    for argument in (
        *arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg
    ):  # fmt: skip
        if argument is not None and argument.arg in NAMES:
            guard.definitions[argument.arg] = "it is a parameter"
    for statement in _same_scope(function.body):
        for name in _bound_by(statement):
            if name in NAMES:
                if name in guard.definitions:
                    guard.definitions[name] = "it is defined more than once"
                elif statement not in function.body:
                    guard.definitions[name] = "its definition stands inside another statement"
                else:
                    guard.definitions[name] = _definition(name, statement, filename)
    return guard


def _definition(name: str, statement: ast.stmt, filename: str) -> Definition | str:
    if isinstance(statement, ast.AsyncFunctionDef):
        return "it is a coroutine function"
    if isinstance(statement, ast.Assign):
        if not all(isinstance(target, ast.Name) for target in statement.targets):
            return "it is not a plain assignment"
    elif not isinstance(statement, ast.FunctionDef) and not (
        isinstance(statement, ast.AnnAssign) and statement.value is not None
    ):
        return "it is neither an assignment nor a function"
    module = ast.Module(body=[statement], type_ignores=[])
    code: types.CodeType = compile(module, filename, "exec", dont_inherit=True)
    loads = frozenset(_direct_loads(statement))
    # An assignment that names a global is run at each request, because the page may bind that global anew.
    return Definition(name, code, loads, is_lasting=isinstance(statement, ast.FunctionDef) or not loads)


def _direct_loads(statement: ast.stmt) -> set[str]:
    """Names that *statement* reads when it runs: not those in the bodies of functions that it only defines."""
    parts: list[ast.AST] = [statement]
    if isinstance(statement, ast.FunctionDef):
        parts = [*statement.decorator_list, *statement.args.defaults, *filter(None, statement.args.kw_defaults)]
    loads: set[str] = set()
    while parts:
        node = parts.pop()
        if isinstance(node, ast.Lambda):
            parts += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            loads.add(node.id)
        parts.extend(ast.iter_child_nodes(node))
    return loads


def decide(definition: Definition | str, function: types.FunctionType) -> Callable[[], Any] | str:
    """What yields the value of *definition* in *function* at each request, or why it cannot be told."""
    if isinstance(definition, str):
        return definition
    code = function.__code__
    local = {*code.co_varnames, *code.co_cellvars, *code.co_freevars} - {definition.name}
    outside = sorted(definition.loads & local)
    if outside:
        return f"it uses {', '.join(outside)}, which exists only while the function runs"
    nested = {key_of(inner) for inner in _nested(definition.code)}
    captured = sorted({name for inner in _nested(code) if key_of(inner) in nested for name in inner.co_freevars})
    if captured:
        return f"it uses {', '.join(captured)} of the function around it"
    if definition.is_lasting:
        value = definition.value(function)
        return lambda: value
    return lambda: definition.value(function)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """The functions defined directly in *code*: what they capture is local to *code*."""
    return (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
