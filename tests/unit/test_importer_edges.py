"""Files and modules such as only their authors understand: what becomes of the requests that meet them."""

from __future__ import annotations

import inspect
import io
import os
import sys
from pathlib import Path

import pytest
from importer_site import Site

from handlers.reload import files


def test_a_function_that_outlives_its_module_still_finds_what_it_imports(site: Site) -> None:
    """In a callback of other code's: its module has been replaced, has drained, and has been let go."""
    site.write("lib/util.py", "x = 'lib'")
    site.write("beside.py", "x = 'beside'")
    path = str(site.write("page.py", "def f():\n    import util, beside\n    return util.x, beside.x"))
    with site.request() as request:
        callback = request.load(path, path=[str(site.root / "lib")]).f
    site.write("page.py", "x = 2")
    site.load(path)
    site.drain()
    assert not site.importer.retirement.pending
    assert callback() == ("lib", "beside")


def test_a_module_that_has_deleted_its_names_is_reloaded_and_purged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.write(
        "page.py",
        "def __mp_clone__(new): raise OSError('clone')\n"
        "def __mp_purge__(): raise OSError('purge')\n"
        "del __file__, __name__\n",
    )
    site.load("~/page.py")
    site.write("page.py", "x = 2")
    assert site.load("~/page.py").x == 2
    site.drain()
    errors = [record.getMessage() for record in caplog.records]
    assert [error.split()[0] for error in errors] == ["__mp_clone__", "__mp_purge__"]


def test_a_page_called_like_a_built_in_module_does_not_hide_it_from_the_pages_beside_it(site: Site) -> None:
    for name in ("time", "sys", "json"):
        site.write(f"{name}.py", "x = 'of the site'")
    site.write("page.py", "import time, sys, json")
    page = site.load()
    assert page.time.time and page.sys is sys
    assert page.json.x == "of the site", "Python's own is no built-in one, and what is beside a page comes first"
    assert site.load("time").x == "of the site"


def test_a_child_that_cannot_be_looked_at_any_more_keeps_its_parent_serving(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.write("page.py", "import util")
    path = site.write("util.py", "x = 1")
    good = site.load()
    path.unlink()
    path.symlink_to(path)  # Too many levels of symbolic links
    for _ in range(3):
        assert site.load() is good
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    path.unlink()
    site.write("util.py", "x = 2")
    assert site.load().util.x == 2


def test_a_file_that_could_not_be_read_is_taken_over_as_soon_as_it_can_be(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write("page.py", "x = 1")
    good = site.load()
    path = site.write("page.py", "x = 2")

    def refuse(name: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(files, "open", refuse, raising=False)
    assert site.load() is good
    monkeypatch.delattr(files, "open")
    path.chmod(0o600)
    os.utime(path)
    assert site.load().x == 2


def test_a_directory_that_is_swapped_is_seen(site: Site) -> None:
    for number, directory in enumerate(("current", "next")):
        site.write(f"{directory}/page.py", "import util\nx = util.x")
        site.write(f"{directory}/util.py", f"x = {number}")
    assert site.load("~/current/page.py").x == 0
    (site.root / "current").rename(site.root / "last")
    (site.root / "next").rename(site.root / "current")
    assert site.load("~/current/page.py").x == 1


def test_a_symlink_to_a_directory_that_is_pointed_elsewhere_is_seen(site: Site) -> None:
    for number in (1, 2):
        site.write(f"release_{number}/page.py", "import util\nx = util.x")
        site.write(f"release_{number}/util.py", f"x = {number}")
    current = site.root / "current"
    current.symlink_to("release_1")
    assert site.load("~/current/page.py").x == 1
    (site.root / "fresh").symlink_to("release_2")
    os.replace(site.root / "fresh", current)
    assert site.load("~/current/page.py").x == 2


@pytest.mark.parametrize("become", [os.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_a_file_that_becomes_something_else_is_a_removed_one(site: Site, become) -> None:
    site.write("page.py", "import util")
    pages = [site.write("util.py", "x = 1"), site.write("alone.py", "")]
    good = site.load()
    site.load("alone")
    for path in pages:
        path.unlink()
        become(path)
    assert site.load() is good
    with pytest.raises(ModuleNotFoundError):
        site.load("alone")


@pytest.mark.parametrize(
    "source",
    [
        b"\xef\xbb\xbfx = '\xc3\xa4'\n",
        b"# -*- coding: latin-1 -*-\nx = '\xe4'\n",
        b"#!/usr/bin/python\n# vim: set fileencoding=latin-1 :\nx = '\xe4'\nfrom handlers.base import __mp_clone__\n",
    ],
    ids=["byte order mark", "latin-1", "the stock hook"],
)
def test_a_source_is_read_in_the_encoding_that_it_declares(site: Site, source: bytes) -> None:
    path = site.write("page.py", "x = 1")
    site.load()
    path.write_bytes(source)
    assert site.load().x == "ä"


@pytest.mark.parametrize(
    "source",
    [b"x = '\xe4'", b"# coding: nonsense\n", b"\xff\xfex\0", b"x = '\0'"],
    ids=["not utf-8", "no such encoding", "utf-16", "null byte"],
)
def test_a_source_that_cannot_be_decoded_is_a_broken_edit(site: Site, source: bytes) -> None:
    path = site.write("page.py", "x = 1")
    good = site.load()
    path.write_bytes(source)
    assert site.load() is good
    site.write("page.py", "x = 2")
    assert site.load().x == 2


@pytest.mark.parametrize(
    ("how", "when"),
    [
        ("appended to", "before it is read"),
        ("appended to", "after it was read"),
        ("written anew", "before it is read"),
        ("written anew", "after it was read"),
        ("replaced", "before it is opened"),
    ],
)
def test_a_file_that_changes_while_it_is_read_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, when: str
) -> None:
    path = tmp_path / "page.py"
    path.write_text("x = 1")
    monkeypatch.setattr(files, "QUIET", 0)
    assert files.read(str(path))[0] == b"x = 1"

    def change() -> None:
        fresh = path if how == "written anew" else tmp_path / "fresh"
        if how == "appended to":
            with open(path, "a") as file:
                file.write("1")
        else:
            fresh.write_text("x = 2")
            os.utime(fresh, ns=(1, 1))  # another one, though the clock has not moved on
            fresh.rename(path)

    class Opened(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            if when == "before it is read":
                change()
            data = super().read(size)
            if when == "after it was read":
                change()
            return data

    def open_late(name: str, mode: str) -> Opened:
        if when == "before it is opened":
            change()
        return Opened(name, mode)

    monkeypatch.setattr(files, "open", open_late, raising=False)
    with pytest.raises(files.Unfinished):
        files.read(str(path))


def test_an_error_that_has_no_text_keeps_the_last_good_one_serving(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.write("page.py", "x = 1")
    good = site.load()
    site.write("page.py", "class Silent(Exception):\n    def __str__(self): return None\nraise Silent")
    assert site.load() is good
    assert "its text cannot be had" in caplog.text


def test_a_cycle_of_from_imports_fails_as_in_python_and_can_be_mended(site: Site) -> None:
    site.write("a.py", "from b import y\nx = 1")
    site.write("b.py", "from a import x\ny = 1")
    with pytest.raises(ImportError, match="cannot import name 'x'"):
        site.load("a")
    site.write("b.py", "y = 1")
    assert site.load("a").x == 1


def test_a_chain_that_is_too_deep_is_an_error_and_no_more(site: Site) -> None:
    """At whatever call the limit is reached: no load may be left behind that others would wait for."""
    last = 60
    for number in range(last):
        site.write(f"deep_{number}.py", f"import deep_{number + 1}")
    site.write(f"deep_{last}.py", "x = 1")
    loads = site.importer.loader.loads
    limit = sys.getrecursionlimit()
    for more in range(12):
        sys.setrecursionlimit(len(inspect.stack(0)) + 250 + more)
        try:
            with pytest.raises(RecursionError):
                site.load("deep_0")
        finally:
            sys.setrecursionlimit(limit)
        assert not loads._loads and not loads._waiting
    assert site.load("deep_0").deep_1


def test_imports_of_executed_text_are_those_of_its_namespace(site: Site) -> None:
    site.write("beside.py", "x = 1")
    site.write(
        "page.py",
        "exec('import beside')\ntry:\n    exec('import beside', {})\nexcept ModuleNotFoundError as error:\n"
        "    missing = error.name",
    )
    page = site.load()
    assert page.beside.x == 1 and page.missing == "beside"


def test_a_module_taken_out_of_sys_modules_is_not_executed_again_for_it(site: Site) -> None:
    site.write("page.py", "x = 1")
    module = site.load()
    del sys.modules[module.__name__]
    assert site.load() is module
    site.write("page.py", "x = 2")
    assert sys.modules[site.load().__name__].x == 2


def test_a_thread_that_imports_the_module_that_has_started_it_waits_for_it(site: Site) -> None:
    site.write(
        "page.py",
        "import threading\nseen = []\n"
        "def look():\n    import page\n    seen.append(page.last)\n"
        "thread = threading.Thread(target=look)\nthread.start()\nlast = 1\n",
    )
    page = site.load()
    page.thread.join(60)
    assert page.seen == [1]
