"""A page with a pool of its own, which lives on when the page is edited.

The two imported hooks are all it takes: at a reload they hand over what has
to live on (pools, connections and locks, and the names in `__mp_keep__`), and
the guard sees that it is there already.
"""

import time

import layout
import settings
from handlers.base import __mp_clone__, __mp_purge__
from markup import Html, fill, rows
from mpool import ConnectionPool

__mp_keep__ = ("opened",)

if "pool" not in globals():
    pool = ConnectionPool(settings.conninfo(), name="carried", max_size=2)
    opened = time.time()

BACKEND = """
SELECT pid, to_char(backend_start AT TIME ZONE 'UTC', 'HH24:MI:SS "UTC"') AS since
FROM pg_stat_activity WHERE pid = pg_backend_pid()
"""

BODY = """<p class="lead">This module has a pool of its own, for at most two connections, and hands it to its
successor each time it is edited.</p>
<ul class="tiles" aria-label="What was carried over">
<li><span class="tile"><b id="age">$age s</b> since this process made the pool</span></li>
<li><span class="tile"><b>$pid</b> is the backend, connected at $since</span></li>
<li><span class="tile"><b>$size</b> open in the pool, of two at most</span></li>
</ul>
<h2>The whole trick</h2>
<pre><code>from handlers.base import __mp_clone__, __mp_purge__
from mpool import ConnectionPool

if "pool" not in globals():
    pool = ConnectionPool(settings.conninfo(), name="carried", max_size=2)</code></pre>
<p>Most pages need none of this: take <code>conn</code> as an argument, and the pool is not even in your file.</p>"""


def index(req):
    """`/carried`: a lease from the page's own pool for as long as the page is built."""
    with pool.connection() as conn:
        with conn.cursor() as cur:
            cur.execute(BACKEND)
            backend = rows(cur)[0]
        return layout.page(
            req,
            globals(),
            conn,
            title="Carried over",
            body=fill(BODY, age=int(time.time() - opened), size=pool.get_stats()["pool_size"], **backend),
            shows=Html(
                "<code>__mp_clone__</code> and <code>__mp_purge__</code>, the reload hooks of mod_python 3.3: what "
                "is expensive is made once and handed on."
            ),
            edit=Html("<code>BODY</code> in <code>examples/carried.py</code>, as often as you like."),
            watch=Html(
                "The number of loads goes up; the backend, its start and the age of the pool stay. Then take the "
                "line with the hooks away. The old code has them still and hands over once more; from the next edit "
                "on there is a new pool each time."
            ),
        )
