"""The importer by itself: files on disk, no Apache. Requests are Call objects, as the dispatcher makes them."""

from __future__ import annotations

import os
import sys
import threading
import weakref

import pytest
from importer_site import Site
from servers.base import wait_until

from handlers.reload import files, retire
from handlers.reload.context import entered
from handlers.reload.modules import label_of


def test_a_module_is_known_by_its_file_and_stands_in_sys_modules_under_its_label(site: Site) -> None:
    path = site.write("page.py", "x = 1")
    module = site.load()
    assert module.__name__ == label_of(str(path))
    assert sys.modules[module.__name__] is module
    assert module.__mp_info__.label == module.__name__
    assert site.load(str(path)) is module


def test_an_unchanged_module_is_not_executed_again(site: Site) -> None:
    site.write("page.py", "x = object()")
    assert site.load() is site.load()


def test_an_edit_is_seen_by_the_next_request(site: Site) -> None:
    site.write("page.py", "x = 1")
    assert site.load().x == 1
    site.write("page.py", "x = 2")
    module = site.load()
    assert module.x == 2
    assert (module.__mp_info__.instance, module.__mp_info__.cache.generation) == (2, 2)


def test_an_edit_with_an_older_or_equal_mtime_is_seen(site: Site) -> None:
    path = site.write("page.py", "x = 1")
    times = os.stat(path)
    site.load()
    other = site.write("other.py", "x = 2")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, path)
    assert site.load().x == 2
    site.write("page.py", "x = 33")
    os.utime(path, (1, 1))
    assert site.load().x == 33


def test_one_request_sees_one_instance_though_the_file_changes(site: Site) -> None:
    site.write("page.py", "x = 1")
    with site.request() as request:
        first = request.load()
        site.write("page.py", "x = 2")
        assert request.load() is first
    assert site.load().x == 2


def test_a_request_sees_what_its_modules_were_built_on_though_the_file_changes(site: Site) -> None:
    site.write("page.py", "import util")
    site.write("util.py", "import deep")
    site.write("deep.py", "x = 1")
    site.load()
    with site.request() as request:
        page = request.load()
        for name in ("util", "deep"):
            site.write(f"{name}.py", "x = 2")
        assert site.load("deep").x == 2
        assert request.load("deep") is page.util.deep and request.load("util") is page.util
    assert site.load("util").x == 2


def test_the_parent_is_executed_again_when_a_child_changes(site: Site) -> None:
    site.write("page.py", "import util\nx = util.x")
    site.write("util.py", "import deep\nx = deep.x")
    site.write("deep.py", "x = 1")
    site.write("other.py", "x = object()")
    other = site.load("other")
    assert site.load().x == 1
    site.write("deep.py", "x = 2")
    assert site.load().x == 2
    assert site.load("other") is other


def test_only_changed_files_and_their_ancestors_are_executed(site: Site) -> None:
    site.write("page.py", "import left, right")
    site.write("left.py", "x = 1")
    site.write("right.py", "x = 1")
    before = site.load()
    site.write("left.py", "x = 2")
    after = site.load()
    assert after.left.x == 2 and after.left is not before.left
    assert after.right is before.right


def test_a_friend_reloads_by_itself_and_its_importer_does_not(site: Site) -> None:
    site.write("page.py", "def get():\n    import friend\n    return friend.x")
    site.write("friend.py", "x = 1")
    with site.request() as request:
        page = request.load()
        with entered(request.call):
            assert page.get() == 1
    site.write("friend.py", "x = 2")
    with site.request() as request:
        assert request.load() is page
        with entered(request.call):
            assert page.get() == 2


def test_two_directories_have_each_their_own_util(site: Site) -> None:
    site.write("a/page.py", "import util, config\nx = util.x, config.x")
    site.write("b/page.py", "import util, config\nx = util.x, config.x")
    for directory in "ab":
        site.write(f"{directory}/util.py", f"x = {directory!r}")
        site.write(f"{directory}/config.py", f"x = {directory!r}")
    assert site.load(str(site.root / "a/page.py")).x == ("a", "a")
    assert site.load(str(site.root / "b/page.py")).x == ("b", "b")


def test_a_cycle_is_executed_once_and_reported(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.write("a.py", "import b\nx = object()")
    site.write("b.py", "import a\nx = object()")
    a = site.load("a")
    assert a.b.a is a
    assert sum("imports an ancestor" in record.getMessage() for record in caplog.records) == 1
    for _ in range(3):
        assert site.load("a") is a and site.load("b") is a.b
    site.write("b.py", "import a\nx = 2")
    after = site.load("a")
    assert after is not a and after.b is not a.b and after.b.a is after
    assert site.load("b") is after.b
    assert [cache.instance for cache in site.importer.caches()] == [2, 2]


def test_a_cycle_changed_at_its_other_end_is_executed_once(site: Site) -> None:
    site.write("a.py", "import b")
    site.write("b.py", "import a")
    site.load("a")
    site.write("a.py", "import b\nx = 2")
    b = site.load("b")
    assert b.a.x == 2 and b.a.b is b
    assert site.load("a") is b.a
    assert [cache.instance for cache in site.importer.caches()] == [2, 2]


def test_a_broken_edit_keeps_the_last_good_code_and_is_logged_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.write("page.py", "x = 1")
    good = site.load()
    site.write("page.py", "x = (")
    for _ in range(5):
        assert site.load() is good
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "SyntaxError" in caplog.text and "page.py" in caplog.text
    site.write("page.py", "x = 3")
    assert site.load().x == 3


def test_the_log_names_the_line_of_the_site_that_failed(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.write("page.py", "x = 1")
    site.load()
    site.write("page.py", "x = 2\nimport no_such_module_anywhere")
    site.load()
    assert f"({site.root / 'page.py'}, line 2, in <module>)" in caplog.text
    site.write("page.py", "x = '\0'")
    site.load()
    assert "null bytes" in caplog.records[-1].getMessage() and "loader.py" not in caplog.text


def test_a_failing_reload_is_not_tried_at_each_request(site: Site) -> None:
    site.write("page.py", "x = 1")
    good = site.load()
    site.write("page.py", "import builtins\nbuiltins.tries = getattr(builtins, 'tries', 0) + 1\n1 / 0")
    import builtins

    try:
        for _ in range(5):
            assert site.load() is good
        assert builtins.tries == 1
    finally:
        del builtins.tries


def test_a_failing_child_keeps_the_whole_tree(site: Site) -> None:
    site.write("page.py", "import util\nx = util.x")
    site.write("util.py", "x = 1")
    good = site.load()
    site.write("util.py", "x = 1 / 0")
    for _ in range(3):
        assert site.load() is good
    assert good.__mp_info__.instance == 1
    site.write("util.py", "x = 2")
    assert site.load().x == 2


def test_a_parent_that_fails_on_its_childs_new_code_keeps_the_old_child(site: Site) -> None:
    site.write("page.py", "from util import x")
    site.write("util.py", "x = 1")
    good = site.load()
    site.write("util.py", "y = 1")
    for _ in range(3):
        assert site.load() is good
    site.drain()
    assert good.x == 1
    site.write("util.py", "x = 2")
    assert site.load().x == 2


def test_a_new_import_that_was_missing_is_found_as_soon_as_it_is_there(site: Site) -> None:
    site.write("page.py", "x = 1")
    good = site.load()
    site.write("page.py", "import later\nx = later.x")
    assert site.load() is good
    site.write("later.py", "x = 2")
    assert site.load().x == 2


def test_keep_last_good_off_gives_the_error_and_comes_back(site: Site) -> None:
    site.write("page.py", "x = 1")
    site.load()
    site.write("page.py", "x = 1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            site.load(keep_last_good=False)
    site.write("page.py", "x = 2")
    assert site.load(keep_last_good=False).x == 2


def test_a_failed_first_load_is_tried_again_at_the_next_request(site: Site) -> None:
    site.write("page.py", "x = 1 / 0")
    with pytest.raises(ZeroDivisionError):
        site.load()
    assert label_of(str(site.root / "page.py")) not in sys.modules
    site.write("page.py", "x = 1")
    assert site.load().x == 1


def test_clone_is_called_on_the_old_module_with_the_empty_new_one(site: Site) -> None:
    site.write(
        "page.py",
        "seen = []\nstate = object()\n"
        "def __mp_clone__(module):\n    seen.append(sorted(vars(module)))\n    module.state = state\n",
    )
    old = site.load()
    site.write("page.py", "if 'state' not in globals(): state = None\nhas_file = __file__")
    new = site.load()
    assert old.seen == [["__doc__", "__name__", "__package__"]]
    assert new.state is old.state and new is not old


def test_the_new_source_is_compiled_before_clone_is_called(site: Site) -> None:
    site.write("page.py", "calls = []\ndef __mp_clone__(module): calls.append(module)")
    old = site.load()
    site.write("page.py", "x = (")
    assert site.load() is old
    assert old.calls == []


def test_a_failing_clone_is_purged_once_after_the_last_request_on_it(site: Site) -> None:
    site.write("page.py", "purged = []\ndef __mp_clone__(m): raise SystemExit\ndef __mp_purge__(): purged.append(1)")
    with site.request() as request:
        old = request.load()
        site.write("page.py", "x = 2")
        assert site.load().x == 2
        site.drain()
        assert old.purged == []
    site.drain()
    site.drain()
    assert old.purged == [1]


def test_a_failing_clone_and_failing_code_leave_the_old_module_serving(site: Site) -> None:
    site.write("page.py", "purged = []\ndef __mp_clone__(m): 1 / 0\ndef __mp_purge__(): purged.append(1)")
    old = site.load()
    site.write("page.py", "1 / 0")
    assert site.load() is old
    site.drain()
    assert old.purged == []


def test_a_module_with_purge_alone_is_purged_at_its_reload(site: Site) -> None:
    site.write("page.py", "purged = []\ndef __mp_purge__(module): purged.append(module)")
    old = site.load()
    site.write("page.py", "x = 2")
    site.load()
    site.drain()
    assert old.purged == [old]


def test_a_handed_over_module_is_not_purged(site: Site) -> None:
    site.write("page.py", "purged = []\ndef __mp_clone__(m): pass\ndef __mp_purge__(): purged.append(1)")
    old = site.load()
    site.write("page.py", "x = 2")
    site.load()
    site.drain()
    assert old.purged == []


def test_rollback_is_told_when_the_new_code_fails_after_a_clone(site: Site) -> None:
    site.write(
        "page.py",
        "pool = ['it']\n"
        "def __mp_clone__(module): module.pool = globals().pop('pool')\n"
        "def __mp_rollback__(module): globals()['pool'] = module.pool\n",
    )
    old = site.load()
    site.write("page.py", "1 / 0")
    assert site.load() is old
    assert old.pool == ["it"]


def test_purge_waits_for_a_parent_that_goes_on_serving(site: Site) -> None:
    site.write("page.py", "from util import x")
    site.write("util.py", "x = 1\npurged = []\ndef __mp_purge__(): purged.append(1)")
    with site.request() as request:
        request.load()
        util = request.load("util")
    site.write("util.py", "y = 1")
    site.load()
    site.drain()
    assert util.purged == []
    site.write("util.py", "x = 2")
    assert site.load().x == 2
    site.drain()
    assert util.purged == [1]


def test_a_removed_file_is_retired_and_purged(site: Site) -> None:
    path = site.write("page.py", "purged = []\ndef __mp_purge__(): purged.append(1)")
    old = site.load()
    path.unlink()
    with pytest.raises(ModuleNotFoundError):
        site.load()
    with pytest.raises(FileNotFoundError):
        site.load(str(path))
    site.drain()
    assert old.purged == [1]
    assert old.__name__ not in sys.modules


def test_a_removed_child_lives_as_long_as_its_parent_serves(site: Site) -> None:
    site.write("page.py", "import util\nx = util.x")
    path = site.write("util.py", "x = 1\npurged = []\ndef __mp_purge__(): purged.append(1)")
    good = site.load()
    util = good.util
    path.unlink()
    assert site.load() is good
    site.drain()
    assert util.purged == []
    site.write("page.py", "x = 2")
    assert site.load().x == 2
    site.drain()
    assert util.purged == [1]


def test_an_old_instance_is_collected(site: Site) -> None:
    site.write("page.py", "class A:\n    def f(self): return A")
    reference = weakref.ref(site.load())
    site.write("page.py", "x = 2")
    site.load()
    site.drain()
    assert reference() is None


def test_path_becomes_mp_path_and_is_searched_by_the_modules_imports(site: Site) -> None:
    site.write("lib/util.py", "x = 'lib'")
    path = site.write("page.py", "import util\nx = util.x")
    with site.request() as request:
        module = request.load(str(path), path=[str(site.root / "lib")])
    assert module.x == "lib"
    assert module.__mp_path__ == [str(site.root / "lib")]


def test_importer_path_is_searched_and_may_begin_with_the_handler_root(site: Site) -> None:
    site.write("lib/util.py", "x = 'lib'")
    site.write("page.py", "import util\nx = util.x")
    assert site.load(path=("~/lib",)).x == "lib"


def test_the_handler_root_is_not_searched_by_nested_imports(site: Site) -> None:
    site.write("sub/page.py", "import at_the_root")
    site.write("at_the_root.py", "x = 1")
    with pytest.raises(ModuleNotFoundError):
        site.load(str(site.root / "sub/page.py"))


def test_any_extension_is_allowed_with_an_explicit_path(site: Site) -> None:
    site.write("page.mpy", "x = 1")
    assert site.load("~/page.mpy").x == 1


def test_a_frozen_importer_checks_nothing(site: Site) -> None:
    path = site.write("page.py", "x = 1")
    module = site.load()
    site.importer.freeze()
    site.write("page.py", "x = 2")
    assert site.load() is module
    path.unlink()
    assert site.load() is module


def test_autoreload_off_checks_nothing(site: Site) -> None:
    site.write("page.py", "x = 1")
    module = site.load()
    site.write("page.py", "x = 2")
    assert site.load(autoreload=False) is module
    assert site.load().x == 2


def test_check_interval_holds_the_next_check_back(site: Site) -> None:
    site.write("page.py", "x = 1")
    module = site.load()
    site.write("page.py", "x = 2")
    assert site.load(check_interval=3600.0) is module
    assert site.load().x == 2


def test_a_file_that_is_still_written_to_is_not_taken_over(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write("page.py", "x = 1")
    old = site.load()
    monkeypatch.setattr(files, "QUIET", 3600)
    site.write("page.py", "x = 2")
    assert site.load() is old
    monkeypatch.setattr(files, "QUIET", 0)
    assert site.load().x == 2


def test_names_added_to_builtins_later_are_seen_by_managed_modules(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write("page.py", "def f(): return added_later")
    module = site.load()
    monkeypatch.setattr("builtins.added_later", 1, raising=False)
    assert module.f() == 1


def test_c_code_imports_pythons_own_modules_within_a_managed_module(site: Site) -> None:
    site.write("_strptime.py", "raise RuntimeError('not this one')")
    sys.modules.pop("_strptime", None)
    site.write("page.py", "import time\nx = time.strptime('2020', '%Y').tm_year")
    assert site.load().x == 2020


def test_pickle_and_string_annotated_dataclasses_work(site: Site) -> None:
    site.write(
        "page.py",
        "from __future__ import annotations\nimport dataclasses, pickle, typing\n"
        "@dataclasses.dataclass\nclass P:\n    x: typing.ClassVar[int] = 1\n    y: int = 2\n"
        "z = pickle.loads(pickle.dumps(P(3))).y\nhints = typing.get_type_hints(P)\n",
    )
    module = site.load()
    assert module.z == 3 and module.hints["y"] is int


def test_a_page_called_like_a_package_does_not_hide_it(site: Site) -> None:
    site.write("mpool.py", "x = 'the page'")
    site.write("page.py", "import mpool\nx = mpool.__file__")
    assert site.load().x != str(site.root / "mpool.py")


def test_waiters_of_a_first_load_get_its_module_or_its_error(site: Site) -> None:
    site.write("gate.py", "import threading\ngo = threading.Event()\nruns = []")
    gate = site.load("gate")
    site.write("page.py", "import gate\ngate.runs.append(1)\ngate.go.wait(90)\n1 / 0")
    outcomes: list[object] = []

    def visit() -> None:
        try:
            outcomes.append(site.load())
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=visit) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(site.importer.loader.loads._waiting) == 5, what="the others wait")
    gate.go.set()
    for thread in threads:
        thread.join(60)
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 6
    assert gate.runs == [1]


def test_two_threads_loading_modules_that_import_each_other_do_not_deadlock(site: Site) -> None:
    site.write("gate.py", "import threading\nboth = threading.Barrier(2)")
    site.load("gate")
    for name, other in (("a", "b"), ("b", "a")):
        site.write(f"{name}.py", f"import gate\ngate.both.wait(60)\nimport {other}\nx = {name!r}")
    results: dict[str, object] = {}
    threads = [
        threading.Thread(target=lambda name=name: results.__setitem__(name, site.load(name)), daemon=True)
        for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results["a"].b is results["b"] and results["b"].a is results["a"]


def test_nobody_outside_a_cycle_sees_an_unfinished_module(site: Site) -> None:
    gate = site.gate()
    site.write("a.py", "import gate\nimport b\ngate.reached.set()\ngate.go.wait(90)\nx = 1")
    site.write("b.py", "import a\ndef f(): return a.x")
    results: list[object] = []
    first = threading.Thread(target=lambda: site.load("a"))
    first.start()
    assert gate.reached.wait(60)
    second = threading.Thread(target=lambda: results.append(site.load("b").f()))
    second.start()
    wait_until(lambda: site.importer.loader.loads._waiting, what="the second one waits")
    gate.go.set()
    first.join(60)
    second.join(60)
    assert results == [1]


def test_let_go_runs_in_no_request(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.importer.retirement._later = retire.run_later
    ended = threading.Event()
    monkeypatch.setattr(retire, "let_go", lambda infos, serving=(): ended.set() if infos else None)
    site.write("page.py", "x = 1")
    site.load()
    site.write("page.py", "x = 2")
    site.load()
    assert ended.wait(60)
