"""Languages: a search over thousands of rows, shown fifty at a time."""

from urllib.parse import urlencode

import layout
from markup import Html, each, fill, rows

PAGE_SIZE = 50
LAST_PAGE = 1_000_000  # of any list: what is beyond is no number for OFFSET

# The total comes with each row, so that one query is enough. An exact code
# goes first: "fi" is Finnish before it is a part of some other name.
SEARCH = """
SELECT code, alpha_2, name, scope, kind, in_639_2, count(*) OVER () AS total
FROM demo.language
WHERE strpos(search, demo.fold(%(q)s)) > 0
ORDER BY %(q)s IN (code, alpha_2) IS TRUE DESC, name
LIMIT %(limit)s OFFSET %(offset)s
"""

KINDS = {"A": "ancient", "C": "constructed", "E": "extinct", "H": "historical", "L": "living", "S": "special"}
SCOPES = {"I": "", "M": "a group of languages", "S": "a code for special cases"}

ROW = """<tr><td><span class="code">$code</span></td><td><span class="code">$alpha_2</span></td><td>$name</td>
<td>$kind</td><td>$scope</td><td>$listed</td></tr>
"""


def index(req, conn, q: str = "", page: int = 1):
    """`/languages?q=sign&page=2`: the languages of ISO 639-3 with *q* in name or code."""
    q = layout.text(q)
    number = min(max(page, 1), LAST_PAGE)
    with conn.cursor() as cur:
        cur.execute(SEARCH, {"q": q, "limit": PAGE_SIZE, "offset": (number - 1) * PAGE_SIZE})
        found = rows(cur)
    body = layout.search_form("/languages", q, "Name or code of a language")
    if found:
        total = found[0]["total"]
        first = (number - 1) * PAGE_SIZE + 1
        caption = f"{first:,} to {first + len(found) - 1:,} of {layout.counted(total, 'language', 'languages')}"
        columns = ("ISO 639-3", "639-1", "Name", "Kind", "Scope", "In 639-2")
        body += layout.table(caption, columns, each(ROW, map(_in_words, found)))
        body += _neighbours(q, number, last=-(-total // PAGE_SIZE))
    else:
        body += fill("<p>No language here for <b>$q</b>, page $number.</p>", q=q or "all", number=number)
    return layout.page(
        req,
        globals(),
        conn,
        title="Languages",
        body=body,
        shows=Html(
            "Arguments with a type: <code>def index(req, conn, q: str = &quot;&quot;, page: int = 1)</code>. What is "
            'no number never gets here: <a href="/languages?page=two">/languages?page=two</a> is a 400 that names the '
            "field. The table is paged in the database, not in Python."
        ),
        edit=Html("<code>PAGE_SIZE = 50</code> in <code>examples/languages.py</code>."),
        watch=Html("Save it while a load tool runs against this page: not one request fails."),
    )


def _in_words(language):
    return language | {
        "kind": KINDS.get(language["kind"], language["kind"]),
        "scope": SCOPES.get(language["scope"], language["scope"]),
        "listed": "yes" if language["in_639_2"] else "",
    }


def _neighbours(q, number, last):
    """Links to the page before and the page after, where there are such pages."""
    links = (("Previous", number - 1), ("Next", number + 1))
    return fill(
        '<nav class="pages" aria-label="More languages">$links</nav>',
        links=each(
            '<a href="/languages?$query">$name page</a>',
            (
                {"name": name, "query": urlencode({"q": q, "page": other})}
                for name, other in links
                if 1 <= other <= last
            ),
        ),
    )
