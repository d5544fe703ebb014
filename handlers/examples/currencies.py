"""Currencies: one query, one table."""

import layout
from markup import Html, each, rows

CURRENCIES = """
SELECT u.code, u.numeric_code, u.name, c.alpha_2 AS country, c.name AS country_name, c.flag
FROM demo.currency u LEFT JOIN demo.country c ON c.alpha_2 = left(u.code, 2)
WHERE strpos(u.search, demo.fold(%s)) > 0
ORDER BY u.name
"""

ROW = """<tr><td><span class="code">$code</span></td><td>$name</td><td><span class="code">$numeric_code</span></td>
<td>$link</td></tr>
"""


def index(req, conn, q: str = ""):
    """`/currencies`: the currencies of ISO 4217, and the country that the code names."""
    q = layout.text(q)
    with conn.cursor() as cur:
        cur.execute(CURRENCIES, (q,))
        found = rows(cur)
    for currency in found:
        currency["link"] = layout.country_link(currency["country"], currency["flag"], currency["country_name"])
    return layout.page(
        req,
        globals(),
        conn,
        title="Currencies",
        body=layout.search_form("/currencies", q, "Name or code of a currency")
        + layout.table(
            layout.counted(len(found), "currency", "currencies") + " of ISO 4217",
            ("Code", "Name", "Number", "Country"),
            each(ROW, found),
        ),
        shows="How little a page needs: no settings, no connect, no close, no commit, no import of a driver.",
        edit=Html("<code>examples/layout.py</code>: the site's name, <code>SITE</code>."),
        watch=Html(
            "This page changes, and so do all others: the importer knows which pages import <code>layout</code>, and "
            "loads them again too. Each one's number below goes up."
        ),
    )
