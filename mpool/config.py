"""PoolConfig: every option of a pool, from keywords, from PythonOption text or from the environment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

from mpool.driver import pooler
from mpool.driver.psycopg import hides_arguments

Conninfo = str | Callable[[], str]
Kwargs = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
Callback = Callable[[Any], None]  # called with a psycopg2 connection

PREFIX = "mpool."
ENVIRONMENT_PREFIX = "MPOOL_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Options of one pool; times are seconds. Wrong values fail here, not at the first request."""

    conninfo: Conninfo = dataclasses.field(default="", repr=False)  # a callable is asked at every connect
    kwargs: Kwargs | None = dataclasses.field(default=None, repr=False)  # more arguments for psycopg2.connect
    min_size: int = 0  # kept open even when unused
    max_size: int = 10
    timeout: float = 5.0  # a caller waits this long for a connection
    max_waiting: int = 0  # callers that may wait at once; 0: any number
    max_lifetime: float = 3600.0  # less up to 5 %, so that connections do not all end together
    max_idle: float = 600.0  # what is above min_size and unused for so long is closed
    max_uses: int = 0  # leases before a connection is replaced; 0: no limit
    connect_timeout: float = 10.0  # libpq's, where conninfo and kwargs give none; and for what a return asks the server
    reconnect_timeout: float = 300.0  # the housekeeper gives up on a server that is down for so long
    check_after: float = 30.0  # a connection silent for so long is asked for an answer before it is lent
    check_bypass: float = 0.5  # one found alive within so many seconds is lent unchecked
    leak_after: float = 60.0  # a lease held longer is reported; 0: never
    leak_stacks: bool = False  # note the stack of every checkout (costs several times the checkout)
    reset_session: bool = False  # RESET ALL and RESET SESSION AUTHORIZATION at every return
    close_returns: bool = False  # close() on a leased connection gives it back instead
    pooler: str = "auto"  # is there a PgBouncer in transaction mode in between? Or: transaction, session
    num_workers: int = 3  # connections opened at once while min_size is being filled
    housekeeper: bool = True  # False: no thread; what it does is done in passing, and nothing ends a hanging return
    configure: Callback | None = None  # once per new connection
    check: Callback | None = None  # at every checkout, besides the pool's own check; raises if not alive
    reset: Callback | None = None  # at every return
    reconnect_failed: Callable[[Any], None] | None = None  # after reconnect_timeout

    def __post_init__(self) -> None:
        if self.min_size < 0:
            raise ValueError(f"min_size must not be negative, not {self.min_size}")
        if self.max_size < 1:
            raise ValueError(f"max_size must be at least 1, not {self.max_size}")
        if self.max_size < self.min_size:
            raise ValueError(f"max_size ({self.max_size}) must not be below min_size ({self.min_size})")
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, not {self.num_workers}")
        for name in ("max_lifetime", "max_idle", "connect_timeout", "reconnect_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("timeout", "max_waiting", "max_uses", "check_after", "check_bypass", "leak_after"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.pooler not in pooler.MODES:
            raise ValueError(f"pooler must be one of {', '.join(pooler.MODES)}, not {self.pooler!r}")
        if isinstance(self.conninfo, str):
            parse_conninfo(self.conninfo)

    @hides_arguments
    def changed(self, **options: Any) -> PoolConfig:
        """A copy with other values, checked like a new one."""
        return dataclasses.replace(self, **options)


@hides_arguments
def parse_conninfo(conninfo: str) -> dict[str, str]:
    """The parts of a conninfo string or URI; ValueError, without quoting any of it, if it is neither."""
    if not conninfo:
        return {}
    try:
        parts: dict[str, str] = parse_dsn(conninfo)
    except (psycopg2.Error, UnicodeError):
        # libpq quotes the text around the fault, and that may be the password.
        raise ValueError("conninfo is neither 'key=value ...' nor a postgresql:// URI (it is not shown here)") from None
    # A password with one of these taken literally is cut in two, and the error on its other half names that as a host
    # or a port.
    if _is_cut_uri(conninfo) or not all(port.strip().isdecimal() for port in parts.get("port", "").split(",") if port):
        raise ValueError("conninfo has no proper host and port (it is not shown here); in the password of a URI "
                         "'@' has to be written %40, '/' %2F, '%' %25")  # fmt: skip
    return parts


def _is_cut_uri(conninfo: str) -> bool:
    scheme, separator, rest = conninfo.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        return False
    hosts, _, path = rest.partition("?")[0].partition("/")
    return hosts.count("@") > 1 or "@" in path


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in ("on", "true", "yes", "1"):
        return True
    if word in ("off", "false", "no", "0"):
        return False
    raise ValueError(f"must be On or Off, not {text!r}")


def _seconds(text: str) -> float:
    value = float(text)
    if math.isnan(value):
        raise ValueError("must be a number of seconds")
    return value


_PARSER_OF_TYPE: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": _seconds,
    "bool": _boolean,
    "str": str,
    "Conninfo": str,
}
# What can be written as text: callbacks cannot. `pool` chooses the class, and is no field of PoolConfig.
_PARSERS: dict[str, Callable[[str], Any]] = {
    field.name: _PARSER_OF_TYPE[str(field.type)]
    for field in dataclasses.fields(PoolConfig)
    if str(field.type) in _PARSER_OF_TYPE
}
_PARSERS["pool"] = str


def options_from_pythonoption(table: Mapping[str, str], name: str = "default") -> dict[str, Any]:
    """Options of the pool *name* among PythonOption entries: `mpool.max_size`, and `mpool.NAME.max_size` over it.

    The plain ones hold for every pool, a pool's own ones come before them. An unknown option is a ValueError: a
    mistyped `mpool.max_sise` must not pass in silence.
    """
    common: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, text in table.items():
        if not key.startswith(PREFIX):
            continue
        scope, _, option = key[len(PREFIX) :].rpartition(".")
        if option not in _PARSERS:
            raise ValueError(f"PythonOption {key}: there is no such option")
        if scope in ("", name):
            (own if scope else common)[option] = _parse(f"PythonOption {key}", option, text)
    return common | own


def options_from_environment(environment: Mapping[str, str], name: str = "default") -> dict[str, Any]:
    """Options of the pool *name* in MPOOL_MAX_SIZE=8 and, over it, MPOOL_NAME_MAX_SIZE=8.

    libpq reads PGHOST, PGUSER and the like by itself.
    """
    options: dict[str, Any] = {}
    own = "".join(c if c.isalnum() else "_" for c in name).upper()
    for prefix in (ENVIRONMENT_PREFIX, f"{ENVIRONMENT_PREFIX}{own}_"):
        for option in _PARSERS:
            variable = prefix + option.upper()
            if variable in environment:
                options[option] = _parse(variable, option, environment[variable])
    return options


def _parse(source: str, option: str, text: str) -> Any:
    try:
        return _PARSERS[option](text)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
