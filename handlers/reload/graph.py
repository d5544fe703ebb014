"""Pictures of what imports what, as text for Graphviz. (reload contract, item 50)"""

from __future__ import annotations

import time
from collections.abc import Iterable

from handlers.reload.modules import ModuleCache


def graph(name: str, modules: Iterable[tuple[ModuleCache, Iterable[str]]], verbose: bool) -> str:
    """A digraph *name* of *modules*, each given with the labels of its children; *verbose* adds times and counts."""
    lines = [f"digraph {name} {{", "node [shape=box];"]
    for cache, children in modules:
        lines.append(f"{cache.label} [label={_quoted(cache.file, *(_details(cache) if verbose else ()))}];")
        lines += [f"{cache.label} -> {child}" for child in children]
    return "\n".join([*lines, "}", ""])


def _details(cache: ModuleCache) -> list[str]:
    return [
        f"mtime = {time.ctime(cache.mtime)}",
        f"ctime = {time.ctime(cache.ctime)}",
        f"atime = {time.ctime(cache.atime)}",
        f"generation = {cache.generation}, direct = {cache.direct}, indirect = {cache.indirect}",
        f"path = {cache.path}",
    ]


def _quoted(*lines: str) -> str:
    text = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return f'"{text}"'
