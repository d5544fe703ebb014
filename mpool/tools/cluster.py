"""A private PostgreSQL cluster: Unix socket only, `peer` authentication with a map, kept between starts."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from pathlib import Path

from mpool.tools.errors import ToolError
from mpool.tools.processes import ServerProcess, Wording, run

VERSIONS = Path("/usr/lib/postgresql")
ROLE = "site"  # and the name of its database
ADMIN = "postgres"
STOP_PATIENCE = 30.0  # seconds

# Accounts of this machine prove who they are to the kernel: no password is kept anywhere.
HBA = f"""\
# TYPE  DATABASE  USER     METHOD
local   {ROLE}      {ROLE}     peer map=site
local   all       {ADMIN} peer map=admin
"""

# A single-user session takes a statement a line.
BOOTSTRAP = f"CREATE ROLE {ROLE} LOGIN\nCREATE DATABASE {ROLE} OWNER {ROLE}\n"


class Cluster:
    """The cluster in `directory/data`, run by *owner*, open to *client* as the role `site`.

    *socket_dir* has to be short: with the socket's name it must fit into the kernel's 107 bytes.
    """

    def __init__(
        self,
        directory: Path,
        socket_dir: Path,
        *,
        owner: pwd.struct_passwd,
        client: pwd.struct_passwd,
        connections: int,
    ) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._socket_dir = socket_dir
        self._owner = owner
        self._client = client
        self._connections = connections
        self._bin = self._find_programs()
        # Only root may, and need, become another account.
        self._run_as = owner if os.geteuid() == 0 else None

    @property
    def conninfo(self) -> str:
        return f"host={self._socket_dir} dbname={ROLE} user={ROLE}"

    @property
    def exists(self) -> bool:
        return (self._data / "PG_VERSION").exists()

    def _find_programs(self) -> Path:
        """The programs for this cluster's version, or of the newest one for a new cluster."""
        installed = {p.parent.parent.name: p.parent for p in VERSIONS.glob("*/bin/postgres")}
        if not installed:
            raise ToolError("PostgreSQL is not installed: apt-get install postgresql (or give --conninfo)")
        if not self.exists:
            return installed[max(installed, key=float)]
        version = (self._data / "PG_VERSION").read_text().strip()
        if version not in installed:
            raise ToolError(
                f"{self._data} was made by PostgreSQL {version}, and installed is {', '.join(sorted(installed))}: "
                f"apt-get install postgresql-{version}, or move the directory away and start anew"
            )
        return installed[version]

    def create(self) -> None:
        """Make the cluster, its database and the role of the site, which is no superuser.

        All of it or nothing: a directory that is called data is complete.
        """
        self._directory.mkdir(mode=0o755, exist_ok=True)
        fresh = self._directory / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._give_to_owner(fresh)
        run(
            [
                *(str(self._bin / "initdb"), "-D", str(fresh), "-U", ADMIN, "--auth=peer"),
                *("--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions", "--no-sync"),
            ],
            user=self._run_as,
        )
        command = [str(self._bin / "postgres"), "--single", "-D", str(fresh), "postgres"]
        said = run(command, text=BOOTSTRAP, user=self._run_as)
        # It ends with 0 whatever happened to the statements.
        if "ERROR:" in said:
            raise ToolError(f"PostgreSQL refused the site's role or database: {said.partition('ERROR:')[2].strip()}")
        fresh.rename(self._data)

    def _give_to_owner(self, path: Path) -> None:
        if self._run_as is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def _write_access_rules(self) -> None:
        accounts = {("site", self._client.pw_name, ROLE), ("admin", self._owner.pw_name, ADMIN)}
        ident = "# MAPNAME  SYSTEM-USERNAME  PG-USERNAME\n"
        ident += "".join(f"{name} {system} {role}\n" for name, system, role in sorted(accounts))
        for name, text in (("pg_hba.conf", HBA), ("pg_ident.conf", ident)):
            path = self._data / name
            path.write_text(text)
            path.chmod(0o600)
            self._give_to_owner(path)

    def _open_socket_dir(self) -> None:
        """The owner makes the socket, the client passes through, and nobody else gets in."""
        self._socket_dir.mkdir(exist_ok=True)
        self._socket_dir.chmod(0o750)
        if self._run_as is not None:
            os.chown(self._socket_dir, self._owner.pw_uid, self._client.pw_gid)

    def start(self, wording: Wording) -> ServerProcess:
        """Start it and wait until it takes connections; its log is shown as *wording* puts it."""
        self._write_access_rules()
        self._open_socket_dir()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_dir),
            "max_connections": str(self._connections),
            "cluster_name": "mpool",
        }
        server = ServerProcess(
            "PostgreSQL",
            [
                *(str(self._bin / "postgres"), "-D", str(self._data)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            stop_signal=signal.SIGINT,  # fast: clients are disconnected, nothing is lost
            patience=STOP_PATIENCE,
            user=self._run_as,
            wording=lambda line: wording(line) if _is_worth_showing(line) else "",
        )
        server.wait_until_ready(lambda: self._is_ready(server.pid), _first_fatal)
        return server

    def _is_ready(self, pid: int) -> bool:
        """The eighth line of postmaster.pid is the server's own word, as pg_ctl reads it; a crash leaves an old one."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _is_worth_showing(line: str) -> bool:
    """Errors, and not the dozen lines with which every start and stop is told."""
    return " LOG:  " not in line


def _first_fatal(output: str) -> str:
    lines = [line.partition("FATAL:")[2].strip() for line in output.splitlines() if "FATAL:" in line]
    return lines[0] if lines else (output.strip().splitlines() or ["it printed nothing"])[-1]
