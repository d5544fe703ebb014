"""What all pages share: the frame around them, and the answers that are no page.

Edit this file and every page that imports it is loaded again, because the
importer knows who imports whom.
"""

import os
import threading
import unicodedata

import style
from handlers.publisher import Response
from markup import Html, each, fill

__all__ = []  # nothing in this file is a page

SITE = "Codes of the world"

NAVIGATION = (
    ("/countries", "Countries"),
    ("/languages", "Languages"),
    ("/currencies", "Currencies"),
    ("/guestbook", "Guest book"),
    ("/accounts", "Accounts"),
    ("/naive", "Naive"),
    ("/carried", "Carried"),
    ("/backends", "Backends"),
    ("/readers", "Readers"),
)

FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
$refresh
<title>$title · $site</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle \
cx='8' cy='8' r='7' fill='%230b6e69'/%3E%3Cpath d='M1 8h14M8 1c-5 4-5 10 0 14M8 1c5 4 5 10 0 14' stroke='white' \
fill='none'/%3E%3C/svg%3E">
<link rel="stylesheet" href="/style?v=$version">
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header class="top">
<div class="wrap">
<a class="brand" href="/"><svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="7"/>\
<path d="M1 8h14M8 1c-5 4-5 10 0 14M8 1c5 4 5 10 0 14"/></svg>$site</a>
<nav aria-label="Pages"><ul>$navigation</ul></nav>
</div>
</header>
<div class="wrap columns">
<main id="main">
<h1>$heading</h1>
$body
</main>
<aside aria-labelledby="try">
<h2 id="try">Try it</h2>
<dl>
<dt>What this page shows</dt><dd>$shows</dd>
<dt>Edit</dt><dd>$edit</dd>
<dt>Watch</dt><dd>$watch</dd>
</dl>
</aside>
</div>
<footer>
<div class="wrap">
<h2>How this answer was made</h2>
<ol class="chain">$chain</ol>
</div>
</footer>
</body>
</html>
"""

LINK = '<li class="link"><span class="what">$what</span> <b id="$id">$value</b> <span class="more">$more</span></li>'


def page(req, module, conn, *, title, body, shows, edit, watch, heading=None, refresh=None):
    """The whole answer: *body* in the site's frame.

    *module* is the page's `globals()` and *conn* the connection it used: the
    footer tells which instance of the page answered, over which connection.
    *shows*, *edit* and *watch* are the three paragraphs beside the content,
    *heading* is the title where it has markup in it, *refresh* the seconds
    after which the browser asks again.
    """
    req.content_type = "text/html; charset=utf-8"
    # No script runs here, whatever a visitor writes into the guest book.
    req.headers_out["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    req.headers_out["Cache-Control"] = "no-store"
    answer = fill(
        FRAME,
        site=SITE,
        title=title,
        heading=heading or title,
        version=style.VERSION,
        refresh=fill('<meta http-equiv="refresh" content="$seconds">', seconds=refresh) if refresh else "",
        navigation=_navigation(req),
        body=body,
        shows=shows,
        edit=edit,
        watch=watch,
        chain=_chain(req, module, conn),
    )
    return str(answer)


def problem(req, module, conn, status, title, explanation):
    """A page that says what is wrong with the request, with that status."""
    req.status = status
    return page(
        req,
        module,
        conn,
        title=title,
        body=fill(
            '<p class="lead">$explanation</p><p><a href="/">Back to the first page</a></p>', explanation=explanation
        ),
        shows=f"An answer with the status {status}: the page function has set req.status.",
        edit=fill("The call of <code>layout.problem</code> in <code>$file</code>.", file=source(module)),
        watch="The footer: a request that finds nothing has used the pool like any other.",
    )


def see_other(address):
    """Send the browser on after a POST, so that a reload writes nothing twice."""
    return Response(303, {"Location": address})


def is_foreign(req):
    """Whether another site's page makes the browser send this form."""
    return req.headers_in.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def text(value):
    """A form's or query's value as one line or paragraph, fit for PostgreSQL.

    Surrogates and control characters go: libpq takes no NUL.
    """
    return "".join(c for c in value if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")).strip()


def search_form(action, q, label):
    """A search field that keeps what was typed."""
    return fill(
        '<form class="search" action="$action" role="search"><label for="q">$label</label>'
        '<div><input id="q" name="q" type="search" value="$q" maxlength="100"><button>Search</button></div></form>',
        action=action,
        q=q,
        label=label,
    )


def table(caption, columns, body, numbers=()):
    """A table that scrolls by itself where the window is narrow; *numbers* are the columns that align right."""
    right = Html(' class="number"')
    heads = each(
        '<th scope="col"$kind>$name</th>',
        ({"name": name, "kind": right if name in numbers else ""} for name in columns),
    )
    return fill(
        '<div class="scroll" role="region" aria-label="$caption" tabindex="0"><table><caption>$caption</caption>'
        "<thead><tr>$heads</tr></thead><tbody>$body</tbody></table></div>",
        caption=caption,
        heads=heads,
        body=body,
    )


def country_link(code, flag, name):
    """A country's name that leads to its page; nothing where *code* is none."""
    if code is None:
        return ""
    return fill(
        '<a href="/countries/show?code=$code"><span class="flag" aria-hidden="true">$flag</span> $name</a>',
        code=code,
        flag=flag,
        name=name,
    )


def counted(number, one, many):
    """'1 country', '249 countries'."""
    return f"{number:,} {one if number == 1 else many}"


def source(module):
    """The page's file as a reader looks for it: directory and name."""
    directory, name = os.path.split(module["__file__"])
    return os.path.join(os.path.basename(directory), name)


def _navigation(req):
    here = "/" + req.uri.strip("/").partition("/")[0]
    return each(
        '<li><a href="$address"$current>$name</a></li>',
        (
            {"address": address, "name": name, "current": Html(' aria-current="page"' if address == here else "")}
            for address, name in NAVIGATION
        ),
    )


def _chain(req, module, conn):
    """From Apache's process to PostgreSQL's, each with what tells it apart."""
    # The importer's record of this very instance; absent where something else loaded it.
    info = module.get("__mp_info__")
    return each(
        LINK,
        (
            {"what": "Apache child", "id": "process", "value": os.getpid(), "more": "process"},
            {"what": "Thread", "id": "thread", "value": threading.get_native_id(), "more": "of that process"},
            {"what": "Interpreter", "id": "interpreter", "value": req.interpreter, "more": "Python, inside Apache"},
            {
                "what": source(module),
                "id": "instance",
                "value": getattr(info, "instance", "-"),
                "more": "times loaded since the start",
            },
            {
                "what": "Generation",
                "id": "generation",
                "value": getattr(info, "generation", "-"),
                "more": "one more at each load of any file",
            },
            {
                "what": "PostgreSQL",
                "id": "backend",
                "value": conn.info.backend_pid,
                "more": conn.info.parameter_status("application_name") or "a connection without a name",
            },
        ),
    )
