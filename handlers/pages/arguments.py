"""Form values to the arguments of a page function, by its signature.

What can be computed once per function is: `make_plan` reads the signature and the annotations. Binding a request is
then a walk over the parameters.
"""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from handlers.errors import HttpError
from handlers.pages.forms import Upload

Converter = Callable[[Any], Any]

#: Parameters that are the server's to fill; no field of that name is ever passed.
REQUEST, CONNECTION = "req", "conn"

_MISSING = object()


class Unusable(Exception):
    """A value that does not fit its annotation; the text completes "Field 'x' must be ..."."""


@dataclass(frozen=True)
class Parameter:
    """One parameter that fields are bound to."""

    name: str
    positional: bool  # positional-only: cannot be passed by name
    required: bool
    convert: Converter | None  # of one value
    many: Converter | None  # of the list of all values, for list[...] and the like
    default: Any = None


@dataclass(frozen=True)
class Plan:
    """How a function is called: in which order the server's own arguments go, and which fields it takes."""

    takes_req: bool
    wants_conn: bool  # a parameter `conn` without a default
    leading_req: bool  # `req` comes first, and is passed by position whatever a wrapper calls it
    positional: tuple[Parameter | str, ...]  # positional-only ones in order; a str is REQUEST or CONNECTION
    named: tuple[Parameter, ...]
    any_name: bool  # **kwargs
    reserved: frozenset[str]  # names that a field must not take in **kwargs

    def bind(
        self, groups: dict[str, list[Any]], req: Any, connection: Callable[[Any], Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments for a call; *connection* leases one for *req*.

        HttpError 400 that names the field which is missing or does not fit.
        """
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        if self.positional:
            self._bind_positional(args, groups, req, connection)
        if self.leading_req and not self.positional:
            args.append(req)
        elif self.takes_req and REQUEST not in self.positional:
            kwargs[REQUEST] = req
        for parameter in self.named:
            if parameter.required or parameter.name in groups:
                kwargs[parameter.name] = self._value(parameter, groups)
        if self.any_name:
            for name, values in groups.items():
                if name not in self.reserved:
                    kwargs[name] = values[0] if len(values) == 1 else values
        if self.wants_conn and CONNECTION not in self.positional:
            # Last: no connection is leased for a request whose fields do not fit.
            kwargs[CONNECTION] = connection(req)
        return args, kwargs

    def _bind_positional(
        self, args: list[Any], groups: dict[str, list[Any]], req: Any, connection: Callable[[Any], Any]
    ) -> None:
        for parameter in self.positional:
            if parameter == REQUEST:
                args.append(req)
            elif parameter == CONNECTION:
                args.append(connection(req))
            elif isinstance(parameter, Parameter):
                value = self._value(parameter, groups)
                # Its own default: one behind it can only be passed if it is passed too.
                args.append(parameter.default if value is _MISSING else value)

    @staticmethod
    def _value(parameter: Parameter, groups: dict[str, list[Any]]) -> Any:
        values = groups.get(parameter.name)
        if values is None:
            if parameter.required:
                raise HttpError(400, f"Field {parameter.name!r} is missing.")
            return _MISSING
        try:
            if parameter.many is not None:
                return parameter.many(values)
            if len(values) > 1:
                if parameter.convert is not None:
                    raise Unusable("given once")
                return values
            return values[0] if parameter.convert is None else parameter.convert(values[0])
        except Unusable as mismatch:
            raise HttpError(400, f"Field {parameter.name!r} must be {mismatch}.") from None


def make_plan(function: Callable[..., Any], *, drop_first: bool = False) -> Plan:
    """Read the signature of *function*."""
    parameters = list(inspect.signature(function).parameters.values())
    if drop_first:
        parameters = parameters[1:]
    annotations = _annotations(function)
    positional: list[Parameter | str] = []
    named: list[Parameter] = []
    takes_req = wants_conn = any_name = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            any_name = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            continue
        elif parameter.name == REQUEST:
            takes_req = True
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(REQUEST)
        elif parameter.name == CONNECTION:
            # With a default it is an ordinary optional argument, which nobody but Python code sets.
            if parameter.default is parameter.empty:
                wants_conn = True
                if parameter.kind is parameter.POSITIONAL_ONLY:
                    positional.append(CONNECTION)
        else:
            field = _field(parameter, annotations.get(parameter.name))
            (positional if field.positional else named).append(field)
    first = parameters[0] if parameters else None
    reserved = {REQUEST, CONNECTION, *_argument_names(function)}
    return Plan(
        takes_req=takes_req,
        wants_conn=wants_conn,
        leading_req=first is not None and first.name == REQUEST and first.kind is not first.KEYWORD_ONLY,
        positional=tuple(positional),
        named=tuple(named),
        any_name=any_name,
        reserved=frozenset(reserved),
    )


def _argument_names(function: Callable[..., Any]) -> set[str]:
    """What may be passed by name to *function* and to whatever it wraps, `self` included.

    A field of that name is either bound already or would meet an argument that was passed by position.
    """
    names: set[str] = set()
    layer: Any = function
    for _ in range(50):
        layer = getattr(layer, "__func__", layer)
        code = getattr(layer, "__code__", None)
        if code is not None:
            names.update(code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount])
        layer = getattr(layer, "__wrapped__", None)
        if layer is None:
            break
    return names


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """The evaluated annotations; one that cannot be evaluated is left out, and asks for nothing."""
    plain: Any = inspect.unwrap(function)
    plain = vars(plain).get("__init__", plain) if isinstance(plain, type) else getattr(plain, "__func__", plain)
    try:
        return typing.get_type_hints(plain, include_extras=True)
    except Exception:
        return {
            name: hint
            for name in getattr(plain, "__annotations__", ())
            if (hint := _annotation(plain, name)) is not None
        }


def _annotation(plain: Any, name: str) -> Any:
    """One annotation where not all of them can be evaluated, such as those imported for type checkers only."""
    written = plain.__annotations__[name]
    if not isinstance(written, str):
        return written
    try:
        return eval(written, getattr(plain, "__globals__", {}))  # the page's own text, in the page's own module
    except Exception:
        return None


def _field(parameter: inspect.Parameter, annotation: Any) -> Parameter:
    convert, many = _converters(annotation)
    return Parameter(
        name=parameter.name,
        positional=parameter.kind is parameter.POSITIONAL_ONLY,
        required=parameter.default is parameter.empty,
        convert=convert,
        many=many,
        default=parameter.default,
    )


def _converters(annotation: Any) -> tuple[Converter | None, Converter | None]:
    """What makes one value, or the list of all of them, fit *annotation*; (None, None) where it asks for nothing."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _converters(inner[0])
    container = origin if isinstance(origin, type) else annotation
    if isinstance(container, type) and container in _CONTAINERS:
        return None, _list_of(_one(inner[0]) if inner else None, _CONTAINERS[container])
    if origin is typing.Union or origin is types.UnionType:
        return _union(inner)
    return _one(annotation), None


def _union(choices: tuple[Any, ...]) -> tuple[Converter | None, Converter | None]:
    """`Optional[X]` reads an empty value as None; other unions take the first of their types that fits."""
    optional = type(None) in choices
    kinds = [choice for choice in choices if choice is not type(None)]
    pairs = [_converters(kind) for kind in kinds]
    many = next((many for _, many in pairs if many is not None), None)
    if many is not None:
        return None, many
    converters = [convert for convert, _ in pairs if convert is not None]
    if len(converters) < len(kinds):
        return None, None  # one of them takes anything

    def convert(value: Any) -> Any:
        if optional and (value is None or (value == "" and str not in kinds)):
            return None
        for candidate in converters[:-1]:
            try:
                return candidate(value)
            except Unusable:
                continue
        return converters[-1](value)

    return convert, None


def _one(annotation: Any) -> Converter | None:
    """The converter of one value to *annotation*."""
    if typing.get_origin(annotation) is typing.Literal:
        return _choice({str(value): value for value in typing.get_args(annotation)})
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return _converters(annotation)[0]
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return _enum(annotation)
        return _CONVERTERS.get(annotation)
    return None


def _list_of(convert: Converter | None, kind: Callable[[list[Any]], Any]) -> Converter:
    def many(values: list[Any]) -> Any:
        if len(values) == 1 and isinstance(values[0], list):
            values = values[0]  # a JSON array
        try:
            return kind([convert(value) for value in values] if convert else values)
        except TypeError:  # a set of what JSON made lists or objects
            raise Unusable("a list of plain values") from None

    return many


def _enum(annotation: type[enum.Enum]) -> Converter:
    members = {str(member.value): member for member in annotation}
    for name, member in annotation.__members__.items():
        members.setdefault(name, member)
    return _choice(members)


def _choice(choices: dict[str, Any]) -> Converter:
    expected = "one of " + ", ".join(choices)

    def convert(value: Any) -> Any:
        found = choices.get(value if isinstance(value, str) else str(value), _MISSING)
        if found is _MISSING or isinstance(value, (list, dict, Upload)):
            raise Unusable(expected)
        return found

    return convert


_INT = re.compile(r"[+-]?[0-9]+", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?", re.ASCII)
_TRUE = frozenset(("1", "true", "yes", "on"))
_FALSE = frozenset(("", "0", "false", "no", "off"))


def _to_int(value: Any) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and _INT.fullmatch(value.strip()):
        try:
            return int(value)
        except ValueError:  # more digits than Python converts
            raise Unusable("a whole number of reasonable size") from None
    raise Unusable("a whole number")


def _to_float(value: Any) -> float:
    if type(value) in (int, float):
        value = str(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
        if number - number == 0:  # neither of the infinities, which 1e999 becomes
            return number
    raise Unusable("a number")


def _to_decimal(value: Any) -> Decimal:
    if type(value) in (int, float):
        value = str(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        try:
            return Decimal(value.strip())
        except InvalidOperation:
            pass
    raise Unusable("a decimal number")


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else str(value)
    if word in _TRUE:
        return True
    if word in _FALSE and not isinstance(value, (list, dict)):
        return False
    raise Unusable("true or false")


def _to_str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise Unusable("a text")


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, Upload):
        return value.value
    return _to_str(value).encode("utf-8", "surrogatepass")


def _to_upload(value: Any) -> Upload:
    if isinstance(value, Upload):
        return value
    raise Unusable("a file")


def _by(parse: Callable[[str], Any], expected: str) -> Converter:
    """A converter from text by *parse*, which says no by ValueError."""

    def convert(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return parse(value.strip())
            except ValueError:
                pass
        raise Unusable(expected)

    return convert


_CONVERTERS: dict[type, Converter] = {
    str: _to_str,
    int: _to_int,
    float: _to_float,
    bool: _to_bool,
    bytes: _to_bytes,
    Decimal: _to_decimal,
    date: _by(date.fromisoformat, "a date as in 2024-12-31"),
    datetime: _by(datetime.fromisoformat, "a time as in 2024-12-31T23:59:59"),
    time: _by(time.fromisoformat, "a time of day as in 23:59:59"),
    UUID: _by(UUID, "a UUID"),
    Upload: _to_upload,
}

_CONTAINERS: dict[type, Callable[[list[Any]], Any]] = {list: list, tuple: tuple, set: set, frozenset: frozenset}
