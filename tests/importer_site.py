"""A directory of modules and an importer, without Apache: requests are Call objects, as the dispatcher makes them."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.reload import files
from handlers.reload.context import Call, Settings, entered
from handlers.reload.importing import Importer
from handlers.reload.interpreter import statement

_clock = itertools.count(1_000_000_000)


class Site:
    """A directory of modules, an importer, and requests to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.importer = Importer()
        self.importer.retirement._later = lambda delay, step: None  # tests call step() themselves

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        # Two writes within one tick of the kernel's clock and of one length would look alike.
        os.utime(path, ns=(next(_clock), next(_clock)))
        return path

    def request(self, **settings: object) -> Request:
        return Request(self, Settings(**settings))  # type: ignore[arg-type]

    def load(self, name: str = "page", **settings: object):
        with self.request(**settings) as request:
            return request.load(name)

    def gate(self):
        """A module `gate` with two events: others say that they are `reached`, and `go` on when the test says so."""
        self.write("gate.py", "import threading\nreached, go = threading.Event(), threading.Event()")
        return self.load("gate")

    def drain(self) -> None:
        self.importer.retirement.step()


class Request:
    def __init__(self, site: Site, settings: Settings) -> None:
        self.site = site
        self.call = Call(settings=settings, handler_root=str(site.root))

    def __enter__(self) -> Request:
        self._begun = self.site.importer.retirement.begin(self.call.imports)
        return self

    def __exit__(self, *exc: object) -> None:
        self.site.importer.retirement.end(self._begun)

    def load(self, name: str = "page", path: list[str] | None = None):
        with entered(self.call):
            found = self.site.importer.find(name, self.call, None, [str(self.site.root)] if path is None else path)
            if found is None:
                raise ModuleNotFoundError(name)
            return self.site.importer.obtain(found, self.call, None, path or ()).module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(files, "QUIET", 0)
    site = Site(tmp_path)
    monkeypatch.setattr("handlers.reload.interpreter.importer", site.importer)
    monkeypatch.setattr("builtins.__import__", statement)
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        if name.startswith("_mp_"):
            del sys.modules[name]
