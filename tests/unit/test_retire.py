"""When a retired instance has drained: what it waits for, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from importer_site import Site
from servers.base import wait_until

from handlers.reload import retire
from handlers.reload.context import Call, entered


def request_on_an_old_instance(site: Site, later: Callable[..., object] = retire.run_later) -> Call:
    """Under way, and it has imported what is retired now; nobody but the caller holds it."""
    site.importer.retirement._later = later
    site.write("page.py", "x = 1")
    call = Call(handler_root=str(site.root))
    site.importer.retirement.begin(call.imports)
    with entered(call):
        found = site.importer.find("page", call, None, [str(site.root)])
        assert found is not None
        site.importer.obtain(found, call, None)
    site.write("page.py", "x = 2")
    assert site.load().x == 2
    site.drain()
    assert site.importer.retirement.pending
    return call


def wait_for_drain(site: Site) -> None:
    wait_until(lambda: not site.importer.retirement.pending, what="it has drained")


def test_a_request_ends_with_the_last_reference_to_what_it_has_imported(site: Site) -> None:
    call = request_on_an_old_instance(site)
    del call
    wait_for_drain(site)


def test_a_request_whose_object_is_kept_is_waited_for_no_longer_than_patience(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = request_on_an_old_instance(site)
    monkeypatch.setattr(retire, "PATIENCE", 0.0)
    wait_for_drain(site)
    assert call.imports.infos


def test_a_request_that_a_handler_runs_for_is_waited_for_however_long_it_takes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = request_on_an_old_instance(site)
    looked = threading.Semaphore(0)
    with entered(call):
        monkeypatch.setattr(retire, "PATIENCE", 0.0)
        step = site.importer.retirement.step
        monkeypatch.setattr(site.importer.retirement, "step", lambda: (step(), looked.release()))
        assert looked.acquire(timeout=60) and looked.acquire(timeout=60)
        assert site.importer.retirement.pending
    wait_for_drain(site)


def test_one_look_follows_another_however_many_instances_wait(site: Site) -> None:
    due: list[float] = []
    call = request_on_an_old_instance(site, lambda delay, step: due.append(delay))
    for version in range(3):
        site.write("page.py", f"x = {version + 3}")
        with site.request() as request:
            request.load()
            site.drain()
    assert [delay for delay in due if delay] == [retire.POLL]
    site.importer.retirement._poll()
    assert [delay for delay in due if delay] == [retire.POLL] * 2
    assert call.imports.infos
