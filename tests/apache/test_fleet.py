"""Past one machine: three Apaches behind a balancer, PgBouncer beside each of two PostgreSQL servers, and a failover.

The configurations are those of docker/fleet/ and apache-conf/.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers.balancer import Balancer
from servers.base import wait_until
from servers.client import Response
from servers.example_site import SITE as EXAMPLES
from servers.example_site import make_rows
from servers.fleet import (
    Machine,
    Traffic,
    Watch,
    database_machines,
    password_file,
    planned_connections,
    web_environment,
)

WEBS = 3
POOL = 10  # mpool.max_size by default, with 15 threads

# Who answers is said first. The gate is a lock of the database that the test may hold.
SITE = {
    "write.py": """
import os
def index(req, conn, number: int):
    with conn.cursor() as cur:
        cur.execute("SELECT pg_advisory_xact_lock_shared(1)")
        cur.execute("INSERT INTO public.written VALUES (%s)", (number,))
    return os.environ["WEB"]
""",
    "read.py": """
import os
from handlers.base import connection
def index(req, number: int):
    with connection(req, "reader").cursor() as cur:
        cur.execute("SELECT pg_is_in_recovery(), count(*) FROM public.written")
        standby, count = cur.fetchone()
    return f"{os.environ['WEB']} {'standby' if standby else 'primary'} {count}"
""",
}


@pytest.fixture
def machines(postgres_factory):
    primary = postgres_factory(wal_level="replica", max_wal_senders="5")
    primary.execute("CREATE TABLE public.written (number bigint PRIMARY KEY)")
    primary.execute("GRANT ALL ON public.written TO PUBLIC")
    with database_machines(primary) as machines:
        yield machines


@pytest.fixture
def webs(httpd, machines):
    with password_file() as passfile:
        environment = web_environment(machines, passfile)
        yield [httpd(site=SITE, env={**environment, "WEB": f"web{n}"}) for n in range(1, WEBS + 1)]


@pytest.fixture
def balancer(webs):
    balancer = Balancer(webs)
    try:
        yield balancer
    finally:
        balancer.close()


@contextlib.contextmanager
def watched(*machines: Machine):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Watch(machine)) for machine in machines]


def fill_up(balancer: Balancer, machine: Machine, planned: int) -> list[Response]:
    """Send more writes than the server may see, while none can end, until PgBouncer lets some wait; their answers."""
    gate = machine.server
    gate.execute("SELECT pg_advisory_lock(1)")
    try:
        with ThreadPoolExecutor(planned + WEBS) as clients:
            paths = [f"/write?number={-number}" for number in range(1, planned + WEBS + 1)]
            answers = clients.map(lambda path: balancer.request("GET", path), paths)
            try:
                wait_until(lambda: is_full(machine, planned), what="PgBouncer lets clients wait")
            finally:
                gate.execute("SELECT pg_advisory_unlock(1)")
            return list(answers)
    finally:
        gate.execute("SELECT pg_advisory_unlock_all()")


def is_full(machine: Machine, planned: int) -> bool:
    pools = machine.bouncer.admin("SHOW POOLS")
    return any(pool["sv_active"] == planned and pool["cl_waiting"] for pool in pools)


def answered_by(requests) -> Counter:
    return Counter(request.text.split()[0] for request in requests if request.succeeded)


def all_webs_answered(traffic: Traffic, kind: str, times: int, since: float = 0.0) -> bool:
    counted = answered_by(traffic.of(kind, since))
    return len(counted) == WEBS and min(counted.values()) >= times


def longest_without(requests) -> float:
    """The longest time between two successes."""
    ends = sorted(request.ended for request in requests if request.succeeded)
    return max(later - earlier for earlier, later in itertools.pairwise(ends))


def test_a_fleet_survives_the_loss_of_its_primary(machines, webs, balancer, capsys):
    primary, standby = machines
    planned = planned_connections()
    children = [web.children() for web in webs]
    with watched(primary, standby) as (at_primary, at_standby):
        # More than the server may see: the rest waits in PgBouncer, and is served.
        assert [answer.text for answer in fill_up(balancer, primary, planned) if answer.status != 200] == []
        with Traffic(balancer.host, balancer.port, writers=6, readers=6) as traffic:
            wait_until(lambda: all_webs_answered(traffic, "write", 10), what="all web servers write")
            wait_until(lambda: all_webs_answered(traffic, "read", 10), what="all web servers read")

            killed = time.monotonic()
            primary.kill()
            wait_until(
                lambda: sum(not request.succeeded for request in traffic.of("write", killed)) >= 3, what="writes fail"
            )
            wait_until(lambda: all_webs_answered(traffic, "read", 5, killed), what="reads go on")
            begun = time.monotonic()
            standby.promote()
            promoted = time.monotonic()
            wait_until(lambda: all_webs_answered(traffic, "write", 10, promoted), what="all web servers write again")
            wait_until(lambda: all_webs_answered(traffic, "read", 10, promoted), what="all web servers still read")

    assert [web.children() for web in webs] == children, "no web server was restarted"
    failed_reads = [request for request in traffic.of("read") if not request.succeeded]
    assert failed_reads == []
    acknowledged = {request.number for request in traffic.of("write") if request.succeeded}
    stored = {number for (number,) in standby.server.execute("SELECT number FROM public.written")}
    later = {request.number for request in traffic.of("write", promoted) if request.succeeded}
    assert later <= stored

    # Old server connections are on their way out while new ones come: RECONNECT, and the server's own pace.
    handover = (begun, promoted + 5.0)
    writes, reads = traffic.of("write"), traffic.of("read")
    with capsys.disabled():
        print(
            f"\nfleet: {WEBS} web servers, {len(writes)} writes and {len(reads)} reads sent, "
            f"{sum(not w.succeeded for w in writes)} writes and {len(failed_reads)} reads failed, "
            f"{longest_without(writes):.1f} s without writes (the standby was promoted {promoted - killed:.1f} s after "
            f"the loss), "
            f"{len(acknowledged - stored)} acknowledged writes lost with the primary; at most "
            f"{at_primary.most('clients')} and {at_standby.most('clients')} clients at PgBouncer "
            f"(planned {2 * WEBS * POOL}), {at_primary.most('backends')} and {at_standby.most('backends')} connections "
            f"at the servers (planned {planned})"
        )
    assert at_primary.most("lent") == at_primary.most("backends") == planned
    assert at_standby.most("lent") <= planned
    assert at_standby.most("backends", but=handover) <= planned
    assert at_standby.most("backends") <= 2 * planned
    for watch in (at_primary, at_standby):
        assert watch.most("clients") <= 2 * WEBS * POOL


def test_the_readers_page_reads_from_the_standby_until_it_is_the_primary(httpd, machines):
    primary, standby = machines
    make_rows(primary.server)
    with password_file() as passfile:
        site = httpd(site=EXAMPLES, env=web_environment(machines, passfile))
        reading = '<td id="reader-role">standby</td>'
        wait_until(lambda: reading in site.get("/readers").text, what="the rows arrive at the standby")
        assert '<td id="default-role">primary</td>' in site.get("/readers").text
        primary.kill()
        standby.promote()
        promoted = '<td id="default-role">primary</td>'
        wait_until(lambda: promoted in site.get("/readers").text, what="the site has a primary again")
        promoted = '<td id="reader-role">primary</td>'
        wait_until(lambda: promoted in site.get("/readers").text, what="and reads from it")
        assert site.post("/guestbook", {"author": "Ada", "message": "after the failover"}).status == 303
        assert standby.server.execute("SELECT author FROM demo.note") == [("Ada",)]
