"""What many reloads leave behind: nothing. (`make bench` does a thousand, and prints the figures.)"""

from __future__ import annotations

from servers.endurance import Endurance


def test_sixty_reloads_of_a_tree_with_connections_locks_and_threads_leave_nothing_behind(httpd, postgres) -> None:
    endurance = Endurance(httpd, postgres)
    endurance.reload(20)
    before = endurance.settle()
    endurance.reload(40)
    after = endurance.settle()
    assert after.threads <= before.threads + 1, f"{before}\n{after}"
    assert after.descriptors <= before.descriptors + 2, f"{before}\n{after}"
    # 40 reloads of 20 modules: some kB left behind by each would show.
    assert after.rss - before.rss < 12_000, f"{before}\n{after}"
    log = endurance.server.log()
    assert "other code still holds" not in log and "has not returned" not in log
