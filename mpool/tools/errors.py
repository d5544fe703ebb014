"""What ends a command."""

from __future__ import annotations


class ToolError(Exception):
    """The command cannot go on: one line that says why and what to do; exit status 1."""
