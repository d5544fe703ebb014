"""`mpool serve` as people run it: a process of its own, on a site in a directory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from servers import client
from servers.base import DEADLINE, alive, children_of, make_public_dir, processes, remove_tree, run, wait_until
from servers.httpd import REPOSITORY, make_readable

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root changes accounts")

PAGE = """
def index(req, conn):
    with conn.cursor() as cur:
        cur.execute("SELECT string_agg(name, ',' ORDER BY name), current_user FROM thing")
        names, user = cur.fetchone()
    return "names=%s user=%s" % (names, user)
"""
SCHEMA = "CREATE TABLE thing (name text PRIMARY KEY);\nINSERT INTO thing VALUES ('from 100% schema');\n"
LOAD = """
import os

def load(conn):
    with conn.cursor() as cur:
        cur.execute("INSERT INTO thing VALUES (%s)", ("load %d" % os.getuid(),))
"""


def descendants(pid: int) -> list[int]:
    """*pid* and the pids of all living processes that descend from it."""
    table = list(processes())
    found = [pid]
    for parent in found:
        found += [child for child, its_parent, state in table if its_parent == parent and state not in "ZX"]
    return found


class Serve:
    """One `mpool serve` process; *under* is a command that runs it."""

    def __init__(self, arguments: list[str], directory: Path, under: tuple[str, ...] = ()) -> None:
        self._out = directory / "stdout"
        self._err = directory / "stderr"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "mpool.tools", "serve", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def wait_ready(self) -> None:
        wait_until(lambda: "ready" in self.stdout or self.process.poll() is not None, what="the ready line")
        assert self.process.poll() is None, self.stderr

    @property
    def port(self) -> int:
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.stdout)
        assert found, self.stdout
        return int(found[1])

    def get(self, path: str = "/") -> client.Response:
        return client.request("127.0.0.1", self.port, "GET", path)

    def family(self) -> list[int]:
        """Pids of this process and of all that descend from it."""
        return descendants(self.process.pid)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send *how* and return the exit status."""
        self.process.send_signal(how)
        return self.process.wait(DEADLINE)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for a site and a server root, which every account can enter."""
    directory = make_public_dir("mps-")
    try:
        yield directory
    finally:
        remove_tree(directory)


@pytest.fixture
def site(place: Path) -> Path:
    files = {"index.py": PAGE, "_setup/schema.sql": SCHEMA, "_setup/load.py": LOAD, "static/site.css": "p {}"}
    for name, text in files.items():
        path = place / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    make_readable(place / "site")
    return place / "site"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A stopped cluster as the command makes it, to copy: making one takes longer than most tests."""
    directory = make_public_dir("mps-")
    try:
        (directory / "site").mkdir()
        one = Serve([str(directory / "site"), "--setup-only", "--server-root", str(directory / "root")], directory)
        assert one.process.wait(DEADLINE) == 0, one.stderr
        yield directory / "root" / "postgres"
    finally:
        remove_tree(directory)


@pytest.fixture
def serve(place: Path, cluster: Path) -> Iterator[Callable[..., Serve]]:
    """Starts `mpool serve SITE ...` on a free port with a server root of the test's own, and ends it.

    The first start on a server root finds a cluster there, except with `new=True`.
    """
    started: list[Serve] = []

    def start(
        *arguments: str | Path,
        server_root: Path | None = place / "root",
        port: int | str = 0,
        new: bool = False,
        under: tuple[str, ...] = (),
    ) -> Serve:
        if server_root and not new and not server_root.exists():
            server_root.mkdir()
            run(["cp", "-a", str(cluster), str(server_root)])
        command = [str(argument) for argument in arguments]
        command += ["--port", str(port)]
        command += ["--server-root", str(server_root)] if server_root else []
        directory = place / f"run{len(started)}"
        directory.mkdir()
        started.append(Serve(command, directory, under))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            family = one.family()
            if one.process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.end()
            for pid in family:
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
            one.process.wait()


def in_one_line(text: str) -> bool:
    return len(text.splitlines()) == 1 and text.startswith("mpool serve: ")


def test_a_site_is_served_on_rows_of_its_own_after_one_ready_line(serve, site):
    one = serve(site)
    one.wait_ready()
    assert one.get().text == f"names=from 100% schema,load {33 if IS_ROOT else os.geteuid()} user=site"
    assert (one.stdout + one.stderr).lower().count("ready:") == 1
    assert len(one.stdout.splitlines()) == 1
    assert one.get("/static/site.css").text == "p {}"


def test_what_begins_with_an_underscore_or_a_dot_is_not_served(serve, site):
    (site / ".htaccess").write_text("")
    one = serve(site)
    one.wait_ready()
    paths = ["/_setup/load.py", "/_setup/schema.sql", "/_setup/load/load", "/_setup", "/.htaccess", "/_private"]
    assert {path: one.get(path).status in (403, 404) for path in paths} == dict.fromkeys(paths, True)
    assert one.get("/").status == 200


def test_an_edit_is_served_without_a_restart(serve, site):
    one = serve(site)
    one.wait_ready()
    assert one.get().status == 200
    fresh = site / "index.new"
    fresh.write_text("def index(req):\n    return 'edited'\n")
    fresh.chmod(0o644)
    fresh.replace(site / "index.py")
    wait_until(lambda: one.get().text == "edited", what="the edit is served")


@pytest.mark.parametrize("mpm", ["event", "prefork"])
def test_another_mpm_serves_with_as_many_processes_as_asked_for(serve, site, mpm):
    one = serve(site, "--mpm", mpm, "--processes", "3", "--threads", "2")
    one.wait_ready()
    assert one.get().status == 200
    (apache,) = [pid for pid in children_of(one.process.pid) if "apache2" in Path(f"/proc/{pid}/cmdline").read_text()]
    wait_until(lambda: len(children_of(apache)) == 3, what="three children")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything(serve, site, how):
    one = serve(site)
    one.wait_ready()
    family = one.family()
    assert len(family) >= 4  # ourselves, PostgreSQL, Apache and its child
    assert one.end(how) == 0
    assert not [pid for pid in family if alive(pid)]


def test_servers_end_when_the_command_is_killed(serve, site):
    one = serve(site)
    one.wait_ready()
    family = one.family()
    one.end(signal.SIGKILL)
    wait_until(lambda: not [pid for pid in family if alive(pid)], what=f"{family} are gone")


def test_what_was_written_is_there_at_the_second_start(serve, site):
    first = serve(site, new=True)
    first.wait_ready()
    first.end()
    (site / "_setup" / "load.py").unlink()
    second = serve(site)
    second.wait_ready()
    assert "from 100% schema,load" in second.get().text
    assert "making a private PostgreSQL cluster" in first.stderr
    assert "making" not in second.stderr


def test_a_crashed_cluster_ends_the_command_and_recovers_at_the_next_start(serve, site, place):
    first = serve(site)
    first.wait_ready()
    family = first.family()
    pid_file = place / "root" / "postgres" / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    assert first.process.wait(DEADLINE) == 1
    assert first.stderr.splitlines()[-1].startswith("mpool serve: PostgreSQL ended by itself")
    wait_until(lambda: not [pid for pid in family if alive(pid)], what=f"{family} are gone")
    (site / "_setup" / "load.py").unlink()
    second = serve(site)
    second.wait_ready()
    assert "from 100% schema" in second.get().text


def test_the_cluster_is_closed_to_other_accounts(serve, site, place):
    one = serve(site)
    one.wait_ready()
    data, socket_dir = place / "root" / "postgres" / "data", place / "root" / "socket"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o750
    rules = [line.split() for line in (data / "pg_hba.conf").read_text().splitlines() if not line.startswith("#")]
    assert {(rule[0], rule[3]) for rule in rules} == {("local", "peer")}
    if IS_ROOT:
        # Not even root is let in without being somebody's account.
        with pytest.raises(psycopg2.OperationalError, match="Peer authentication failed"):
            psycopg2.connect(f"host={socket_dir} dbname=site user=postgres")


@needs_root
def test_no_server_that_talks_to_others_runs_as_root(serve, site):
    one = serve(site)
    one.wait_ready()
    table = list(processes())
    owners = {pid: os.stat(f"/proc/{pid}").st_uid for pid in one.family()}
    root = {pid for pid, uid in owners.items() if uid == 0}
    # Ourselves, and Apache's parent, which opened the port.
    assert len(root) == 2
    assert root - {one.process.pid} == {pid for pid, parent, _ in table if parent == one.process.pid and pid in root}


@needs_root
def test_a_site_behind_a_closed_directory_is_served_and_its_edits_are_seen(serve, place, site):
    closed = place / "closed"
    closed.mkdir()
    site.rename(closed / "site")
    closed.chmod(0o700)
    one = serve(closed / "site", server_root=closed / "root")
    one.wait_ready()
    assert one.get().status == 200
    (closed / "site" / "other.py").write_text("def index(req):\n    return 'new page'\n")
    wait_until(lambda: one.get("/other").text == "new page", what="the new page is served")
    # The mounts are the command's own, and what it says has the names that people know.
    assert "/mpool/site" not in Path("/proc/self/mountinfo").read_text()
    assert not any(Path(parent, "mpool", "site").exists() for parent in ("/run", "/dev/shm"))
    (closed / "site" / "broken.py").write_text("def index(req):\n    raise ValueError('in a page')\n")
    assert one.get("/broken").status == 500
    wait_until(lambda: f'File "{closed}/site/broken.py"' in one.stderr, what="the traceback names the file")
    assert f"serves {closed}/site " in one.stdout
    one.end()


def test_a_taken_port_is_one_line_and_nothing_is_left(serve, site):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        one = serve(site, port=port)
        assert one.process.wait(DEADLINE) == 1
    assert in_one_line(one.stderr) and f"port {port}" in one.stderr and "--port" in one.stderr
    assert one.stdout == ""


@needs_root
@pytest.mark.parametrize(
    ("hidden", "package"),
    [
        ("/usr/lib/apache2/modules", "libapache2-mod-python"),
        ("/usr/lib/postgresql", "postgresql"),
        ("/usr/lib/python3/dist-packages/werkzeug", "python3-werkzeug"),
    ],
)
def test_a_missing_package_is_one_line_with_its_name(serve, site, place, hidden, package):
    # A mount of our own; where / is shared with others or no mount point (a chroot), none is to be had safely.
    if subprocess.run(["unshare", "--mount", "true"], check=False, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("no private mounts here")
    (place / "empty").mkdir()
    hide = f'mount --bind {place}/empty {hidden} && exec "$@"'
    one = serve(site, new=True, under=("unshare", "--mount", "sh", "-c", hide, "sh"))
    assert one.process.wait(DEADLINE) == 1
    assert in_one_line(one.stderr)
    assert re.search(f"apt-get install .*{package}", one.stderr)
    assert not (place / "root" / "postgres").exists()


@pytest.mark.parametrize("what", ["missing", "a file"])
def test_a_site_that_is_no_directory_is_one_line(serve, place, what):
    path = place / "site"
    if what == "a file":
        path.write_text("")
    one = serve(path)
    assert one.process.wait(DEADLINE) == 1
    assert in_one_line(one.stderr) and str(path) in one.stderr


def test_a_site_that_the_serving_account_cannot_read_is_one_line(serve, site):
    site.chmod(0o700 if IS_ROOT else 0)
    try:
        one = serve(site)
        assert one.process.wait(DEADLINE) == 1
    finally:
        site.chmod(0o755)
    assert in_one_line(one.stderr) and "cannot read" in one.stderr and "chmod" in one.stderr


def test_a_second_start_on_the_same_server_root_is_refused(serve, site):
    first = serve(site)
    first.wait_ready()
    second = serve(site)
    assert second.process.wait(DEADLINE) == 1
    assert in_one_line(second.stderr) and str(first.process.pid) in second.stderr
    assert first.get().status == 200


def test_a_cluster_of_another_version_is_refused(serve, site, place, cluster):
    run(["cp", "-a", "--", str(cluster), str(place)])
    (place / "root").mkdir()
    (place / "postgres").rename(place / "root" / "postgres")
    (place / "root" / "postgres" / "data" / "PG_VERSION").write_text("9.1\n")
    one = serve(site)
    assert one.process.wait(DEADLINE) == 1
    assert in_one_line(one.stderr) and "PostgreSQL 9.1" in one.stderr


def test_a_failing_set_up_is_one_line_that_names_the_file(serve, site, place):
    (site / "_setup" / "schema.sql").write_text("CREATE TABLE thing (\n")
    one = serve(site, new=True)
    assert one.process.wait(DEADLINE) == 1
    complaint = one.stderr.splitlines()[-1]
    assert "_setup/schema.sql" in complaint and "syntax error" in complaint
    (site / "_setup" / "schema.sql").write_text(SCHEMA)
    again = serve(site)
    again.wait_ready()
    assert again.get().status == 200


def test_set_up_only_leaves_everything_prepared_and_nothing_running(serve, site, place):
    one = serve(site, "--setup-only", new=True)
    family = one.family()
    assert one.process.wait(DEADLINE) == 0, one.stderr
    assert not [pid for pid in family if alive(pid)]
    assert (place / "root" / "apache" / "httpd.conf").exists()
    assert (place / "root" / "postgres" / "data" / "PG_VERSION").exists()


def test_a_database_of_ones_own_is_used(serve, site, place, postgres):
    postgres.execute("DROP DATABASE IF EXISTS own")
    postgres.execute("CREATE DATABASE own OWNER site")
    one = serve(site, "--conninfo", postgres.conninfo.replace("dbname=site", "dbname=own"), new=True)
    one.wait_ready()
    assert "from 100% schema" in one.get().text
    assert not (place / "root" / "postgres").exists()
    one.end()
    postgres.wait_for_backends(0)
    postgres.execute("DROP DATABASE own")


def test_a_database_that_does_not_answer_is_one_line_without_the_password(serve, site, place):
    one = serve(site, "--conninfo", f"host={place} dbname=site password=secret")
    assert one.process.wait(DEADLINE) == 1
    assert in_one_line(one.stderr) and "does not answer" in one.stderr
    assert "secret" not in one.stderr


@pytest.mark.parametrize("conninfo", ["postgresql://me:secret@[::1/site", "postgresql://me:se@secret@127.0.0.1:1/site"])
def test_a_conninfo_that_is_wrong_is_one_line_without_any_of_it(serve, site, conninfo):
    one = serve(site, "--conninfo", conninfo)
    assert one.process.wait(DEADLINE) == 1
    assert in_one_line(one.stderr) and "conninfo" in one.stderr
    assert "secret" not in one.stderr


def test_the_default_server_root_is_kept_per_site(serve, site, place):
    state = place / "state"
    if IS_ROOT:
        pytest.skip("root's is in /var/lib, which a test leaves alone")
    os.environ["XDG_STATE_HOME"] = str(state)
    try:
        serve(site, "--setup-only", server_root=None).process.wait(DEADLINE)
    finally:
        del os.environ["XDG_STATE_HOME"]
    assert [path.name.startswith("site-") for path in (state / "mpool").iterdir()] == [True]


def test_requests_that_never_end_do_not_keep_it_from_stopping(serve, site):
    (site / "slow.py").write_text("import time\n\ndef index(req):\n    time.sleep(600)\n")
    (site / "slow.py").chmod(0o644)
    one = serve(site)
    one.wait_ready()
    with socket.create_connection(("127.0.0.1", one.port)) as waiting:
        waiting.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        family = one.family()
        assert one.end() == 0
    assert not [pid for pid in family if alive(pid)]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_demo_serves_the_example_site_and_stops_with_make(place):
    arguments = f"--port 0 --server-root {place}/root"
    with open(place / "out", "wb") as out, open(place / "err", "wb") as err:
        make = subprocess.Popen(
            ["make", "--no-print-directory", "demo", f"ARGS={arguments}"],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    family: list[int] = []
    try:
        found = wait_until(
            lambda: (
                re.search(r"^ready: http://127\.0\.0\.1:(\d+)/", (place / "out").read_text(), re.MULTILINE)
                or make.poll() is not None
            ),
            what="the ready line",
        )
        assert isinstance(found, re.Match), (place / "err").read_text()
        family = descendants(make.pid)
        page = client.request("127.0.0.1", int(found[1]), "GET", "/")
        assert page.status == 200 and "countries" in page.text
        # Everything is installed here: no package manager was asked.
        assert "Installing" not in (place / "out").read_text()
    finally:
        make.terminate()
        make.wait(DEADLINE)
    wait_until(lambda: not [pid for pid in family if alive(pid)], what=f"{family} are gone")
