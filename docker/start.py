"""The image's entry point: take secrets out of files, check the environment, become Apache (or the command given)."""

from __future__ import annotations

import os
import pwd
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from psycopg2.extensions import make_dsn

from mpool.config import PoolConfig, options_from_environment, parse_conninfo
from mpool.registry import POOL_CLASSES

SITE = Path("/srv/site")
APACHE = ["/usr/sbin/apache2", "-DFOREGROUND", "-f", "/usr/local/share/mpool/docker/httpd.conf"]
SERVING_USER = "www-data"
# Memory of this container's own, empty at its every start: everybody may write there, even where all else is read-only.
MEMORY = Path("/dev/shm")

# What can be said in words: a callback has no default.
OPTIONS = [field.name.upper() for field in fields(PoolConfig) if field.default is not None] + ["POOL"]
POOL_VARIABLE = re.compile(rf"MPOOL_(?:(?P<pool>\w+?)_)??(?:{'|'.join(OPTIONS)})")
SECRET_VARIABLE = re.compile(r"PGPASSWORD_FILE|MPOOL_(\w+_)?CONNINFO_FILE")
# Kubernetes tells every container of a service called "mpool" in such variables.
SERVICE_LINK = re.compile(r"MPOOL_(SERVICE_|PORT)")


def main(arguments: list[str]) -> NoReturn:
    try:
        environment = prepare(os.environ)
        if arguments == ["apache2"]:
            require_site()
            arguments = APACHE
            # Another python3 first in PATH would be taken for the home of the one in Apache.
            environment["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    except ValueError as error:
        sys.exit(f"mpool: {error}")
    try:
        os.execvpe(arguments[0], arguments, environment)
    except OSError as error:
        sys.exit(f"mpool: {arguments[0]}: {error.strerror}")


def prepare(given: Mapping[str, str]) -> dict[str, str]:
    """The environment for Apache: *given*, checked, with files in the place of secrets. ValueError: what is wrong."""
    runtime = Path(tempfile.mkdtemp(prefix="mpool-", dir=MEMORY))
    runtime.chmod(0o755)
    # libpq looks for certificates at home, and cannot even look into root's when it is somebody else.
    environment = {**given, "LANG": "C.UTF-8", "HOME": str(runtime), "RUNTIME_DIR": str(runtime)}
    number(environment, "APACHE_LISTEN", 65535)
    workers = number(environment, "APACHE_PROCESSES", 100) * number(environment, "APACHE_THREADS", 1000)
    environment["APACHE_WORKERS"] = str(workers)
    for variable in [name for name in environment if SECRET_VARIABLE.fullmatch(name)]:
        take_secret(environment, variable, runtime)
    check_pools(environment)
    return environment


def number(environment: Mapping[str, str], name: str, most: int) -> int:
    text = environment.get(name, "")
    if not re.fullmatch("[1-9][0-9]{0,4}", text) or int(text) > most:
        raise ValueError(f"{name} must be a number from 1 to {most}, not {text!r}")
    return int(text)


def take_secret(environment: dict[str, str], variable: str, runtime: Path) -> None:
    """Put the password that is in the file of *variable* where libpq looks for it, and nobody else may."""
    plain = variable.removesuffix("_FILE")
    if plain in environment:
        raise ValueError(f"{variable} and {plain}: only one of them can be meant")
    text = only_line(variable, environment.pop(variable))
    passfile = runtime / f"{plain.lower()}.pgpass"
    if plain == "PGPASSWORD":
        write_passfile(passfile, text)
        environment["PGPASSFILE"] = str(passfile)
        return
    try:
        parts = parse_conninfo(text)
    except ValueError as error:
        raise ValueError(f"{variable}: {error}") from None
    if "password" in parts:
        write_passfile(passfile, parts.pop("password"))
        parts["passfile"] = str(passfile)
    environment[plain] = make_dsn(**parts)


def only_line(variable: str, path: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{variable}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{variable}: {path} must be UTF-8") from None
    if len(lines) != 1 or not lines[0]:
        raise ValueError(f"{variable}: {path} must hold one line")
    return lines[0]


def write_passfile(path: Path, password: str) -> None:
    """*password* for whatever server, in a file of the serving user's alone: libpq takes it from no other."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    path.touch(mode=0o600)
    path.write_text(f"*:*:*:*:{escaped}\n", encoding="utf-8")
    if os.geteuid() == 0:
        os.chown(path, pwd.getpwnam(SERVING_USER).pw_uid, -1)


def check_pools(environment: Mapping[str, str]) -> None:
    """Every MPOOL_ variable is an option, and of a pool that can be made."""
    names = {"default"}
    for variable in environment:
        if variable.startswith("MPOOL_") and not SERVICE_LINK.match(variable):
            match = POOL_VARIABLE.fullmatch(variable)
            if match is None:
                raise ValueError(f"{variable}: a pool has no such option")
            names.add((match["pool"] or "default").lower())
    for name in sorted(names):
        options = options_from_environment(environment, name)
        kind = str(options.pop("pool", "keep")).lower()
        if kind not in POOL_CLASSES:
            raise ValueError(f"pool {name}: option pool must be one of {', '.join(POOL_CLASSES)}, not {kind!r}")
        try:
            PoolConfig(**options)
        except ValueError as error:
            raise ValueError(f"pool {name}: {error}") from None


def require_site() -> None:
    if not SITE.is_dir() or not any(SITE.iterdir()):
        raise ValueError(f"{SITE} is empty: mount the directory of your site there, or copy it in an image")


if __name__ == "__main__":
    main(sys.argv[1:])
