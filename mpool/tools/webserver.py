"""A private Apache in front of one site: its configuration, its start, its first answer."""

from __future__ import annotations

import errno
import http.client
import importlib.metadata
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from mpool.tools.errors import ToolError
from mpool.tools.processes import ServerProcess, Wording, run

HTTPD = Path("/usr/sbin/apache2")
MODULE_DIR = Path("/usr/lib/apache2/modules")
INSTALL = "apt-get install apache2-bin libapache2-mod-python"
STOP_PATIENCE = 20.0  # seconds; Apache itself kills a child that goes on for 10 s

# As Debian enables them, as far as a site may need them in a .htaccess; and mod_python.
MODULES = [
    *("auth_basic", "authn_core", "authn_file", "authz_core", "authz_host", "authz_user"),
    *("alias", "deflate", "dir", "env", "expires", "filter", "headers", "mime", "reqtimeout", "rewrite", "setenvif"),
    "python",
]

MIME_TYPES = {
    "text/html": "html htm",
    "text/css": "css",
    "text/plain": "txt",
    "text/javascript": "js mjs",
    "application/json": "json",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpg jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/x-icon": "ico",
    "font/woff2": "woff2",
}

READY = "/.mpool/ready"

READY_HANDLER = '''\
"""Answers the first question that `mpool serve` asks: does Python run here, with the importer switched on?"""

from mod_python import apache


def handler(req):
    # A PythonImport line that fails is only logged, and edits would then be seen by nobody.
    if not apache.import_module.__module__.startswith("handlers."):
        req.log_error("handlers.importer::install did not run in interpreter %s" % req.interpreter)
        return apache.HTTP_INTERNAL_SERVER_ERROR
    req.content_type = "text/plain"
    req.write("ready\\n")
    return apache.OK
'''

_CONFIGURATION = """\
# Written by `mpool serve` at each start.
ServerRoot "{directory}"
ServerName {host}
Listen {listen}
PidFile "{directory}/httpd.pid"
DefaultRuntimeDir "{directory}"
{load_modules}
{account}
ErrorLog /dev/stderr
LogLevel notice
LogFormat "%h \\"%r\\" %>s %b bytes %{{ms}}T ms" brief
CustomLog /dev/stderr brief
TypesConfig /dev/null
{mime_types}
AddDefaultCharset utf-8
# mod_python's locks are files; its default place for them is /tmp.
PythonOption mod_python.mutex_directory "{directory}"

Include "{include}"
{sizes}
PythonOption mpool.conninfo {conninfo}

DocumentRoot "{site}"
DirectoryIndex disabled
<Directory "/">
    Require all denied
</Directory>
<Directory "{site}">
    Require all granted
    AllowOverride All
    SetHandler mod_python
    PythonHandler handlers.publisher
</Directory>
# Files as they are. Sources are none of them.
<Directory "{site}/static">
    SetHandler default-handler
    <FilesMatch "\\.pyc?$">
        Require all denied
    </FilesMatch>
</Directory>
# What begins with _ or . is not for visitors: _setup, .git, .htaccess.
<DirectoryMatch "^{site_pattern}/(.*/)?[._]">
    Require all denied
</DirectoryMatch>
<FilesMatch "^[._]">
    Require all denied
</FilesMatch>
Alias "{ready}" "{directory}/ready/ready.py"
<Directory "{directory}/ready">
    Require all granted
    SetHandler mod_python
    PythonHandler ready
</Directory>
"""


@dataclass(frozen=True, kw_only=True)
class WebServer:
    """What there is to know about the Apache that serves *site* from *directory*."""

    directory: Path
    site: Path
    packages: str  # PYTHONPATH
    conninfo: str
    host: str
    port: int
    mpm: str
    processes: int
    threads: int
    user: str | None  # what the children become; None where we are not root

    @property
    def url(self) -> str:
        return f"http://{_bracketed(self.host)}:{self.port}/"

    @property
    def config_file(self) -> Path:
        return self.directory / "httpd.conf"

    def write_configuration(self) -> None:
        self.directory.mkdir(mode=0o755, exist_ok=True)
        handler = self.directory / "ready" / "ready.py"
        handler.parent.mkdir(exist_ok=True)
        handler.write_text(READY_HANDLER)
        # Read by Apache before it drops its rights; a conninfo may hold a password.
        self.config_file.touch(mode=0o600)
        self.config_file.write_text(self._configuration())
        # A run that was killed leaves one; the number may be another process's by now.
        (self.directory / "httpd.pid").unlink(missing_ok=True)

    def _configuration(self) -> str:
        modules = [f"mpm_{self.mpm}", *MODULES]
        return _CONFIGURATION.format(
            directory=self.directory,
            host=self.host,
            listen=f"{_bracketed(self.host)}:{self.port}",
            load_modules="\n".join(f'LoadModule {m}_module "{MODULE_DIR}/mod_{m}.so"' for m in modules),
            account=f"User {self.user}\nGroup {self.user}" if self.user else "# not root: the children stay who we are",
            mime_types="\n".join(f"AddType {kind} {names}" for kind, names in MIME_TYPES.items()),
            include=sample_configuration(self.mpm),
            sizes=self._sizes(),
            conninfo=quoted(self.conninfo),
            site=self.site,
            site_pattern=re.escape(str(self.site)),
            ready=READY,
        )

    def _sizes(self) -> str:
        """Just as many children as were asked for, all the time."""
        kind, per_child = ("Servers", 1) if self.mpm == "prefork" else ("Threads", self.threads)
        total = self.processes * per_child
        lines = [f"ServerLimit {self.processes}", f"StartServers {self.processes}"]
        if self.mpm != "prefork":
            lines += [f"ThreadLimit {max(64, per_child)}", f"ThreadsPerChild {per_child}"]
        lines += [f"MaxRequestWorkers {total}", f"MinSpare{kind} 1", f"MaxSpare{kind} {total}"]
        return "\n".join(lines)

    def check(self) -> None:
        """Let Apache read its configuration; ToolError with its own words if it does not like it."""
        run([str(HTTPD), "-t", "-f", str(self.config_file)])

    def start(self, wording: Wording) -> ServerProcess:
        """Start it and wait until a request to a location of its own is answered; its log is shown by *wording*."""
        server = ServerProcess(
            "Apache",
            [str(HTTPD), "-DFOREGROUND", "-f", str(self.config_file)],
            stop_signal=signal.SIGTERM,
            patience=STOP_PATIENCE,
            env={"PYTHONPATH": self.packages},
            cwd=self.directory,
            wording=wording,
        )
        server.wait_until_ready(self._is_ready, _first_complaint)
        return server

    def _is_ready(self) -> bool:
        status = self._ask()
        if status not in (None, 200):
            raise ToolError(f"Apache answers {status} where it should say that Python is ready: see the log above")
        return status == 200

    def _ask(self) -> int | None:
        """The status of the answer, None where there is none yet."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        connection = http.client.HTTPConnection(host, self.port, timeout=10)
        try:
            connection.request("GET", READY)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def require_apache(mpm: str) -> None:
    """ToolError unless everything is installed that a start needs."""
    if not HTTPD.exists():
        raise ToolError(f"Apache is not installed: {INSTALL}")
    for module in (f"mpm_{mpm}", *MODULES):
        if not (MODULE_DIR / f"mod_{module}.so").exists():
            raise ToolError(f"Apache's mod_{module} is not installed: {INSTALL}")


def choose_port(host: str, port: int) -> int:
    """*port* if it can be listened on, for 0 one that the kernel finds free; ToolError with the remedy if not."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ToolError(f"--host {host}: {error.strerror}") from None
    with socket.socket(family, kind, protocol) as probe:
        # As Apache does: connections of a former run that are being forgotten do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise ToolError(_port_trouble(host, port, error)) from None
        chosen: int = probe.getsockname()[1]
        return chosen


def _port_trouble(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken: stop the server that has it, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} is for root only: choose one above 1023 with --port"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def sample_configuration(mpm: str) -> Path:
    """Our file of apache-conf/ for *mpm*: beside the packages in a clone, in share/mpool where it was installed."""
    name = f"{mpm}.conf"
    clone = Path(__file__).resolve().parents[2] / "apache-conf" / name
    if clone.exists():
        return clone
    try:
        files = importlib.metadata.files("mpool") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.parts[-2:] == ("apache-conf", name):
            return Path(str(file.locate())).resolve()
    raise ToolError(f"apache-conf/{name} is not installed with mpool: install it with pip, or run from a clone")


def quoted(value: str) -> str:
    """*value* as one word of an Apache directive."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _first_complaint(output: str) -> str:
    """The line in which Apache says what is wrong: notices and warnings come before it, remarks after."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    bad = [line for line in lines if not re.search(r"(AH00558|:(notice|warn|info|debug)\])", line)]
    return (bad or lines or ["it printed nothing"])[0]
