"""The site's connections as PostgreSQL sees them, and this process's pool as it sees itself."""

import layout
from markup import Html, each, fill, rows
from mpool import get_pool

# Without superuser rights a role sees the details of its own sessions only,
# which are the ones that matter here.
ACTIVITY = """
SELECT pid, application_name, state,
       to_char(backend_start AT TIME ZONE 'UTC', 'HH24:MI:SS') AS since,
       floor(extract(epoch FROM clock_timestamp() - backend_start))::int AS age,
       pid = pg_backend_pid() AS mine
FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND backend_type = 'client backend'
ORDER BY backend_start, pid
"""

ROW = """<tr$class><td><b>$pid</b></td><td><span class="code">$application_name</span></td><td>$state</td>
<td>$since</td><td>$age s</td></tr>
"""

TILES = """<ul class="tiles" aria-label="This process's pool">
<li><span class="tile"><b>$pool_size</b> open in this process's pool</span></li>
<li><span class="tile"><b>$pool_max</b> at most</span></li>
<li><span class="tile"><b>$pool_available</b> idle now</span></li>
<li><span class="tile"><b>$requests_num</b> leases so far</span></li>
</ul>
"""

# Figures that a pool leaves out as long as they are nought.
NOUGHT = {"pool_size": 0, "pool_max": 0, "pool_available": 0, "requests_num": 0}


def index(req, conn, every: int = 0):
    """`/backends?every=2`: the open connections, asked for again every 2 seconds."""
    seconds = every if 1 <= every <= 60 else None
    with conn.cursor() as cur:
        cur.execute(ACTIVITY)
        found = rows(cur)
    for backend in found:
        backend["class"] = Html(' class="mine"' if backend["mine"] else "")
        backend["application_name"] = backend["application_name"] or "(none)"
    table = layout.table(
        f"{layout.counted(len(found), 'connection', 'connections')}; this request's is marked",
        ("Backend", "Application name", "State", "Connected at (UTC)", "Age"),
        each(ROW, found),
    )
    switch = (
        Html('<p><a href="/backends">Stop asking again</a></p>')
        if seconds
        else Html('<p><a href="/backends?every=2">Ask again every two seconds</a></p>')
    )
    return layout.page(
        req,
        globals(),
        conn,
        title="Backends",
        body=fill(TILES, **(NOUGHT | get_pool().get_stats())) + switch + table,
        refresh=seconds,
        shows=Html(
            "<code>pg_stat_activity</code>. Each connection of a pool carries the pool's process, interpreter and name "
            "in its <code>application_name</code>."
        ),
        edit="Any page, while this one asks again every two seconds in another window.",
        watch=Html(
            'The pool\'s connections stay and grow older. Open <a href="/naive">Naive</a>, edit its file and open it '
            "again: one connection comes, the old one goes."
        ),
    )
