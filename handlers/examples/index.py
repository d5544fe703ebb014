"""The first page: what the site holds, and what each page is there to show."""

import layout
from markup import Html, each, fill, rows

PAGES = (
    ("/countries", "Countries", "A list, a search and a page for each country: functions, and SQL with parameters."),
    ("/languages?q=sign", "Languages", "Thousands of rows, searched in the database and shown fifty at a time."),
    ("/currencies", "Currencies", "The shortest page: one query, one table, and nothing else to care for."),
    ("/guestbook", "Guest book", "A form that writes: checks, one INSERT, and a redirect after the POST."),
    ("/accounts", "Accounts", "A class with a method for GET and one for POST; a transfer that is one transaction."),
    ("/naive", "Naive", "The page of 2006: a connection at module level that knows nothing of reloading."),
    ("/carried", "Carried", "A pool at module level and two imported hooks: it lives on when the page is edited."),
    ("/backends", "Backends", "The connections that this site has open, as PostgreSQL sees them. Keep it in view."),
    ("/readers", "Readers", "Two pools by name: one writes, one reads, from a standby where there is one."),
)

COUNTS = """
SELECT (SELECT count(*) FROM demo.country) AS countries,
       (SELECT count(*) FROM demo.subdivision) AS subdivisions,
       (SELECT count(*) FROM demo.language) AS languages,
       (SELECT count(*) FROM demo.currency) AS currencies
"""

BODY = """
<p class="lead">Every page here is a Python function in a file of its own, run by Apache and mod_python, over a pool
of PostgreSQL connections. Change a file while the site runs: the next request runs the new code, over the same
connections.</p>
<ul class="tiles" aria-label="What is in the database">
<li><a href="/countries"><b>$countries</b> countries</a></li>
<li><a href="/countries"><b>$subdivisions</b> subdivisions</a></li>
<li><a href="/languages"><b>$languages</b> languages</a></li>
<li><a href="/currencies"><b>$currencies</b> currencies</a></li>
</ul>
<h2>The pages, and what each one shows</h2>
<ul class="cards">$cards</ul>
<h2>A page</h2>
<p>This is all it takes. Save it beside the others as <code>$directory/hello.py</code> and open
<a href="/hello">/hello</a>: nothing is restarted, and <code>conn</code> is a connection of the pool, inside a
transaction that is committed when the function returns.</p>
<pre><code>def index(req, conn, name="world"):
    with conn.cursor() as cur:
        cur.execute("SELECT now()")
        return f"Hello, {name}: it is {cur.fetchone()[0]:%H:%M}"</code></pre>
<p class="quiet">The rows are those of Debian's package <a
href="https://salsa.debian.org/iso-codes-team/iso-codes">iso-codes</a>: ISO 3166, ISO 4217 and ISO 639.</p>
"""


def index(req, conn):
    """`/`: the way to all other pages."""
    with conn.cursor() as cur:
        cur.execute(COUNTS)
        counts = {name: f"{number:,}" for name, number in rows(cur)[0].items()}
    cards = each(
        '<li><a href="$address">$name</a><p>$about</p></li>',
        ({"address": address, "name": name, "about": about} for address, name, about in PAGES),
    )
    return layout.page(
        req,
        globals(),
        conn,
        title="The world's codes, out of a pool",
        body=fill(BODY, cards=cards, directory=layout.source(globals()).partition("/")[0], **counts),
        shows="Four counts in one query, over a connection that the request has leased.",
        edit=Html(
            "Any of the files. Change the accent colour in <code>examples/style.py</code>, or a sentence in "
            "<code>examples/index.py</code>; then break one on purpose, and save it."
        ),
        watch=Html(
            "The line at the bottom. The page's number goes up at each edit; <b>PostgreSQL</b> goes on with the same "
            "backend. A file that does not compile changes nothing: the last good code goes on serving, and the log "
            "says why."
        ),
    )
