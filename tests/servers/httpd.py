"""A private Apache that boots one of the files of apache-conf/ and serves a site of the test's own."""

from __future__ import annotations

import compileall
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servers import client
from servers.base import (
    DEADLINE,
    ServerError,
    children_of,
    free_port,
    make_public_dir,
    remove_tree,
    serving_user,
    spawn,
    stop_process,
    wait_until,
)
from servers.client import Load, Response, Session

HTTPD = "/usr/sbin/apache2"
MODULE_DIR = Path("/usr/lib/apache2/modules")
REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGURATIONS = REPOSITORY / "apache-conf"

# What Debian's apache2 enables and a site may rely on, as far as tests use it, and mod_python.
MODULES = [
    *("auth_basic", "authn_core", "authn_file", "authz_core", "authz_host", "authz_user"),
    *("alias", "autoindex", "deflate", "dir", "env", "filter", "headers", "include", "mime", "negotiation"),
    *("proxy", "proxy_http", "reqtimeout", "rewrite", "setenvif", "status", "python"),
]

READY_PATH = "/.test-ready"


def stage_packages() -> Path:
    """Copy the two packages where the serving user can read them, compiled; the directory for PYTHONPATH.

    The repository may lie in a directory that only its owner can enter; and what somebody edits there during a run
    must not reach servers that are already up.
    """
    stage = make_public_dir("mpl-")
    for package in ("mpool", "handlers"):
        source = REPOSITORY / package
        if source.is_dir():
            shutil.copytree(source, stage / package, ignore=shutil.ignore_patterns("__pycache__"))
    make_readable(stage)
    # The serving user cannot write __pycache__ there.
    compileall.compile_dir(stage, quiet=2)
    return stage


def make_readable(tree: Path) -> None:
    """Let every account read *tree*."""
    for directory, _, names in os.walk(tree):
        os.chmod(directory, 0o755)
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o644)


def mpm_of(conf: str) -> str:
    """The MPM that a file of apache-conf/ is made for, by its name."""
    return next((mpm for mpm in ("event", "prefork") if conf.startswith(mpm)), "worker")


class Httpd:
    """One Apache: a parent in the foreground, `processes` children of `threads` threads.

    It is up when the constructor returns, and no request has reached Python by then.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        *,
        packages: Path,
        conf: str | Sequence[str] = "worker.conf",
        site: Mapping[str, str] | Path | None = None,
        extra: str = "",
        options: Mapping[str, object] | None = None,
        processes: int = 1,
        threads: int = 15,
        handler: str | None = "handlers.publisher",
        mpm: str | None = None,
        before: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        """
        :param conf: a file of apache-conf/, or several, in the order in which they are included.
        :param site: pages by relative name, or a directory to copy.
        :param before: directives in front of the Include.
        :param extra: directives behind it, in the main server; @SITE@ stands for the site's directory.
        :param options: PythonOption directives of the main server.
        :param handler: PythonHandler of the whole site; None leaves it to *extra*.
        """
        files = [conf] if isinstance(conf, str) else list(conf)
        self.root = make_public_dir("mpa-")
        self.site = self.root / "site"
        self.error_log = self.root / "error.log"
        self.port = 0
        self.crashes: list[str] = []  # of children, as the log tells them
        self._packages = packages
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: dict[str, Any] = {
            "conf": files,
            "before": before,
            "extra": extra,
            "options": dict(options or {}),
            "processes": processes,
            "threads": threads,
            "handler": handler,
            "mpm": mpm or mpm_of(files[0]),
        }
        try:
            self._fill_site(site)
            self.start()
        except BaseException:
            self.close()
            raise

    # -- the site ------------------------------------------------------------------------------------------------

    def _fill_site(self, site: Mapping[str, str] | Path | None) -> None:
        if isinstance(site, Path):
            shutil.copytree(site, self.site)
            make_readable(self.site)
            return
        self.site.mkdir(mode=0o755)
        self.site.chmod(0o755)
        for name, text in (site or {}).items():
            self.write(name, text)

    def write(self, name: str, text: str, how: str = "rename") -> Path:
        """Save a page as editors do: "rename" a new file over it, "copy" like cp, or "inplace" in several writes."""
        path = self.site / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            make_readable(self.site)
        data = text.encode()
        fresh = self.root / f"{path.name}.new"
        fresh.write_bytes(data)
        fresh.chmod(0o644)
        if how == "rename":
            os.replace(fresh, path)
        elif how == "inplace" and path.exists():
            _write_inplace(path, fresh)
        elif how in ("copy", "inplace"):
            shutil.copyfile(fresh, path)
            path.chmod(0o644)
        else:
            raise ValueError(f"how must be rename, copy or inplace, not {how!r}")
        return path

    def edit(self, name: str, text: str, how: str = "rename") -> None:
        """Save a page, and wait until the last write is 50 ms ago: from then on a request is served the new one."""
        path = self.write(name, text, how)
        wait_until(lambda: time.time_ns() - path.stat().st_ctime_ns > 50_000_000, what=f"{name} is complete")

    # -- configuration -------------------------------------------------------------------------------------------

    def _configuration(self) -> str:
        s = self._settings
        prefork = s["mpm"] == "prefork"
        threads = 1 if prefork else s["threads"]
        modules = [f"LoadModule mpm_{s['mpm']}_module {MODULE_DIR}/mod_mpm_{s['mpm']}.so"]
        modules += [f"LoadModule {name}_module {MODULE_DIR}/mod_{name}.so" for name in MODULES]
        user = serving_user()
        lines = [
            f'ServerRoot "{self.root}"',
            "ServerName localhost",
            f'PidFile "{self.root}/httpd.pid"',
            f"Listen {self.host}:{self.port}",
            *modules,
            *([f"User {user}", f"Group {user}"] if user else []),
            f'ErrorLog "{self.error_log}"',
            "LogLevel info",
            f'CustomLog "{self.root}/access.log" "%h %t \\"%r\\" %>s %b %D"',
            "TypesConfig /dev/null",
            f'DocumentRoot "{self.site}"',
            # One file a lock; the default directory is /tmp, where they would stay behind.
            f'PythonOption mod_python.mutex_directory "{self.root}"',
            f'Alias "{READY_PATH}" "{self.root}/ready"',
            f'<Directory "{self.root}">',
            "    Require all granted",
            "</Directory>",
            s["before"],
            *(f'Include "{self.root}/{name}"' for name in s["conf"]),
            f"StartServers {s['processes']}",
            f"ServerLimit {max(4, s['processes'])}",
            *([] if prefork else [f"ThreadsPerChild {threads}"]),
            f"MaxRequestWorkers {s['processes'] * threads}",
            # A client of the tests that is held up for some seconds is not to find its connection closed.
            "KeepAliveTimeout 60",
            *(["MinSpareServers 1"] if prefork else ["MinSpareThreads 1"]),
            *([f"MaxSpareServers {s['processes']}"] if prefork else [f"MaxSpareThreads {s['processes'] * threads}"]),
            *[f"PythonOption {name} {_quoted(value)}" for name, value in s["options"].items()],
            f'<Directory "{self.site}">',
            "    AllowOverride All",
            *(["    SetHandler mod_python", f"    PythonHandler {s['handler']}"] if s["handler"] else []),
            "</Directory>",
            f'<Location "{READY_PATH}">',
            "    SetHandler default-handler",
            "</Location>",
            s["extra"].replace("@SITE@", str(self.site)),
        ]
        return "\n".join(lines) + "\n"

    def _write_configuration(self) -> None:
        # A copy, unchanged: Apache itself reads it as root, but it is also run by people who are not.
        for name in self._settings["conf"]:
            shutil.copyfile(CONFIGURATIONS / name, self.root / name)
        (self.root / "ready").write_text("ready\n")
        (self.root / "httpd.conf").write_text(self._configuration())
        make_readable_files(self.root / "ready", self.root / "httpd.conf")

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it answers; another port where somebody took ours meanwhile."""
        for _ in range(10):
            self.port = free_port()
            mark = self._serving_since = self.log_mark()
            self._write_configuration()
            process = self._spawn()
            if self._wait_until_ready(process):
                return
            self._process = None
            if "Address already in use" not in self._output() + self.log(mark):
                raise ServerError(f"httpd did not start:\n{self._output()}{self.log(mark)}")
        raise ServerError("no free port for httpd in ten tries")

    def _spawn(self) -> subprocess.Popen[bytes]:
        (self.root / "output").unlink(missing_ok=True)
        self._process = spawn(
            [HTTPD, "-f", str(self.root / "httpd.conf"), "-DFOREGROUND"],
            log=self.root / "output",
            env={"PYTHONPATH": str(self._packages), **self._env},
            cwd=self.root,
        )
        return self._process

    def _output(self) -> str:
        path = self.root / "output"
        return path.read_text(errors="replace") if path.exists() else ""

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        try:
            wait_until(lambda: process.poll() is not None or self._answers(), what="httpd answers")
        except AssertionError:
            stop_process(process, signal.SIGTERM)
            raise ServerError(f"httpd does not answer:\n{self._output()}{self.log()}") from None
        return process.poll() is None

    def _answers(self) -> bool:
        try:
            return client.request(self.host, self.port, "GET", READY_PATH, timeout=5).status == 200
        except OSError:
            return False

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError("httpd is stopped")
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def children(self) -> list[int]:
        """Pids of the children that are alive, those of an older generation included."""
        return children_of(self.pid)

    def stop(self) -> None:
        """What `apachectl stop` does; returns when parent and children are gone."""
        self._end(signal.SIGTERM)

    def graceful_stop(self) -> None:
        """What `apachectl graceful-stop` does: requests in flight are finished."""
        self._end(signal.SIGWINCH)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._note_crashes()
            stop_process(self._process, how, patience=DEADLINE)
            self._process = None

    def restart(self) -> None:
        """What `apachectl restart` does; returns when no old child is left and the new ones serve."""
        self._renew(signal.SIGHUP)

    def graceful(self) -> None:
        """What `apachectl graceful` does; returns when no old child is left and the new ones serve."""
        self._renew(signal.SIGUSR1)

    def _renew(self, how: signal.Signals) -> None:
        old = set(self.children())
        self._note_crashes()
        mark = self.log_mark()
        os.kill(self.pid, how)
        self.wait_for_log("resuming normal operations", since=mark)
        wait_until(lambda: not old & set(self.children()), what=f"old children {old} are gone")
        wait_until(lambda: self.children() and self._answers(), what="new children answer")
        self._serving_since = self.log_mark()

    def close(self) -> None:
        """Stop it if it runs, and remove its directory."""
        try:
            self.stop()
        finally:
            remove_tree(self.root)

    def _note_crashes(self) -> None:
        """Which children have crashed as they served.

        Not those at their end: there the event MPM of 2.4.71 may touch a connection that a worker has just freed.
        """
        self.crashes += re.findall(r"child pid \d+ exit signal (?:Segm|Abort|Bus).*", self.log(self._serving_since))

    # -- requests ------------------------------------------------------------------------------------------------

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        return self.request("GET", path, headers=headers)

    def post(
        self, path: str, data: Mapping[str, Any] | str | bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        with self.session() as session:
            return session.post(path, data, {"Connection": "close", **(headers or {})})

    def request(
        self, method: str, path: str, body: str | bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        return client.request(self.host, self.port, method, path, body, headers)

    def burst(self, n: int, path: str | list[str], headers: Mapping[str, str] | None = None) -> list[Response]:
        """*n* requests at the same moment; several paths are taken in turn."""
        paths = [path] if isinstance(path, str) else path
        return client.burst(self.host, self.port, [paths[i % len(paths)] for i in range(n)], headers)

    def session(self) -> Session:
        """A client that keeps its connection."""
        return Session(self.host, self.port)

    def load(self, path: str | list[str], clients: int = 8, headers: Mapping[str, str] | None = None) -> Load:
        """Clients that go on asking while the block runs."""
        return Load(self.host, self.port, [path] if isinstance(path, str) else path, clients, headers)

    # -- log -----------------------------------------------------------------------------------------------------

    def log(self, since: int = 0) -> str:
        """The error log from offset *since*."""
        if not self.error_log.exists():
            return ""
        return self.error_log.read_bytes()[since:].decode(errors="replace")

    def log_mark(self) -> int:
        """The present end of the error log, for `since`."""
        return self.error_log.stat().st_size if self.error_log.exists() else 0

    def wait_for_log(self, pattern: str, timeout: float = DEADLINE, since: int = 0) -> re.Match[str]:
        """Wait for a match of *pattern* in the error log from offset *since*."""
        try:
            return wait_until(lambda: re.search(pattern, self.log(since), re.MULTILINE), timeout=timeout)
        except AssertionError:
            raise AssertionError(f"no {pattern!r} in the log within {timeout:g} s:\n{self.log(since)}") from None


def make_readable_files(*paths: Path) -> None:
    for path in paths:
        path.chmod(0o644)


def _quoted(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _write_inplace(path: Path, fresh: Path) -> None:
    """Truncate and write in pieces: in between, the file is there and unfinished.

    By a process of its own, in front of all others where we may say so: a writer that is held up between two writes
    for longer than 50 ms is taken to have finished.
    """
    nice = ["nice", "-n", "-20"] if os.geteuid() == 0 else []
    subprocess.run([*nice, "dd", f"if={fresh}", f"of={path}", "bs=1024", "status=none"], check=True)
