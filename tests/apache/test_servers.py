"""The servers of the tests themselves: what they promise to every other test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from servers.base import alive, children_of

PLAIN = """
import os
from mod_python import apache

def handler(req):
    req.content_type = "text/plain"
    req.write("pid %d" % os.getpid())
    return apache.OK
"""


def test_a_plain_handler_answers_on_a_kernel_chosen_port(httpd):
    server = httpd(site={"plain.py": PLAIN}, handler="plain")
    answer = server.get("/")
    assert (answer.status, answer.reason) == (200, "OK")
    assert answer.text == f"pid {server.children()[0]}"


def test_a_burst_is_answered_by_one_child_of_fifteen_threads(httpd):
    server = httpd(site={"plain.py": PLAIN}, handler="plain")
    server.get("/")
    answers = server.burst(24, "/")
    assert {answer.text for answer in answers} == {f"pid {pid}" for pid in server.children()}


def test_stop_leaves_no_process(httpd):
    server = httpd(site={"plain.py": PLAIN}, handler="plain", processes=2)
    family = [server.pid, *server.children()]
    assert len(family) == 3
    server.stop()
    assert not [pid for pid in family if alive(pid)]


@pytest.mark.parametrize("how", ["restart", "graceful"])
def test_renewal_returns_when_the_old_children_are_gone(httpd, how):
    server = httpd(site={"plain.py": PLAIN}, handler="plain")
    old = server.children()
    getattr(server, how)()
    assert server.get("/").status == 200
    assert not set(old) & set(server.children())


def test_graceful_stop_leaves_no_process(httpd):
    server = httpd(site={"plain.py": PLAIN}, handler="plain")
    family = [server.pid, *server.children()]
    server.graceful_stop()
    assert not [pid for pid in family if alive(pid)]


@pytest.mark.parametrize("how", ["rename", "copy", "inplace"])
def test_write_saves_the_whole_page_for_the_serving_user(httpd, how):
    server = httpd(site={"plain.py": PLAIN}, handler=None)
    path = server.write("plain.py", PLAIN * 2, how=how)
    assert path.read_text() == PLAIN * 2
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_broken_configuration_is_an_error_with_apaches_own_words(httpd):
    with pytest.raises(Exception, match="Invalid command 'NoSuchDirective'"):
        httpd(extra="NoSuchDirective on")


def test_postgres_counts_backends_by_application_name(postgres):
    import psycopg2

    connection = psycopg2.connect(postgres.conninfo, application_name="counted")
    try:
        ((pid, name, _),) = postgres.wait_for_backends(1, "counted")
        assert (pid, name) == (connection.get_backend_pid(), "counted")
        assert postgres.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'site'") == [(False,)]
    finally:
        connection.close()
    assert postgres.wait_for_backends(0, "counted") == []


def test_postgres_answers_over_tcp_as_the_sites_role(postgres):
    import psycopg2

    connection = psycopg2.connect(postgres.tcp_conninfo)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user, inet_client_addr()")
            assert cursor.fetchone() == ("site", "127.0.0.1")
    finally:
        connection.close()


def test_a_cluster_of_its_own_keeps_its_address_over_a_restart(postgres_factory):
    server = postgres_factory(max_connections="7")
    before = server.conninfo, server.pid
    server.restart("immediate")
    assert server.conninfo == before[0] and server.pid != before[1]
    assert server.execute("SHOW max_connections") == [("7",)]


def test_a_closed_cluster_leaves_neither_process_nor_directory(postgres_factory):
    server = postgres_factory()
    family = [server.pid, *children_of(server.pid)]
    server.close()
    assert not [pid for pid in family if alive(pid)]
    assert not Path(server.root).exists()


def test_servers_run_as_an_account_without_rights(httpd, postgres):
    server = httpd()
    if os.geteuid() != 0:
        pytest.skip("only root has rights to drop")
    for pid in (*server.children(), postgres.pid):
        assert os.stat(f"/proc/{pid}").st_uid != 0
