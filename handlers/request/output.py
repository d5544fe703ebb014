"""A short answer goes into Apache's buffer without giving up the interpreter's lock.

`req.write` gives it up, in case the client is slow, and has to have it back: under load that is a good part of what a
page costs. But the first write of a request does no more than copy, where it fits into one buffer (httpd's
`ap_rwrite`, APR's `apr_brigade_write`); no filter and no client sees any of it before the handler has ended.
"""

from __future__ import annotations

import ctypes
from typing import Any

#: APR_BUCKET_BUFF_SIZE: bytes that fit into one buffer.
BUFFER = 8000

_SENT = "mpool_sent"


def _function(library: Any, name: str, arguments: list[Any], result: Any) -> Any:
    """A function of C, called with the interpreter's lock held; None where there is none of that name."""
    function = getattr(library, name, None)
    if function is not None:
        function.argtypes, function.restype = arguments, result
    return function


# Inside Apache, httpd's own functions are among those of this process.
_rwrite = _function(ctypes.PyDLL(None), "ap_rwrite", [ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p], ctypes.c_int)
_pointer = _function(ctypes.PyDLL(None), "PyCapsule_GetPointer", [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p)


def write(req: Any, body: bytes) -> None:
    """As ``req.write(body, 0)``: Apache sends it when the handler has ended, or the buffer is full.

    OSError where the client has gone.
    """
    record = None
    # A subrequest's way out leads through the filters of its main request.
    if _rwrite is not None and len(body) <= BUFFER and req.main is None and not has_sent(req):
        # mod_python has it for such calls, and promises nothing. (Changes from 3.2.10, MODPYTHON-170)
        record = getattr(req, "_request_rec", None)
    if record is None:
        req.write(body, 0)
        return
    setattr(req, _SENT, True)
    if _rwrite(body, len(body), _pointer(record, None)) < 0:
        raise OSError("Write failed, client closed connection.")


def has_sent(req: Any) -> bool:
    """Has any part of the answer left for the client?"""
    return bool(req._bytes_queued or req.bytes_sent or getattr(req, _SENT, False))
