"""The page of 2006: one connection, made when the module is imported.

Kept as such pages were written, and as many still are. It knows of no pool
and of no hook, so each edit imports it anew and connects anew.
"""

import psycopg2

import layout
import settings
from markup import Html, each, rows

myconnection = psycopg2.connect(settings.conninfo(), application_name="naive page")
# All threads of this process share it, and so they share a transaction: after
# one request's failed statement the others would fail too.
myconnection.autocommit = True

RANDOM = """
SELECT c.flag, c.alpha_2, c.name, s.name AS place, s.kind
FROM demo.subdivision s JOIN demo.country c ON c.alpha_2 = s.country
ORDER BY random() LIMIT 5
"""

BODY = """<p class="lead">Five places by chance, over a connection that this file opened when it was imported. Stock
mod_python leaves the old connection open at each edit, and fifty edits are fifty backends.</p>"""


def index(req):
    """`/naive`: it takes no `conn`, it has its own."""
    cur = myconnection.cursor()
    cur.execute(RANDOM)
    places = rows(cur)
    for place in places:
        place["link"] = layout.country_link(place["alpha_2"], place["flag"], place["name"])
    row = "<tr><td>$place</td><td>$kind</td><td>$link</td></tr>"
    return layout.page(
        req,
        globals(),
        myconnection,
        title="Naive: the page of 2006",
        body=Html(BODY) + layout.table("Five subdivisions", ("Place", "Kind", "Country"), each(row, places)),
        shows=Html(
            "What the importer does for a page that does nothing for itself: once the last request on the old code "
            "has ended, the connection that the old code left behind is closed, and the log names it."
        ),
        edit=Html("Any line of <code>examples/naive.py</code>, several times."),
        watch=Html(
            'The backend below is a new one after each edit: compare <a href="/carried">Carried</a>. In '
            '<a href="/backends">Backends</a> the naive page still has one connection in each process, not one for '
            "each edit. And when PostgreSQL is restarted, this page fails until it is edited; the others do not."
        ),
    )
