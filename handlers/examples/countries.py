"""Countries: a list with a search, and a page for each of them."""

import layout
from markup import Html, each, fill, rows

# strpos, not LIKE: a percent sign or an underscore is a character like any
# other. The value is a parameter, never part of the text.
SEARCH = """
SELECT c.alpha_2, c.alpha_3, c.numeric_code, c.flag, c.name, count(s.code) AS subdivisions
FROM demo.country c LEFT JOIN demo.subdivision s ON s.country = c.alpha_2
WHERE strpos(c.search, demo.fold(%(q)s)) > 0
GROUP BY c.alpha_2
ORDER BY c.name
"""

COUNTRY = "SELECT * FROM demo.country WHERE alpha_2 = %(code)s OR alpha_3 = %(code)s"

# By ISO's own rule the first two letters of a currency are a country's code,
# so the euro belongs to none of its members.
CURRENCIES = "SELECT code, name FROM demo.currency WHERE left(code, 2) = %(code)s ORDER BY name"

SUBDIVISIONS = """
SELECT s.code, s.name, s.kind, p.name AS above
FROM demo.subdivision s LEFT JOIN demo.subdivision p ON p.code = s.parent
WHERE s.country = %(code)s
ORDER BY s.name
"""

NOTES = "SELECT author, message FROM demo.note WHERE country = %(code)s ORDER BY id DESC LIMIT 5"

ROW = """<tr><td><span class="flag" aria-hidden="true">$flag</span></td>
<td><a href="/countries/show?code=$alpha_2">$name</a></td><td><span class="code">$alpha_2</span></td>
<td><span class="code">$alpha_3</span></td><td><span class="code">$numeric_code</span></td>
<td class="number">$subdivisions</td></tr>
"""

FACTS = """<dl class="facts">
<div><dt>Two letters</dt><dd class="code">$alpha_2</dd></div>
<div><dt>Three letters</dt><dd class="code">$alpha_3</dd></div>
<div><dt>Number</dt><dd class="code">$numeric_code</dd></div>
<div><dt>Currency codes</dt><dd>$currencies</dd></div>
</dl>
"""


def index(req, conn, q: str = ""):
    """`/countries`, `/countries?q=land`: the countries whose name or code has *q* in it."""
    q = layout.text(q)
    with conn.cursor() as cur:
        cur.execute(SEARCH, {"q": q})
        found = rows(cur)
    body = layout.search_form("/countries", q, "Name or code of a country")
    if found:
        many = layout.counted(len(found), "country", "countries")
        caption = f"{many} with “{q}” in name or code" if q else f"All {many} of ISO 3166-1"
        columns = ("Flag", "Name", "Two letters", "Three", "Number", "Subdivisions")
        body += layout.table(caption, columns, each(ROW, found), numbers=("Subdivisions",))
    else:
        body += fill("<p>No country has <b>$q</b> in its name or code.</p>", q=q)
    return layout.page(
        req,
        globals(),
        conn,
        title="Countries",
        body=body,
        shows=Html(
            "A page function with a query argument: <code>def index(req, conn, q: str = &quot;&quot;)</code>. What "
            "you type reaches the database as a parameter, and the page escaped: try <code>d'i</code>, "
            "<code>%</code> or <code>&lt;script&gt;</code>."
        ),
        edit=Html("<code>ORDER BY c.name</code> in <code>examples/countries.py</code>, to <code>c.alpha_3</code>."),
        watch="The order at the next request, and the same backend below as before.",
    )


def show(req, conn, code: str = ""):
    """`/countries/show?code=FI`: one country with its subdivisions; 404 for an unknown code."""
    code = layout.text(code).upper()
    with conn.cursor() as cur:
        cur.execute(COUNTRY, {"code": code})
        found = rows(cur)
        if not found:
            return layout.problem(
                req, globals(), conn, 404, "No such country", f"ISO 3166-1 has no country with the code “{code}”."
            )
        country = found[0]
        code = country["alpha_2"]
        cur.execute(CURRENCIES, {"code": code})
        currencies = each('<span title="$name">$code</span> ', rows(cur))
        cur.execute(SUBDIVISIONS, {"code": code})
        subdivisions = rows(cur)
        cur.execute(NOTES, {"code": code})
        notes = each('<li><p>$message</p><span class="quiet">$author</span></li>', rows(cur))
    body = Html("")
    if country["official_name"]:
        body += fill('<p class="lead">$official_name</p>', **country)
    body += fill(FACTS, **(country | {"currencies": currencies or "none of its own"}))
    if subdivisions:
        body += _parts(subdivisions)
    body += fill("<h2>From the guest book</h2>")
    body += fill('<ul class="notes">$notes</ul>', notes=notes) if notes else fill('<p class="quiet">Nothing yet.</p>')
    body += fill('<p><a href="/guestbook?country=$code">Write about $name</a></p>', **(country | {"code": code}))
    return layout.page(
        req,
        globals(),
        conn,
        title=country["name"],
        heading=fill('<span class="flag" aria-hidden="true">$flag</span>$name', **country),
        body=body,
        shows=Html(
            "A second function of the same file has an address of its own: <code>/countries/show</code>. Four "
            "queries over one connection, in one transaction. A code that does not exist is a "
            '<a href="/countries/show?code=XX">404</a>.'
        ),
        edit=Html("<code>FACTS</code> in <code>examples/countries.py</code>."),
        watch=Html("This page and the list change together: they are one file, hence one module."),
    )


def _parts(subdivisions):
    """The table of a country's subdivisions, with what each is part of where there are such levels."""
    row = '<td><span class="code">$code</span></td><td>$name</td><td>$kind</td>'
    columns = ["Code", "Name", "Kind"]
    if any(part["above"] for part in subdivisions):
        row += "<td>$above</td>"
        columns.append("Part of")
    caption = layout.counted(len(subdivisions), "subdivision", "subdivisions") + " of ISO 3166-2"
    return layout.table(caption, columns, each(f"<tr>{row}</tr>\n", subdivisions))
