"""What the state machine of the importer has found in trees with broken or removed members, each as small as can be."""

from __future__ import annotations

import gc
import traceback
import weakref

import pytest
from importer_site import Site


def executions(site: Site, name: str) -> int:
    return next(cache.instance for cache in site.importer.caches() if cache.file == str(site.root / name))


def counted(site: Site) -> list[object]:
    """What modules of *site* append to by `import counted; counted.runs.append(...)`."""
    site.write("counted.py", "runs = []")
    runs: list[object] = site.load("counted").runs
    return runs


def test_a_broken_module_does_not_hold_back_what_others_import(site: Site) -> None:
    """Its last good instance was built on an old config; the page that imports both is executed once, with the new."""
    site.write("page.py", "import util, config\nx = config.x")
    site.write("util.py", "import config")
    site.write("config.py", "x = 1")
    site.load()
    site.write("util.py", "x = (")
    site.write("config.py", "x = 2")
    for _ in range(3):
        assert site.load().x == 2
    assert executions(site, "page.py") == 2


def test_a_broken_module_that_is_imported_first_does_not_hold_back_the_others(site: Site) -> None:
    site.write("page.py", "import config\nx = config.x")
    site.write("util.py", "import config")
    site.write("config.py", "x = 1")
    site.load("util")
    site.load()
    site.write("util.py", "x = (")
    site.write("config.py", "x = 2")
    for _ in range(3):
        with site.request() as request:
            request.load("util")
            assert request.load().x == 2
        assert site.load().x == 2
    assert executions(site, "page.py") == 2


def test_a_request_keeps_its_module_though_the_file_is_removed(site: Site) -> None:
    path = site.write("page.py", "x = 1")
    with site.request() as request:
        module = request.load()
        path.unlink()
        with pytest.raises(ModuleNotFoundError):
            site.load()
        assert request.load() is module


def test_a_failed_reload_is_tried_again_when_what_failed_below_it_is_mended(site: Site) -> None:
    """The old child went on serving and the parent failed on that; what the child's new code needs is in the tree."""
    site.write("page.py", "import util")
    site.write("util.py", "x = 1")
    site.load()
    site.write("deep.py", "x = (")
    site.write("util.py", "import deep\ny = 1")
    site.write("page.py", "from util import y")
    site.load()
    site.write("deep.py", "x = 1")
    assert site.load().y == 1


def test_a_failed_reload_is_not_tried_at_each_request_for_a_broken_grandchild(site: Site) -> None:
    runs = counted(site)
    site.write("page.py", "import util")
    site.write("util.py", "import deep")
    site.write("deep.py", "x = 1")
    site.load()
    site.write("deep.py", "x = (")
    site.write("page.py", "import util, counted\ncounted.runs.append(1)\n1 / 0")
    for _ in range(3):
        site.load()
    assert runs == [1]


def test_a_failure_that_is_kept_holds_neither_the_request_nor_the_failed_namespace(site: Site) -> None:
    class Marked:
        pass

    made = counted(site)
    site.write("page.py", "x = 1")
    site.load()
    source = "import counted, weakref\nclass C: pass\nc = C()\ncounted.runs.append(weakref.ref(c))\n"
    site.write("page.py", source + "def f(): 1 / 0\nf()\n")

    def visit() -> weakref.ref[Marked]:
        marked = Marked()
        site.load()
        return weakref.ref(marked)

    of_the_request = visit()
    site.drain()
    gc.collect()
    (failure,) = [cache.failure for cache in site.importer.caches() if cache.failure]
    assert of_the_request() is None
    assert [reference() for reference in made] == [None]
    text = "".join(traceback.format_exception(failure.error))
    assert f'"{site.root}/page.py", line 6, in <module>\n    f()' in text and "line 5, in f" in text


def test_rollback_is_given_what_a_clone_that_failed_half_way_has_moved(site: Site) -> None:
    site.write(
        "page.py",
        "pool = ['it']\n"
        "def __mp_clone__(module):\n    module.pool = globals().pop('pool')\n    raise OSError\n"
        "def __mp_rollback__(module): globals()['pool'] = module.pool\n",
    )
    old = site.load()
    site.write("page.py", "1 / 0")
    assert site.load() is old
    assert old.pool == ["it"]


def test_a_module_that_fails_is_executed_once_in_a_request_however_many_import_it(site: Site) -> None:
    runs = counted(site)
    for name in ("left", "right"):
        site.write(f"{name}.py", "try:\n    import broken\nexcept ZeroDivisionError as error:\n    seen = error")
    site.write("page.py", "import left, right")
    site.write("broken.py", "import counted\ncounted.runs.append(1)\n1 / 0")
    with site.request() as request:
        page = request.load()
        site.write("broken.py", "import counted\ncounted.runs.append(2)")
        with pytest.raises(ZeroDivisionError):
            request.load("broken")
    assert runs == [1]
    assert str(page.left.seen) == str(page.right.seen) == "division by zero"
    site.load("broken")
    assert runs == [1, 2]


def test_a_member_of_a_failed_cycle_is_not_executed_again_by_the_same_request(site: Site) -> None:
    runs = counted(site)
    site.write("page.py", "".join(f"try:\n    import {name}\nexcept ZeroDivisionError: pass\n" for name in "abab"))
    site.write("a.py", "import counted\ncounted.runs.append('a')\nimport b\n1 / 0")
    site.write("b.py", "import counted\ncounted.runs.append('b')\nimport a")
    site.load()
    assert runs == ["a", "b"]


def test_without_the_last_good_one_a_broken_child_is_executed_once_in_a_request(site: Site) -> None:
    runs = counted(site)
    for name in ("left", "right"):
        site.write(f"{name}.py", "import child")
    site.write("child.py", "x = 1")
    with site.request(keep_last_good=False) as request:
        request.load("left")
        request.load("right")
    site.write("child.py", "import counted\ncounted.runs.append(1)\n1 / 0")
    with site.request(keep_last_good=False) as request:
        for name in ("left", "right", "left"):
            with pytest.raises(ZeroDivisionError):
                request.load(name)
    assert runs == [1]
