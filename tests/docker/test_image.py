"""The web image, as it is run: start, health, stop, users, secrets, logs, mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time

import pytest
from servers import client
from servers.base import wait_until
from servers.docker import HOST, IMAGE, SUITE, Database, docker
from servers.httpd import REPOSITORY

STRANGER = ("--user", "12345")
READ_ONLY = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")


def test_it_is_healthy_without_a_database_seconds_after_its_start(serve, report):
    asked = time.monotonic()
    container = serve("--env", "PGHOST=192.0.2.1")  # nobody there
    answer = container.wait_until_it_answers()
    answered = time.monotonic() - asked
    assert (answer.status, answer.text) == (200, "ready\n")
    healthy = container.wait_until_healthy()
    report(f"{IMAGE}: answers {answered:.1f} s after `docker run`, healthy {healthy:.1f} s after the container's start")


def test_one_that_does_not_answer_is_unhealthy(serve, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "broken.conf").write_text('<Location "/.mpool/ready">\nRequire all denied\n</Location>\n')
    quickly = ("--health-start-period", "1ms", "--health-retries", "1")
    container = serve("--volume", f"{tmp_path}:/etc/mpool/conf.d:ro", *quickly)
    assert container.wait_until_it_answers().status == 403
    wait_until(lambda: container.health == "unhealthy", what="the container is unhealthy")


def test_a_page_with_the_database_is_served(serve_rows):
    container = serve_rows()
    assert container.wait_until_it_answers("/").text == "hello, site"


@pytest.mark.parametrize("signal_before", ["stop", "kill"])
def test_it_starts_again_after_its_end(serve_rows, signal_before):
    container = serve_rows()
    assert container.wait_until_it_answers("/").text == "hello, site"
    if signal_before == "kill":
        docker("kill", "--signal", "KILL", container.id)
        wait_until(lambda: not container.running, what="the container has ended")
    else:
        assert container.stop() == 0
    docker("start", container.id)
    assert container.wait_until_it_answers("/").text == "hello, site"


def test_a_request_in_flight_is_finished_by_docker_stop(serve_rows, database, report):
    container = serve_rows()
    container.wait_until_it_answers()
    address, port = container.address, container.port
    answers: list[client.Response] = []
    asking = threading.Thread(target=lambda: answers.append(client.request(HOST, port, "GET", "/slow")))
    asking.start()
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT ''slow page''%'"
    wait_until(lambda: database.query(running) == "1", what="the request has come to its query")
    began = time.monotonic()
    status = container.stop()
    took = time.monotonic() - began
    asking.join()
    assert [(answer.status, answer.text) for answer in answers] == [(200, "done")]
    assert status == 0
    wait_until(lambda: database.backends(address) == [], what="no backend is left")
    assert "caught SIGWINCH, shutting down gracefully" in container.logs()
    report(f"{IMAGE}: `docker stop` took {took:.1f} s with a request of 3 s in flight")


@pytest.mark.parametrize(
    ("options", "uid"),
    [
        pytest.param((), 33, id="root"),
        pytest.param(STRANGER, 12345, id="stranger"),
        pytest.param(READ_ONLY + STRANGER, 12345, id="stranger-read-only"),
        pytest.param(("--read-only", "--tmpfs", "/tmp"), 33, id="root-read-only"),
    ],
)
def test_it_runs_as_anybody_and_read_only(serve_rows, options, uid):
    container = serve_rows(*options)
    assert container.wait_until_it_answers("/").text == "hello, site"
    told = json.loads(container.get("/apart").text)
    assert told == {"uid": uid, "path": "/usr/sbin:/usr/bin:/sbin:/bin", "encoding": "utf-8"}
    container.wait_until_healthy()
    assert container.stop() == 0


def test_no_secret_is_shown(serve_rows, password, tmp_path):
    container = serve_rows()
    assert container.wait_until_it_answers("/").text == "hello, site"
    secret = password.partition(" ")[0]
    for shown in (
        json.dumps(container.inspect()),
        docker("inspect", IMAGE).stdout,
        docker("history", "--no-trunc", IMAGE).stdout,
        docker("top", container.id, "-eo", "pid,args").stdout,
        container.get("/apart/variables").text,
        container.logs(),
    ):
        assert shown and secret not in shown
    # Every file that this container, or an image made of it, could carry away.
    archive = tmp_path / "container.tar"
    docker("export", "--output", str(archive), container.id)
    found = subprocess.run(["grep", "--quiet", "--fixed-strings", "--text", secret, archive], check=False)
    assert found.returncode == 1
    # It is in memory, for the serving user alone.
    listed = container.execute("sh", "-c", "stat -c '%U %a %n' /dev/shm/mpool-*/*.pgpass").split()
    assert listed[:2] == ["www-data", "600"]


def test_a_conninfo_may_come_as_a_file_that_is_roots_alone(serve, database, password, tmp_path):
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    secret = tmp_path / "conninfo"
    secret.touch(mode=0o600)
    secret.write_text(f"host={Database.NAME} dbname=site user=site password='{quoted}'\n", encoding="utf-8")
    mounted = ("--volume", f"{secret}:/run/secrets/conninfo:ro", "--env", "MPOOL_CONNINFO_FILE=/run/secrets/conninfo")
    container = serve(*mounted)
    assert container.wait_until_it_answers("/").text == "hello, site"
    assert password.partition(" ")[0] not in container.get("/apart/variables").text


def test_options_come_from_the_environment(serve_rows, database):
    container = serve_rows("--env", "MPOOL_MIN_SIZE=3", "--env", "APACHE_PROCESSES=1", "--env", "APACHE_THREADS=4")
    assert container.wait_until_it_answers("/").text == "hello, site"
    address = container.address
    wait_until(lambda: len(database.backends(address)) == 3, what="one process keeps three connections")
    assert container.stop() == 0


def test_no_directive_comes_before_an_option_of_the_environment():
    for name in ("docker/httpd.conf", "apache-conf/worker.conf"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert not re.findall(r"^\s*PythonOption mpool\.", text, re.MULTILINE)


def test_requests_are_logged_on_stdout_and_everything_else_on_stderr(serve):
    container = serve()
    container.wait_until_it_answers()
    assert container.get("/apart").status == 200

    def logged() -> bool:
        out, err = container.output()
        return '"GET /apart HTTP/1.1" 200' in out and "apart says hello" in err

    wait_until(logged, what="both are in the log")
    out, err = container.output()
    assert "apart says hello" not in out and "GET /apart" not in err
    assert "/.mpool/ready" not in out  # the health check's requests would drown all others
    assert not [line for line in err.splitlines() if ":error]" in line or ":warn]" in line]


def test_files_are_served_and_what_is_not_for_visitors_is_not(serve):
    container = serve()
    container.wait_until_it_answers()
    style = container.get("/static/style.css")
    assert (style.status, style.headers.get_content_type()) == (200, "text/css")
    for path in ("/_setup/secret.txt", "/static/../_setup/secret.txt", "/.htaccess"):
        assert container.get(path).status in (403, 404)


def test_directives_of_ones_own_are_included_last(serve, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "own.conf").write_text('Header always set X-Own "yes"\n')
    container = serve("--volume", f"{tmp_path}:/etc/mpool/conf.d:ro")
    assert container.wait_until_it_answers().headers["X-Own"] == "yes"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MPOOL_MAX_SISE": "8"}, "mpool: MPOOL_MAX_SISE: a pool has no such option"),
        ({"MPOOL_MAX_SIZE": "eight"}, "mpool: MPOOL_MAX_SIZE: invalid literal for int() with base 10: 'eight'"),
        ({"MPOOL_REPORTS_MAX_SIZE": "0"}, "mpool: pool reports: max_size must be at least 1, not 0"),
        ({"APACHE_THREADS": "0"}, "mpool: APACHE_THREADS must be a number from 1 to 1000, not '0'"),
        ({"APACHE_LISTEN": "tcp://10.0.0.1:80"}, "mpool: APACHE_LISTEN must be a number from 1 to 65535, not 'tcp:"),
        ({"PGPASSWORD_FILE": "/run/none"}, "mpool: PGPASSWORD_FILE: /run/none: No such file or directory"),
        ({"PGPASSWORD_FILE": "/dev/null"}, "mpool: PGPASSWORD_FILE: /dev/null must hold one line"),
        ({"PGPASSWORD_FILE": "/etc/hostname", "PGPASSWORD": "x"}, "mpool: PGPASSWORD_FILE and PGPASSWORD: only one"),
        ({"MPOOL_CONNINFO_FILE": "/etc/hostname"}, "mpool: MPOOL_CONNINFO_FILE: conninfo is neither"),
        ({}, "mpool: /srv/site is empty: mount the directory of your site there, or copy it in an image"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_status_1(variables, said):
    given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    done = docker("run", "--rm", "--network", "none", *given, IMAGE, check=False)
    assert done.returncode == 1
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(said)


def test_what_a_service_of_the_name_brings_along_in_kubernetes_is_no_mistake():
    variables = ("--env", "MPOOL_PORT=tcp://192.0.2.1:80", "--env", "MPOOL_SERVICE_HOST=192.0.2.1")
    done = docker("run", "--rm", "--network", "none", *variables, IMAGE, "mpool", "--help")
    assert "serve" in done.stdout


def test_it_says_what_it_is_and_carries_no_tools(report):
    described = json.loads(docker("inspect", IMAGE).stdout)[0]
    labels = described["Config"]["Labels"]
    version = docker("run", "--rm", "--network", "none", IMAGE, *python("version('mpool')")).stdout.strip()
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.base.name"] in (f"debian:{SUITE}-slim", f"mpool-base:{SUITE}")
    assert {"title", "description", "revision"} <= {name.rpartition(".")[2] for name in labels}
    assert described["Config"]["StopSignal"] == "SIGWINCH"
    assert list(described["Config"]["ExposedPorts"]) == ["8080/tcp"]
    listed = "ls -A /var/lib/apt/lists /usr/share/man 2>/dev/null; command -v pip pip3 gcc make git; true"
    left = docker("run", "--rm", "--network", "none", IMAGE, "sh", "-c", listed).stdout.split()
    assert set(left) <= {"/var/lib/apt/lists:", "/usr/share/man:", "auxfiles", "partial"}
    report(f"{IMAGE}: {described['Size'] / 1e6:.0f} MB")


def python(expression: str) -> tuple[str, ...]:
    return ("python3", "-c", f"from importlib.metadata import version; print({expression})")


def test_the_context_of_a_build_is_what_the_dockerfile_copies():
    """No history, no environment and no notes of anybody's can get into a layer."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert "!.git" not in rules and "!.venv" not in rules
