"""Readers: two pools by name, one that writes and one that only reads, from a standby where there is one."""

import layout
from handlers.base import connection
from markup import Html, each, rows

SERVER = """
SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END AS role,
       floor(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()))::int AS behind,
       (SELECT count(*) FROM demo.note) AS notes
"""

ROW = """<tr><td><b>$pool</b></td><td>$purpose</td><td id="$pool-role">$role</td><td>$address</td>
<td class="number">$notes</td><td>$behind</td></tr>
"""

ONE = """<p>Both pools lead to the primary: there is no standby here, or it is down. Nothing in the page has to be
different for that.</p>"""
TWO = "<p>What is read here is read on the standby, and costs the primary nothing.</p>"

CONFIGURED = """<h2>Where a pool leads</h2>
<p>A pool has a name, and what the configuration says under that name. What it says without one holds for every pool, so
where nothing is said of <code>reader</code> it leads to the same server as the others.</p>
<pre><code>PythonOption mpool.conninfo        "host=a,b dbname=site target_session_attrs=read-write"
PythonOption mpool.reader.conninfo "host=a,b dbname=site target_session_attrs=prefer-standby"</code></pre>
"""


def index(req, conn):
    """`/readers`: the same question to both pools."""
    reader = connection(req, "reader")
    servers = [
        ask(conn) | {"pool": "default", "purpose": "reads and writes"},
        ask(reader) | {"pool": "reader", "purpose": "reads only"},
    ]
    return layout.page(
        req,
        globals(),
        conn,
        title="Readers",
        body=layout.table(
            "The same question to both pools",
            ("Pool", "For", "Its server", "Reached at", "Guest book", "Last heard of the primary"),
            each(ROW, servers),
            numbers=("Guest book",),
        )
        + Html(TWO if servers[1]["role"] == "standby" else ONE)
        + Html(CONFIGURED),
        shows=Html(
            'Two pools in one request: <code>conn</code>, and <code>connection(req, "reader")</code>. Each has its own '
            "connections, its own transaction and its own limit."
        ),
        edit=Html(
            "<code>examples/countries.py</code>: have a page that only reads take its rows from "
            '<code>connection(req, "reader")</code>.'
        ),
        watch=Html(
            'Where there is a standby: sign the <a href="/guestbook">guest book</a>, and be back here at once. A '
            "standby is a moment behind, so what must see its own writing asks the primary."
        ),
    )


def ask(conn):
    """What one server says of itself, as a row of the table."""
    with conn.cursor() as cur:
        cur.execute(SERVER)
        server = rows(cur)[0]
    behind = server["behind"]
    server["behind"] = "it is the primary" if server["role"] == "primary" else f"{behind or 0} s ago"
    server["address"] = f"{conn.info.host}, port {conn.info.port}"
    return server
