"""The rules of mod_python 3.3's importer that other tests do not already show, one by one."""

from __future__ import annotations

import os
import sys
import threading

import pytest
from importer_site import Site
from servers.base import wait_until

from handlers import importer
from handlers.reload import context, files
from handlers.reload.context import Settings, entered
from handlers.reload.modules import label_of


def test_a_path_is_normalised_and_a_symlink_is_a_second_instance(site: Site) -> None:
    path = site.write("page.py", "x = object()")
    (site.root / "a").mkdir()
    (site.root / "link.py").symlink_to(path)
    module = site.load(str(path))
    assert site.load(f"{site.root}/a/../page.py") is module
    assert site.load(str(site.root / "link.py")) is not module


def test_the_names_of_a_module_are_set_before_its_code_runs(site: Site) -> None:
    path = site.write("page.py", "'''Documented.'''\nseen = dict(globals())")
    seen = site.load().seen
    assert seen["__name__"] == label_of(str(path)) and seen["__doc__"] == "Documented." and seen["__package__"] is None
    assert seen["__file__"] == str(path) and seen["__mp_info__"].file == str(path) and seen["__mp_path__"] == []


def test_mp_info_tells_of_the_instance_and_its_cache_of_the_file(site: Site) -> None:
    path = site.write("page.py", "import util")
    site.write("util.py", "")
    first = site.load().__mp_info__
    site.write("page.py", "import util\nx = 1")
    module = site.load()
    second = module.__mp_info__
    assert second is not first and second.cache is first.cache
    assert (second.label, second.file) == (module.__name__, str(path))
    util = label_of(str(site.root / "util.py"))
    assert list(second.children) == [util]
    cache = second.cache
    assert (cache.label, cache.file, cache.module, cache.instance) == (second.label, str(path), module, 2)
    assert cache.generation == 3 and list(cache.children) == [util] and cache.path == [] and not cache.reload
    assert cache.mtime == os.stat(path).st_mtime and min(cache.atime, cache.ctime) > 0
    assert cache.direct >= 2 and util in importer.modules_graph() and cache.indirect == 0


def test_packages_and_dotted_names_are_pythons_own_and_never_reload(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write("package_of_the_site/__init__.py", "x = 1")
    site.write("package_of_the_site/inner.py", "x = 1")
    site.write("page.py", "import package_of_the_site, package_of_the_site.inner as inner\nx = inner.x")
    monkeypatch.syspath_prepend(str(site.root))
    inner = site.load().inner
    assert sys.modules["package_of_the_site.inner"] is inner
    site.write("package_of_the_site/inner.py", "x = 2")
    assert site.load().inner is inner and inner.x == 1
    for name in ("package_of_the_site.inner", "package_of_the_site"):
        del sys.modules[name]


def test_a_name_with_a_slash_is_looked_for_like_any_other(site: Site) -> None:
    """The pseudo packages of the manual: directories of modules, and their __init__ as one of these."""
    site.write("lib/util.py", "x = 'util'")
    site.write("lib/__init__.py", "x = 'init'")
    site.write(
        "page.py",
        "from handlers.importer import import_module\n"
        "x = import_module('lib/util').x, import_module('lib/__init__').x\n",
    )
    assert site.load().x == ("util", "init")
    site.write("lib/util.py", "x = 'edited'")
    assert site.load().x == ("edited", "init")


def test_every_form_of_the_import_statement_finds_what_is_beside_the_module(site: Site) -> None:
    site.write("util.py", "__all__ = ['a']\na, b = 1, 2")
    site.write(
        "page.py",
        "import util\nimport util as other\nfrom util import b as c\nfrom util import *\n"
        "def later():\n    from util import b\n    return b\n",
    )
    with site.request() as request, entered(request.call):
        page = request.load()
        assert page.util is page.other and (page.a, page.c, page.later()) == (1, 2, 2)
        assert not hasattr(page, "b")
    site.write("util.py", "a, b = 3, 4")
    page = site.load()
    assert (page.util.a, page.a, page.b, page.c) == (3, 3, 4, 4)


def test_a_directory_of_the_importers_that_is_on_sys_path_is_warned_of_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(site.root))
    site.write("page.py", "import util")
    site.write("util.py", "")
    site.load()
    assert "sys.path" not in caplog.text
    site.write("page.py", "import util\nx = 2")
    site.write("util.py", "x = 2")
    site.load(debug=True)
    assert caplog.text.count('Module directory listed in "sys.path".') == 1


def test_a_bare_name_is_looked_for_in_the_four_places_in_order(site: Site) -> None:
    places = ["by_path", "page", "mp_path", "option"]
    site.write("page/page.py", "from handlers.importer import import_module\n"
               "__mp_path__.append('~/mp_path')\n"
               "def find(name): return import_module(name, path=['~/by_path']).x")  # fmt: skip
    for number, place in enumerate(places):
        for later in range(number + 1):
            site.write(f"{place}/name{later}.py", f"x = {place!r}")

    def find(number: int) -> str:
        with site.request(path=("~/option",)) as request:
            page = request.load("~/page/page.py")
            with entered(request.call):
                return page.find(f"name{number}")

    # name0 is everywhere, name1 not in the first place, and so on.
    assert [find(number) for number in range(4)] == places


def test_dot_slash_is_relative_to_the_importing_module_and_needs_one(site: Site) -> None:
    text = "from handlers.importer import import_module\nx = import_module('./lib/a.py').x, import_module('../up.py').x"
    site.write("sub/page.py", text)
    site.write("sub/lib/a.py", "x = 1")
    site.write("up.py", "x = 2")
    assert site.load(str(site.root / "sub/page.py")).x == (1, 2)
    with pytest.raises(ModuleNotFoundError):
        site.load("./up.py")


def test_a_tilde_works_within_path_mp_path_and_importer_path(site: Site) -> None:
    site.write("deep/lib/a.py", "x = 'found'")
    site.write("page.py", "__mp_path__.append('~/deep/lib')\nimport a\nx = a.x")
    assert site.load().x == "found"
    with site.request() as request:
        assert request.load("a", path=["~/deep/lib"]).x == "found"


def test_another_path_for_a_loaded_module_is_ignored_and_does_not_grow(site: Site) -> None:
    path = str(site.write("page.py", "__mp_path__.append('~/more')"))
    with site.request() as request:
        assert request.load(path, path=["/a"]).__mp_path__ == ["/a", "~/more"]
    with site.request() as request:
        assert request.load(path, path=["/b"]).__mp_path__ == ["/a", "~/more"]
    site.write("page.py", "__mp_path__.append('~/more')\nx = 2")
    assert site.load(path).__mp_path__ == ["/a", "~/more"]


def test_importer_path_is_a_literal_and_never_evaluated() -> None:
    assert context.search_path("['~', '/a']") == ("~", "/a")
    for bad in ("__import__('os').getcwd()", "'/a'", "[1]", "["):
        with pytest.raises(ValueError, match=r"PythonOption mod_python\.importer\.path must be a list"):
            context.search_path(bad)


def test_an_option_that_is_no_switch_or_number_is_refused_in_one_line() -> None:
    for name, value in (("handlers.keep_last_good", "maybe"), ("handlers.check_interval", "-1")):
        with pytest.raises(ValueError, match=f"PythonOption {name} must be"):
            context.settings({}, {name: value})


def test_a_wrapper_in_another_module_does_not_change_who_imports(site: Site) -> None:
    site.write("a/page.py", "import sys\nsys.path.insert(0, '')\nimport wrapper_for_test\n"
               "x = wrapper_for_test.load('~/a/util.py').x\nsys.path.pop(0)")  # fmt: skip
    site.write("a/util.py", "import neighbour\nx = neighbour.x")
    site.write("a/neighbour.py", "x = 'of a'")
    import types

    wrapper = types.ModuleType("wrapper_for_test")
    exec("from handlers.importer import import_module\ndef load(name): return import_module(name)", wrapper.__dict__)
    sys.modules["wrapper_for_test"] = wrapper
    try:
        module = site.load("~/a/page.py")
    finally:
        del sys.modules["wrapper_for_test"]
    assert module.x == "of a"
    # Imported through the wrapper while the page was executed: it is the page's child all the same.
    assert label_of(str(site.root / "a/util.py")) in module.__mp_info__.children


def test_a_lazy_import_in_another_thread_is_relative_to_its_own_module(site: Site) -> None:
    for directory in "ab":
        site.write(f"{directory}/page.py", "def get():\n    import util\n    return util.x")
        site.write(f"{directory}/util.py", f"x = {directory!r}")
    pages = {directory: site.load(f"~/{directory}/page.py") for directory in "ab"}
    found: dict[str, str] = {}
    threads = [threading.Thread(target=lambda d=d: found.__setitem__(d, pages[d].get())) for d in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {"a": "a", "b": "b"}


@pytest.fixture
def stats(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A page that is built on three more files, and the names of the files that os.stat is called for from now on."""
    site.write("page.py", "import a, b")
    site.write("a.py", "import deep")
    site.write("b.py", "import deep")
    site.write("deep.py", "x = 1")
    site.load()
    names: list[str] = []
    real = os.stat

    def stat(path, *args, **kwargs):
        names.append(os.path.basename(os.fsdecode(path)))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    return names


def test_an_unchanged_tree_costs_one_stat_for_each_of_its_files(site: Site, stats: list[str]) -> None:
    with site.request() as request:
        request.load()
        request.load()
        request.load("a")
    assert sorted(stats) == ["a.py", "b.py", "deep.py", "page.py"]


def test_the_stats_of_a_tree_on_a_disk_leave_other_threads_alone_from_then_on(site: Site, stats: list[str]) -> None:
    """os.stat gives up the interpreter's lock."""
    if not os.major(site.root.stat().st_dev):
        pytest.skip("the directory for temporary files is on no disk")
    before = site.load()
    stats.clear()
    assert site.load() is before
    assert stats == []
    site.write("deep.py", "x = 2")
    assert site.load().a.deep.x == 2
    assert site.load().a.deep.x == 2


def test_an_explicit_autoreload_argument_wins(site: Site) -> None:
    site.write("page.py", "x = 1")
    module = site.load()
    site.write("page.py", "x = 2")
    with site.request() as request, entered(request.call):
        assert importer.import_module("~/page.py", autoreload=False) is module
    with site.request(autoreload=False) as request, entered(request.call):
        assert importer.import_module("~/page.py", autoreload=True).x == 2


def test_an_explicit_log_argument_wins(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    site.write("a.py", "")
    site.write("b.py", "")
    with site.request() as request, entered(request.call):
        importer.import_module("~/a.py", log=True)
    with site.request(debug=True) as request, entered(request.call):
        importer.import_module("~/b.py", log=False)
    assert "Importing module" in caplog.text and "a.py" in caplog.text and "b.py" not in caplog.text


def test_a_module_whose_load_failed_is_tried_again_though_frozen(site: Site) -> None:
    site.write("page.py", "1 / 0")
    with pytest.raises(ZeroDivisionError):
        site.load()
    site.importer.freeze()
    site.write("page.py", "x = 1")
    assert site.load(autoreload=False).x == 1


def test_a_path_that_never_existed_is_an_os_error(site: Site) -> None:
    with pytest.raises(OSError, match="No such module file"):
        site.load("~/nothing.py")


def test_imports_outside_of_any_request_see_the_present_file(site: Site) -> None:
    path = str(site.write("page.py", "x = 1"))
    assert importer.import_module(path).x == 1
    site.write("page.py", "x = 2")
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(importer.import_module(path).x))
    thread.start()
    thread.join(20)
    assert found == [2]


def test_a_module_that_imports_itself_sees_itself_and_is_loaded_once(site: Site) -> None:
    site.write("page.py", "import page\nme = page.__name__ == __name__")
    module = site.load()
    assert module.me and module.page is module
    assert site.load() is module


def test_the_graphs_name_files_and_edges(site: Site) -> None:
    page = label_of(str(site.write("page.py", "import util")))
    util = label_of(str(site.write("util.py", "")))
    with site.request() as request, entered(request.call):
        request.load()
        graph = importer.request_modules_graph(verbose=1)
    assert graph.startswith("digraph REQUEST {\nnode [shape=box];\n") and f"{page} -> {util}\n" in graph
    assert "generation = " in graph
    graph = importer.modules_graph()
    assert graph.startswith("digraph GLOBAL {") and f'{page} [label="{site.root}/page.py"];' in graph


def test_module_info_is_known_by_label(site: Site) -> None:
    module = site.load() if site.write("page.py", "") else None
    assert importer.module_info(module.__name__).module is module
    with pytest.raises(KeyError):
        importer.module_info("page")


def test_a_generation_is_counted_for_each_good_load_and_for_no_failed_one(site: Site) -> None:
    site.write("page.py", "")
    site.write("other.py", "")
    assert site.load().__mp_info__.cache.generation == 1
    assert site.load("other").__mp_info__.cache.generation == 2
    site.write("page.py", "1 / 0")
    site.load()
    site.write("page.py", "x = 1")
    assert (site.load().__mp_info__.cache.generation, site.load().__mp_info__.instance) == (3, 2)


def test_a_purge_hook_that_hangs_does_not_keep_the_others(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.reload.retire.PURGE_TIMEOUT", 0.05)
    end = threading.Event()
    site.write("gate.py", "purged = []")
    gate = site.load("gate")
    gate.end = end
    site.write("a.py", "import gate\ndef __mp_purge__(): gate.end.wait(60)")
    site.write("b.py", "import gate\ndef __mp_purge__(): gate.purged.append('b')")
    for name in "ab":
        site.load(name)
        site.write(f"{name}.py", "x = 2")
        site.load(name)
    site.drain()
    wait_until(lambda: gate.purged, what="the other one's purge")
    end.set()
    assert gate.purged == ["b"]


def test_the_end_of_the_child_purges_what_serves_and_what_has_not_drained(site: Site) -> None:
    site.write("gate.py", "purged = []")
    gate = site.load("gate")
    text = "import gate\nVERSION = 1\ndef __mp_purge__(): gate.purged.append(VERSION)"
    site.write("page.py", text)
    with site.request() as request:
        request.load()
        site.write("page.py", text.replace("VERSION = 1", "VERSION = 2"))
        site.load()
        site.importer.retirement.child_ends()
    site.drain()
    assert gate.purged == [2, 1]


def test_both_signatures_of_purge_are_called_as_they_are_written(site: Site) -> None:
    site.write("gate.py", "purged = []")
    gate = site.load("gate")
    for name, signature in (("a", ""), ("b", "module"), ("c", "module=None"), ("d", "*modules")):
        site.write(f"{name}.py", f"import gate\ndef __mp_purge__({signature}): gate.purged.append(locals())")
        old = site.load(name)
        site.write(f"{name}.py", "x = 2")
        site.load(name)
        site.drain()
        called = gate.purged.pop()
        assert [v for v in called.values() if v] == {"a": [], "b": [old], "c": [old], "d": [(old,)]}[name]


def test_a_reload_without_a_clone_hook_starts_from_nothing(site: Site) -> None:
    site.write("page.py", "x = 1\ny = 1")
    site.load()
    site.write("page.py", "x = 2")
    assert not hasattr(site.load(), "y")


def test_first_loads_wait_for_the_writer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "QUIET", 0.02)
    site.write("page.py", "x = 1")
    assert site.load().x == 1


def test_a_file_that_vanishes_for_a_moment_is_not_retired(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site.write("page.py", "x = 1")
    module = site.load()
    monkeypatch.setattr(files, "QUIET", 20.0)
    away = path.rename(site.root / "page.py~")
    back = threading.Timer(0.05, lambda: away.rename(path))
    back.start()
    assert site.load() is module
    back.join()


def test_settings_are_read_from_directives_and_options() -> None:
    config = {"PythonAutoReload": "0", "PythonDebug": "1"}
    options = {"handlers.keep_last_good": "Off", "handlers.check_interval": "2.5"}
    assert context.settings(config, options) == Settings(
        autoreload=False, debug=True, keep_last_good=False, check_interval=2.5
    )
    assert context.settings({}, {}) == Settings()


def test_the_import_function_finds_what_is_beside_the_module_that_calls_it(site: Site) -> None:
    site.write("beside.py", "x = 1")
    site.write("json.py", "raise RuntimeError('Python code means its own module')")
    site.write(
        "page.py",
        """
plain = __import__("beside")
old_idiom = __import__("beside", globals(), locals(), [])
in_string = eval("__import__('beside')")
pythons = __import__("json", globals(), locals(), [])
def later():
    return __import__("beside")
try:
    __import__("nowhere_at_all", globals(), locals(), [])
except ModuleNotFoundError as error:
    missing = error.name
""",
    )
    with site.request() as request:
        page = request.load()
        assert page.plain is page.old_idiom is page.in_string is page.later()
    assert page.plain.__mp_info__.label in page.__mp_info__.children
    assert page.pythons.__name__ == "json" and page.missing == "nowhere_at_all"
    site.write("beside.py", "x = 2")
    assert site.load().plain.x == 2
