"""What a filter is given in the place of mod_python's filter object.

The mod_python of Debian bookworm passes on what `write` is given without holding a reference to it. Once the filter's
own is gone, which is at the end of the call for most, whatever lies there next is sent: other text of the process, to a
stranger. Later versions copy it.
"""

from __future__ import annotations

from typing import Any


class Filter:
    """mod_python's filter object, with what it was given to write: for one run, whose end has passed that on."""

    __slots__ = ("_filter", "_written")

    def __init__(self, fltr: Any) -> None:
        object.__setattr__(self, "_filter", fltr)
        object.__setattr__(self, "_written", [])

    def write(self, data: str | bytes) -> None:
        self._written.append(data)
        self._filter.write(data)

    def flush(self) -> None:
        self._filter.flush()
        self._written.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filter, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._filter, name, value)
