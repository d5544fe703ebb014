"""The module importer, by the rules of mod_python 3.3: ``PythonImport handlers.importer::install NAME``.

Modules are identified by file. A changed file is loaded anew beside the old instance, which keeps serving until the
new one has been executed without an error, and for good if there is one. ``handlers/reload`` has the rules and the
code; here are the names that a configuration and a page use.
"""

from __future__ import annotations

from handlers.reload import interpreter
from handlers.reload.interpreter import (
    freeze_modules,
    import_module,
    module_info,
    modules_graph,
    request_modules_graph,
)
from mpool import interpreter_name, log, on_child_exit

__all__ = [
    "freeze_modules",
    "import_module",
    "install",
    "module_info",
    "modules_graph",
    "python_path",
    "request_modules_graph",
]


def python_path(path: list[str]) -> list[str]:
    """Install the importer in whichever interpreter evaluates this, and answer with *path*.

    For ``PythonPath "__import__('handlers.importer').importer.python_path(sys.path)"``: mod_python evaluates that in
    each interpreter, before its first import, and so reaches those that no PythonImport line names. It goes together
    with ``PythonImport psycopg2 main_interpreter``: two interpreters that import psycopg2 first, at the same moment,
    break it for the whole child.
    """
    install()
    return path


def install() -> None:
    """Switch the importer on for the interpreter that this is called in; a second call changes nothing.

    ``PythonImport handlers.importer::install NAME``, as the last line but the one that imports psycopg2.
    """
    from handlers.apache import dispatch  # not before: outside of Apache there is no mod_python

    importer = interpreter.importer
    if dispatch.install(importer):
        interpreter.connect(dispatch.call_outside, dispatch.begin_again)
        on_child_exit(importer.retirement.child_ends)
        log("info", f"the importer is installed in interpreter {interpreter_name()!r}")
