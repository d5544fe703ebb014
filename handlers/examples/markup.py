"""HTML that escapes by itself: a template engine of thirty lines.

>>> fill("<p>$greeting</p>", greeting="<Ada & Grace>")
'<p>&lt;Ada &amp; Grace&gt;</p>'
"""

from html import escape
from string import Template

__all__ = []  # nothing in this file is a page


class Html(str):
    """Text that is markup already."""

    # The name that the template engines have agreed on. It is looked up, not
    # the class: after a reload there are two classes called Html.
    def __html__(self):
        return self

    def __add__(self, other):
        return Html(str(self) + str(markup(other)))


def markup(value):
    """*value* as markup: escaped, unless it says that it is markup."""
    if hasattr(value, "__html__"):
        return value.__html__()
    return Html("" if value is None else escape(str(value)))


def fill(template, **values):
    """*template* with each `$name` replaced by that value's markup."""
    return Html(Template(template).substitute({name: markup(value) for name, value in values.items()}))


def each(template, rows):
    """*template* filled once for each of *rows*, which are dictionaries."""
    return Html("".join(fill(template, **row) for row in rows))


def rows(cursor):
    """What *cursor* has found, a dictionary for each row."""
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
