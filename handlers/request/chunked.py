"""A body that comes in chunks, without its length.

mod_python's own `read` answers 411 to it: it looks for a Content-Length, and asks Apache for no more. Apache decides by
the same headers how the body is framed, but later, when the first byte is asked for. So mod_python is shown a
Content-Length, and Apache, through an input filter in between, what the client has sent.
"""

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from typing import Any

TRANSFER, LENGTH = "Transfer-Encoding", "Content-Length"

_FILTER = "handlers.chunked"


def inputfilter(fltr: Any) -> None:
    """Let Apache's own filter see the header as it came; it looks at the first call only."""
    headers = fltr.req.headers_in
    length = headers.get(LENGTH)
    if length is not None:
        headers[TRANSFER] = "chunked"
        del headers[LENGTH]
    try:
        fltr.pass_on()
    finally:
        if length is not None:
            headers[LENGTH] = length
            del headers[TRANSFER]
        fltr.disable()


def spool(req: Any, limit: int, in_memory: int, size: int) -> int | None:
    """Read the whole body by parts of *size*, and have `req.read` read what was spooled; the length of the body.

    None where it is longer than *limit*. OSError where the client does not send it to its end.
    """
    headers = req.headers_in
    req.register_input_filter(_FILTER, f"{__name__}::inputfilter")
    req.add_input_filter(_FILTER)
    body = SpooledTemporaryFile(max_size=in_memory)  # noqa: SIM115  # it lives as long as the request
    headers[LENGTH] = "1"  # not 0; mod_python reads on until there is no more
    del headers[TRANSFER]
    try:
        while part := req.read(size):
            body.write(part)
            if body.tell() > limit:
                return None
    finally:
        # Whatever Apache still does with this request is to go by what the client has sent.
        headers[TRANSFER] = "chunked"
        del headers[LENGTH]
    total = body.tell()
    body.seek(0)
    req.read, req.readline, req.readlines = body.read, body.readline, body.readlines
    return total
