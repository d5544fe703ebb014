"""The one exception by which the parts of the publisher refuse a request."""

from __future__ import annotations

from collections.abc import Mapping


class HttpError(Exception):
    """End this request with *status*; pages may raise it too.

    *message* is for the client (a field's name, what was expected of it) and must say nothing of the inside; without
    one, Apache's own page for that status is sent, or the site's ErrorDocument. *reason* is for the log alone.
    """

    def __init__(
        self, status: int, message: str = "", *, headers: Mapping[str, str] | None = None, reason: str = ""
    ) -> None:
        super().__init__(status, message or reason)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.reason = reason


class Undecidable(Exception):
    """Who may call an object cannot be told for certain; it is not served."""
