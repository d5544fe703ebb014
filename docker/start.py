"""The image's entry point: take secrets out of files, check the environment, become Apache (or the command given)."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from psycopg2.extensions import make_dsn

from mpool.config import PoolConfig, options_from_environment, parse_conninfo

SITE = Path("/srv/site")
APACHE = ["/usr/sbin/apache2", "-DFOREGROUND", "-f", "/usr/local/share/mpool/docker/httpd.conf"]
SERVING_USER = "www-data"

# What can be said in words: a callback has no default.
OPTIONS = [field.name.upper() for field in fields(PoolConfig) if field.default is not None] + ["POOL"]
POOL_VARIABLE = re.compile(rf"MPOOL_(?:(?P<pool>\w+?)_)??(?:{'|'.join(OPTIONS)})")
# Kubernetes tells every container of a service called "mpool" in such variables.
SERVICE_LINK = re.compile(r"MPOOL_(SERVICE_|PORT)")


class ConfigurationError(Exception):
    """The text is one line that says which variable is wrong."""


def main(arguments: list[str]) -> NoReturn:
    try:
        environment = prepare(os.environ)
        if arguments == ["apache2"]:
            require_site()
            arguments = APACHE
            # Another python3 first in PATH would be taken for the home of the one in Apache.
            environment["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    except (ConfigurationError, ValueError) as error:
        sys.exit(f"mpool: {error}")
    try:
        os.execvpe(arguments[0], arguments, environment)
    except OSError as error:
        sys.exit(f"mpool: {arguments[0]}: {error.strerror}")


def prepare(given: Mapping[str, str]) -> dict[str, str]:
    """The environment for Apache: that of the container, checked, with files in the place of secrets."""
    # /dev/shm is memory of this container's own, which everybody may write to, even where all else is read-only.
    runtime = Path(tempfile.mkdtemp(prefix="mpool-", dir="/dev/shm"))
    runtime.chmod(0o755)
    # libpq looks for certificates at home, and cannot even look into root's when it is somebody else.
    environment = {**given, "LANG": "C.UTF-8", "HOME": str(runtime), "RUNTIME_DIR": str(runtime)}
    processes = number(environment, "APACHE_PROCESSES", 100)
    threads = number(environment, "APACHE_THREADS", 1000)
    number(environment, "APACHE_LISTEN", 65535)
    environment["APACHE_WORKERS"] = str(processes * threads)
    take_secrets(environment, runtime)
    check_pools(environment)
    return environment


def number(environment: Mapping[str, str], name: str, most: int) -> int:
    text = environment.get(name, "")
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > most:
        raise ConfigurationError(f"{name} must be a number from 1 to {most}, not {text!r}")
    return int(text)


def take_secrets(environment: dict[str, str], runtime: Path) -> None:
    """PGPASSWORD_FILE and MPOOL_CONNINFO_FILE (or MPOOL_NAME_CONNINFO_FILE): passwords go to files that libpq reads."""
    for variable in [name for name in environment if re.fullmatch(r"PGPASSWORD_FILE|MPOOL_(\w+_)?CONNINFO_FILE", name)]:
        plain = variable.removesuffix("_FILE")
        if plain in environment:
            raise ConfigurationError(f"{variable} and {plain}: only one of them can be meant")
        text = secret(variable, Path(environment.pop(variable)))
        passfile = runtime / f"{plain.lower()}.pgpass"
        if plain == "PGPASSWORD":
            write_passfile(passfile, text)
            environment["PGPASSFILE"] = str(passfile)
            continue
        parts = parse_conninfo(text)
        if "password" in parts:
            write_passfile(passfile, parts.pop("password"))
            parts["passfile"] = str(passfile)
        environment[plain] = make_dsn(**parts)


def secret(variable: str, path: Path) -> str:
    """The one line that a file holds."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigurationError(f"{variable}: {path}: {reason}") from None
    if len(lines) != 1 or not lines[0]:
        raise ConfigurationError(f"{variable}: {path} must hold one line")
    return lines[0]


def write_passfile(path: Path, password: str) -> None:
    """A password for whatever server; libpq takes it from a file that is its user's alone."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    path.touch(mode=0o600)
    path.write_text(f"*:*:*:*:{escaped}\n", encoding="utf-8")
    if os.geteuid() == 0:
        import pwd

        os.chown(path, pwd.getpwnam(SERVING_USER).pw_uid, -1)


def check_pools(environment: Mapping[str, str]) -> None:
    """Every MPOOL_ variable is an option of a pool that can be made."""
    names = {"default"}
    for variable in environment:
        if not variable.startswith("MPOOL_") or SERVICE_LINK.match(variable):
            continue
        match = POOL_VARIABLE.fullmatch(variable)
        if match is None:
            raise ConfigurationError(f"{variable}: a pool has no such option")
        names.add((match["pool"] or "default").lower())
    for name in sorted(names):
        options = options_from_environment(environment, name)
        options.pop("pool", None)
        try:
            PoolConfig(**options)
        except ValueError as error:
            raise ConfigurationError(f"pool {name}: {error}") from None


def require_site() -> None:
    if not SITE.is_dir() or not any(SITE.iterdir()):
        raise ConfigurationError(f"{SITE} is empty: mount the directory of your site there, or copy it in an image")


if __name__ == "__main__":
    main(sys.argv[1:])
