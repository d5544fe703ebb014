"""The parts of the `mpool` command that need no server."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from mpool.tools import cluster, places, processes, serve, webserver
from mpool.tools.errors import ToolError
from mpool.tools.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nosuch"],
        ["serve"],
        ["serve", "site", "--port", "x"],
        ["serve", "site", "--port", "65536"],
        ["serve", "site", "--port", "-1"],
        ["serve", "site", "--threads", "0"],
        ["serve", "site", "--processes", "many"],
        ["serve", "site", "--mpm", "nosuch"],
        ["serve", "site", "--nosuch"],
    ],
)
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: mpool" in capsys.readouterr().err


def test_help_has_an_example_and_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "example:\n  mpool serve " in text
    for option in ("host", "port", "processes", "threads", "mpm", "conninfo", "server-root", "setup-only"):
        assert f"--{option}" in text


def test_a_failure_is_one_line_and_status_1(capsys, tmp_path):
    assert main(["serve", str(tmp_path / "missing")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mpool serve: ") and error.count("\n") == 1


def test_every_mpm_of_the_samples_can_be_chosen():
    assert serve.available_mpms() == ["worker", "event", "prefork"]


def test_sites_of_one_name_have_server_roots_of_their_own():
    one, other = places.site_id(Path("/a/my site")), places.site_id(Path("/b/my site"))
    assert one != other
    assert one.startswith("my-site-") and other.startswith("my-site-")


def test_a_lock_is_refused_while_another_has_it(tmp_path):
    with places.sole_user(tmp_path), pytest.raises(ToolError, match=str(os.getpid())), places.sole_user(tmp_path):
        pass
    with places.sole_user(tmp_path):
        pass


def test_a_path_that_the_servers_see_is_told_as_it_was_given():
    here = Path("/run/x")
    moved = (("/run/x/site", "/root/my/site"),)
    seen = places.Places(site=here / "site", root=here, mpool=here, handlers=here, moved=moved)
    assert seen.in_given_words("/run/x/site/page.py: no") == "/root/my/site/page.py: no"


def test_a_taken_port_says_so_and_zero_finds_a_free_one():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        with pytest.raises(ToolError, match=f"port {taken} .* --port"):
            webserver.choose_port("127.0.0.1", taken)
        assert webserver.choose_port("127.0.0.1", 0) != taken


def test_an_address_that_is_not_ours_is_one_line():
    with pytest.raises(ToolError, match=re.escape("192.0.2.1")):
        webserver.choose_port("192.0.2.1", 0)


def test_a_port_for_root_only_says_so():
    error = OSError(errno.EACCES, "Permission denied")
    assert "above 1023" in webserver._port_trouble("127.0.0.1", 80, error)


def web(**changes: object) -> webserver.WebServer:
    settings = {
        "directory": Path("/d"),
        "site": Path("/s"),
        "packages": "/p",
        "conninfo": "dbname=site",
        "host": "127.0.0.1",
        "port": 1,
        "mpm": "worker",
        "processes": 2,
        "threads": 3,
        "user": None,
    }
    return webserver.WebServer(**{**settings, **changes})


def test_the_configuration_quotes_what_it_is_given():
    text = web(conninfo='dbname=site password="a\\b"')._configuration()
    assert 'PythonOption mpool.conninfo "dbname=site password=\\"a\\\\b\\""' in text


@pytest.mark.parametrize(
    ("mpm", "expected"),
    [
        ("worker", ["ServerLimit 2", "ThreadsPerChild 3", "MaxRequestWorkers 6", "MaxSpareThreads 6"]),
        ("event", ["ServerLimit 2", "ThreadsPerChild 3", "MaxRequestWorkers 6", "MaxSpareThreads 6"]),
        ("prefork", ["ServerLimit 2", "MaxRequestWorkers 2", "MaxSpareServers 2"]),
    ],
)
def test_the_sizes_are_those_that_were_asked_for(mpm, expected):
    lines = web(mpm=mpm)._configuration().splitlines()
    assert [line for line in expected if line not in lines] == []
    assert ("ThreadsPerChild 3" in lines) == (mpm != "prefork")


def test_an_ipv6_address_is_bracketed():
    server = web(host="::1", port=8080)
    assert server.url == "http://[::1]:8080/"
    assert "Listen [::1]:8080" in server._configuration()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taken(webserver.WebServer):
    """Somebody has every port but one."""

    free: int = 0

    def write_configuration(self) -> None:
        pass

    def start(self, wording):
        if self.port != self.free:
            raise ToolError("Apache did not start: (98)Address already in use: AH00072: make_sock: could not bind")
        return "started"


def here() -> places.Places:
    return places.Places(site=Path("/s"), root=Path("/r"), mpool=Path("/m"), handlers=Path("/h"))


def test_a_port_that_was_taken_meanwhile_is_exchanged_where_any_will_do(monkeypatch):
    chosen = iter([11, 12, 13])
    monkeypatch.setattr(webserver, "choose_port", lambda host, port: next(chosen))
    server = Taken(**{**vars(web()), "free": 12})
    started, process = serve._start_web(server, here(), any_port=True)
    assert (started.port, process) == (12, "started")


def test_a_port_that_was_asked_for_is_not_exchanged():
    with pytest.raises(ToolError, match="Address already in use"):
        serve._start_web(Taken(**vars(web())), here(), any_port=False)


def test_apaches_complaint_is_found_among_its_remarks():
    output = (
        "AH00558: apache2: Could not reliably determine the server's name\n"
        "[Sun Nov 22 20:00:00 2026] [core:notice] [pid 1] AH00094: Command line\n"
        "AH00526: Syntax error on line 3 of /x/httpd.conf:\n"
        "Invalid command 'Nosuch'\n"
    )
    assert webserver._first_complaint(output) == "AH00526: Syntax error on line 3 of /x/httpd.conf:"
    assert webserver._first_complaint("") == "it printed nothing"


def test_postgresqls_reason_is_found_in_its_log():
    output = '2026 [1] LOG:  starting\n2026 [1] FATAL:  could not create lock file "x": no\n2026 [1] LOG:  down\n'
    assert cluster._first_fatal(output) == 'could not create lock file "x": no'
    assert cluster._first_fatal("postgres: bad option\n") == "postgres: bad option"


def test_errors_of_postgresql_are_shown_and_its_routine_is_not():
    assert cluster._is_worth_showing('2026 [1] ERROR:  relation "x" does not exist\n')
    assert not cluster._is_worth_showing("2026 [1] LOG:  database system is ready to accept connections\n")


def test_a_command_that_fails_is_told_by_its_last_line():
    with pytest.raises(ToolError, match=r"^sh failed: the reason$"):
        processes.run(["/bin/sh", "-c", "echo remark; echo the reason; echo; exit 3"])


def test_a_command_gets_a_clean_environment(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("PATH", "/somewhere/else")
    assert set(processes.run(["/usr/bin/env"], env={"EXTRA": "1"}).split()) == {
        f"PATH={processes.CLEAN_PATH}",
        "LANG=C.UTF-8",
        "EXTRA=1",
    }


@pytest.fixture
def fake_debian(tmp_path):
    """Runs .ci/debian where apt-get, sudo and dpkg-query are ours; returns what was said and what apt-get was told."""
    told = tmp_path / "told"
    scripts = {
        "apt-get": f'echo "$@" >> {told}',
        "sudo": 'exec "$@"',
        "dpkg-query": 'case "$4$3" in *installed-*) printf installed ;; *) exit 1 ;; esac',
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(*names: str) -> tuple[str, str]:
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        command = ["/bin/sh", str(ROOT / ".ci" / "debian"), *names]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return done.stdout, told.read_text() if told.exists() else ""

    return run


def test_nothing_missing_means_no_package_manager(fake_debian):
    assert fake_debian("installed-one", "installed-two") == ("", "")


def test_only_what_is_missing_is_installed(fake_debian):
    said, told = fake_debian("installed-one", "missing-one", "missing-two")
    assert said == "Installing from Debian: missing-one missing-two\n"
    assert told.splitlines()[0].startswith("update")
    assert told.splitlines()[1].split()[-2:] == ["missing-one", "missing-two"]
    assert "--no-install-recommends" in told
