"""The command line: one parser, a subcommand per task, one line per error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mpool.tools import serve
from mpool.tools.errors import ToolError


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="mpool",
        description="PostgreSQL under Apache's mod_python: run a site and look after it.",
        epilog="Each command has its own --help, with an example.",
    )
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    serve.add_parser(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status: 0, 1 if it failed or found something, 2 for wrong usage."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except ToolError as error:
        print(f"mpool {arguments.command}: {error}", file=sys.stderr)
        return 1
    return status
