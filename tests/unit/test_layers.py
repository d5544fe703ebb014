"""Who may import whom, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What imports mod_python, and nothing else does.
MAY_IMPORT_MOD_PYTHON = {"mpool.host.apache", "handlers.apache.dispatch", "handlers.publisher", "handlers.status"}

# What each folder, and each door beside the folders, may import of its own package. Each README.rst says the same.
MPOOL = {
    "errors": set[str](),
    "host": set[str](),
    "driver": {"host", "errors"},
    "config": {"driver", "errors"},
    "engine": {"config", "driver", "host", "errors"},
    "pool": {"engine", "config", "driver", "host", "errors"},
    "null": {"pool", "engine", "driver"},
    "compat": {"pool", "driver", "host", "errors"},
    "recognise": {"compat", "pool", "driver"},
    "registry": {"null", "pool", "engine", "config", "driver", "host", "errors"},
    "": {"recognise", "registry", "null", "pool", "config", "driver", "host", "errors"},  # mpool/__init__.py
    "tools": {"config", ""},
}
HANDLERS = {
    "": set[str](),
    "errors": set[str](),
    "reload": {"errors"},
    "request": {"reload", "errors"},
    "pages": {"request", "reload", "errors"},
    "apache": {"pages", "request", "reload", "errors"},
    "importer": {"apache", "reload"},
    "base": {"pages", "request", "reload"},
    "publisher": {"pages", "request", "reload", "errors"},
}
MAY_IMPORT = {"mpool": MPOOL, "handlers": HANDLERS}


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by dotted name; the example site's pages are no modules."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[:2] != ("handlers", "examples"):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source: str, module: str = "", is_package: bool = False) -> Iterator[str]:
    """Dotted names that *source* imports anywhere, functions included: "a.b" for both `import a.b` and
    `from a import b`."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(package: str) -> Iterator[tuple[str, str]]:
    for name, path in modules(package).items():
        for target in imported(path.read_text(encoding="utf-8"), name, path.name == "__init__.py"):
            yield name, target


def within(target: str, package: str) -> bool:
    return target == package or target.startswith(package + ".")


@pytest.mark.parametrize(
    ("source", "module", "is_package", "expected"),
    [
        ("import a.b as c", "m", False, ["a.b"]),
        ("from a import b", "m", False, ["a.b"]),
        ("from . import b", "mpool.pool", False, ["mpool.b"]),
        ("from .engine import Entry", "mpool", True, ["mpool.engine.Entry"]),
        ("from ..pool import P", "mpool.tools.serve", False, ["mpool.pool.P"]),
        ("def f():\n    import late", "m", False, ["late"]),
    ],
)
def test_every_form_of_import_is_seen(source, module, is_package, expected):
    assert list(imported(source, module, is_package)) == expected


def test_both_packages_are_looked_at():
    assert {"mpool", "mpool.tools.main"} <= set(modules("mpool"))
    assert {"handlers", "handlers.importer"} <= set(modules("handlers"))


def room(name: str, package: str) -> str:
    """The folder of a module, or the module itself where it stands beside the folders; "" for the package's front."""
    return name.removeprefix(package).lstrip(".").partition(".")[0]


def arrows(package: str) -> set[tuple[str, str]]:
    """Who imports whom inside *package*, by module, imports for typing and inside functions included."""
    known = modules(package)
    found = set()
    for name, target in imports_of(package):
        while within(target, package):
            if target in known:
                found.add((name, target))
                break
            target = target.rpartition(".")[0]
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_between_folders_point_down(package):
    rooms = {(room(a, package), room(b, package)) for a, b in arrows(package)}
    assert not {(a, b) for a, b in rooms if a != b and b not in MAY_IMPORT[package][a]}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_module_imports_itself_by_way_of_others(package):
    imports: dict[str, set[str]] = {}
    for a, b in arrows(package):
        # A folder's own __init__.py holds no code.
        if a != b and not (a.startswith(b + ".")):
            imports.setdefault(a, set()).add(b)
    left = set(modules(package))
    while True:
        leaves = {name for name in left if not imports.get(name, set()) & left}
        if not leaves:
            break
        left -= leaves
    assert not left, "these import each other in a circle"


def test_mpool_never_imports_handlers():
    assert not [pair for pair in imports_of("mpool") if within(pair[1], "handlers")]


def test_handlers_import_the_front_of_mpool_only():
    submodules = set(modules("mpool")) - {"mpool"}
    assert not [(name, target) for name, target in imports_of("handlers") if any(within(target, s) for s in submodules)]


@pytest.mark.parametrize("package", ["mpool", "handlers"])
def test_mod_python_is_imported_in_the_modules_named_for_it(package):
    users = {name for name, target in imports_of(package) if within(target, "mod_python") or within(target, "_apache")}
    assert users <= MAY_IMPORT_MOD_PYTHON


def test_psycopg2_is_imported_in_mpool_only():
    assert not [pair for pair in imports_of("handlers") if within(pair[1], "psycopg2")]


@pytest.mark.parametrize("package", ["mpool", "handlers"])
def test_nothing_fixed_imports_a_reloadable_module(package):
    assert not [pair for pair in imports_of(package) if within(pair[1], "handlers.examples")]


@pytest.mark.parametrize("package", ["mpool", "handlers"])
def test_the_command_is_not_imported_inside_apache(package):
    outside = [(n, t) for n, t in imports_of(package) if not within(n, "mpool.tools")]
    assert not [pair for pair in outside if within(pair[1], "mpool.tools")]
