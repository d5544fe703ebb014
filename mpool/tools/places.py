"""Whose accounts the servers run as, and which directories those can reach."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mpool.tools.errors import ToolError
from mpool.tools.mounts import bind_within_reach
from mpool.tools.processes import PYTHON, account, may

# -- who --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accounts:
    """Who runs what: for root, accounts without rights; for anybody else, always that person."""

    client: pwd.struct_passwd  # runs the site's code
    owner: pwd.struct_passwd  # runs PostgreSQL
    dropping: bool

    @classmethod
    def here(cls, *, private_cluster: bool) -> Accounts:
        if os.geteuid() == 0:
            client = account("www-data", "base-passwd")
            return cls(client, account("postgres", "postgresql") if private_cluster else client, True)
        try:
            me = pwd.getpwuid(os.geteuid())
        except KeyError:
            raise ToolError(f"user {os.geteuid()} has no name in /etc/passwd, which PostgreSQL asks for") from None
        return cls(me, me, False)

    @property
    def client_if_dropping(self) -> pwd.struct_passwd | None:
        return self.client if self.dropping else None


# -- where ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """The directories as the servers see them."""

    site: Path
    root: Path
    mpool: Path
    handlers: Path
    libraries: Path | None = None  # of the virtual environment that the command runs in
    moved: tuple[tuple[str, str], ...] = ()  # (as the servers see it, as it was given)

    @classmethod
    def within_reach(cls, site: Path, root: Path, accounts: Accounts) -> Places:
        """Where the servers' accounts can get at everything; ToolError where they may not read the site."""
        paths = {"site": site, "root": root, **_packages()}
        moved = {}
        if accounts.dropping:
            everybody = (accounts.client, accounts.owner)
            closed = {n: p for n, p in paths.items() if not all(may(user, "x", p.parent) for user in everybody)}
            if closed:
                shown = bind_within_reach(closed)
                moved = {str(shown[name]): str(given) for name, given in closed.items()}
                paths |= shown
        if not may(accounts.client_if_dropping, "rx", paths["site"]):
            raise ToolError(f"{accounts.client.pw_name} cannot read {site}: chmod a+rx {site}")
        return cls(**paths, moved=tuple(moved.items()))

    def in_given_words(self, text: str) -> str:
        """*text* with the directories by the names that people know them by."""
        for shown, given in self.moved:
            text = text.replace(shown, given)
        return text

    @property
    def python_path(self) -> str:
        """PYTHONPATH: the two packages and nothing that lies beside them, then the virtual environment's libraries."""
        entries = [self._link_packages(), self.libraries]
        return ":".join(str(entry) for entry in entries if entry)

    def _link_packages(self) -> Path:
        directory = self.root / "packages"
        directory.mkdir(exist_ok=True)
        for name, target in (("mpool", self.mpool), ("handlers", self.handlers)):
            link = directory / name
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        return directory


def _packages() -> dict[str, Path]:
    spec = importlib.util.find_spec("handlers")
    if spec is None or not spec.submodule_search_locations:
        raise ToolError("the package handlers is not installed beside mpool: install both with pip")
    found = {"mpool": Path(__file__).resolve().parents[1]}
    found["handlers"] = Path(spec.submodule_search_locations[0]).resolve()
    # Apache embeds Debian's Python: only an environment of that one fits.
    if sys.prefix != sys.base_prefix and os.path.samefile(os.path.realpath(sys.executable), PYTHON):
        found["libraries"] = Path(sysconfig.get_path("purelib"))
    return found


def site_directory(given: Path) -> Path:
    try:
        site = given.resolve(strict=True)
        readable = os.access(site, os.R_OK | os.X_OK)
    except OSError as error:
        raise ToolError(f"{given}: {error.strerror}; give the directory of a site") from None
    if not site.is_dir():
        raise ToolError(f"{given} is no directory; give the directory of a site")
    if not readable:
        raise ToolError(f"you cannot read {given}: chmod u+rx {given}")
    return site


def site_id(site: Path) -> str:
    """A name for *site*: readable, and another one for each directory."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", site.name).strip("-") or "site"
    return f"{readable[:24]}-{hashlib.sha256(str(site).encode()).hexdigest()[:8]}"


def default_root(site: Path) -> Path:
    if os.geteuid() == 0:
        base = Path("/var/lib/mpool")
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "mpool"
    return base / site_id(site)


def prepare_root(given: Path) -> Path:
    try:
        given.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(f"{given}: {error.strerror}; give a directory of your own with --server-root") from None
    if not os.access(given, os.W_OK | os.X_OK):
        raise ToolError(f"you cannot write to {given}: give a directory of your own with --server-root")
    return given.resolve()


@contextlib.contextmanager
def sole_user(root: Path) -> Iterator[None]:
    """Hold the lock of *root*: two clusters on one directory would be its end."""
    with open(root / "lock", "a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ToolError(
                f"{root} is in use by another mpool serve (process {holder}): "
                "stop that one, or give another --server-root"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
