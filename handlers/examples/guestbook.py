"""A guest book: a form that is checked, written and answered with a redirect."""

import layout
from markup import Html, each, fill, rows

AUTHOR_LENGTH = 60  # as in schema.sql, which has the last word
MESSAGE_LENGTH = 500

NOTES = """
SELECT n.id, n.author, n.message, n.country, c.name AS country_name, c.flag,
       to_char(n.written AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') AS written
FROM demo.note n LEFT JOIN demo.country c ON c.alpha_2 = n.country
ORDER BY n.id DESC LIMIT 50
"""

COUNTRIES = "SELECT alpha_2, name FROM demo.country ORDER BY name"

# What is not a country's code becomes NULL, in the statement that writes it.
WRITE = """
INSERT INTO demo.note (author, message, country)
VALUES (%(author)s, %(message)s, (SELECT alpha_2 FROM demo.country WHERE alpha_2 = %(country)s))
"""

FORM = """$notice
<form class="form" method="post" action="/guestbook">
<div><label for="author">Your name</label>
<input id="author" name="author" required maxlength="$author_length" value="$author" autocomplete="name"></div>
<div><label for="country">A country you like (optional)</label>
<select id="country" name="country"><option value="">none</option>$options</select></div>
<div class="wide"><label for="message">Message</label>
<textarea id="message" name="message" rows="3" required maxlength="$message_length">$message</textarea></div>
<button>Sign the guest book</button>
</form>
"""

NOTE = """<li id="note-$id"><p>$message</p><span class="quiet"><b>$author</b>, $written $link</span></li>
"""


def index(req, conn, author: str = "", message: str = "", country: str = "", signed: bool = False):
    """`/guestbook`: GET shows the book, POST writes into it and sends the browser back here."""
    entry = {
        "author": layout.text(author),
        "message": layout.text(message).replace("\r\n", "\n"),
        "country": layout.text(country).upper(),
    }
    if req.method != "POST":
        notice = Html('<p class="done" role="status">Thank you: it is written.</p>' if signed else "")
        return _show(req, conn, entry, notice)
    if layout.is_foreign(req):
        return layout.problem(req, globals(), conn, 403, "Not from here", "The form was sent by another site's page.")
    fault = _fault(entry)
    if fault:
        req.status = 422
        return _show(req, conn, entry, fill('<p class="error" role="alert">$fault</p>', fault=fault))
    with conn.cursor() as cur:
        cur.execute(WRITE, entry)
    return layout.see_other("/guestbook?signed=1")


def _fault(entry):
    """What is wrong with *entry*, in words for its author; None if nothing is."""
    if not entry["author"]:
        return "Please give a name."
    if len(entry["author"]) > AUTHOR_LENGTH:
        return f"The name is longer than {AUTHOR_LENGTH} characters."
    if not entry["message"]:
        return "Please write a message."
    if len(entry["message"]) > MESSAGE_LENGTH:
        return f"The message is longer than {MESSAGE_LENGTH} characters."
    return None


def _show(req, conn, entry, notice):
    """The form with what was typed, and the latest notes under it."""
    with conn.cursor() as cur:
        cur.execute(NOTES)
        notes = each(
            NOTE, (n | {"link": layout.country_link(n["country"], n["flag"], n["country_name"])} for n in rows(cur))
        )
        cur.execute(COUNTRIES)
        options = each(
            '<option value="$alpha_2"$selected>$name</option>',
            (c | {"selected": Html(" selected" if c["alpha_2"] == entry["country"] else "")} for c in rows(cur)),
        )
    form = fill(
        FORM,
        notice=notice,
        author=entry["author"],
        message=entry["message"],
        options=options,
        author_length=AUTHOR_LENGTH,
        message_length=MESSAGE_LENGTH,
    )
    nothing = Html('<p class="quiet">Nobody has written anything yet.</p>')
    return layout.page(
        req,
        globals(),
        conn,
        title="Guest book",
        body=form + (fill('<ul class="notes">$notes</ul>', notes=notes) if notes else nothing),
        shows=Html(
            "Writing. Form fields are arguments like those of a query. The INSERT is committed before the answer is "
            "sent, and the answer to a POST is a redirect: reloading the page writes nothing twice."
        ),
        edit=Html(
            "<code>MESSAGE_LENGTH</code> in <code>examples/guestbook.py</code>. Or raise an exception after the "
            "<code>INSERT</code>, and sign."
        ),
        watch="With the exception the answer is a 500 and the book is as before: the transaction was rolled back.",
    )
