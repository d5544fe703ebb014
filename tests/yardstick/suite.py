"""Run mod_python's own test suite once, as it is, and write down what became of each test.

Started by run.py under Debian's Python, in a private copy of the suite, as the account that serves. The suite's
test.py does its work at import; what it takes from its surroundings is arranged before:

- the constants that mod_python's configure would have put in mod_python.version;
- what the suite still uses and later Pythons no longer have;
- the directives of the mode: PythonPath and PythonHandler are written by mod_python.httpdconf.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import types
import unittest
from pathlib import Path
from typing import Any

AGGREGATE = "testPerRequestTests"  # one server, one virtual host for each of the tests that it runs
INSTALL = "__import__('handlers.importer').importer.python_path"
PUBLISHER = "handlers.publisher"

outcomes: dict[str, str] = {}  # by name of the test; the text of the failure, empty where it passed


class Recorder(unittest.TextTestResult):
    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        outcomes[test._testMethodName] = ""

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        outcomes[test._testMethodName] = str(err[1]) or err[0].__name__

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        outcomes[getattr(test, "_testMethodName", str(test))] = f"{err[0].__name__}: {err[1]}"


def runner(only: list[str]) -> type[unittest.TextTestRunner]:
    """The runner that the suite makes for itself: it records, and leaves out what was not asked for."""

    class Runner(unittest.TextTestRunner):
        resultclass = Recorder

        def run(self, test: Any) -> Any:
            wanted = [t for t in test if not only or t._testMethodName in {*only, AGGREGATE}]
            return super().run(unittest.TestSuite(wanted))

    return Runner


def arrange_constants(home: Path, httpd: str, modules: str) -> None:
    import mod_python.version as version

    about = subprocess.run([httpd, "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Apache/([\d.]+)", about)
    version.HTTPD = httpd
    version.HTTPD_VERSION = found[1] if found else ""
    version.TESTHOME = str(home)
    version.LIBEXECDIR = modules
    version.TEST_MOD_PYTHON_SO = f"{modules}/mod_python.so"


def arrange_python(packages: Path) -> None:
    """Names that the suite uses and Python 3.9 and 3.12 have dropped.

    get_python_lib answers with our copy of mod_python: test.py writes a wrong version there.
    """
    base64.encodestring = base64.encodebytes  # type: ignore[attr-defined]
    unittest.TestCase.failUnless = unittest.TestCase.assertTrue  # type: ignore[attr-defined]
    sysconfig = types.ModuleType("distutils.sysconfig")
    sysconfig.get_python_lib = lambda: str(packages)  # type: ignore[attr-defined]
    sys.modules["distutils"] = types.ModuleType("distutils")
    sys.modules["distutils.sysconfig"] = sysconfig


def arrange_mode(importer: bool, publisher: bool) -> None:
    """PythonPath reaches every interpreter: the suite's own expressions are kept, inside of ours."""
    from mod_python import httpdconf

    if importer:
        replace_value(httpdconf.PythonPath, lambda value: f'"{INSTALL}({value.strip(chr(34))})"')
    if publisher:
        replace_value(httpdconf.PythonHandler, lambda value: value.replace("mod_python.publisher", PUBLISHER))


def replace_value(directive: Any, change: Any) -> None:
    original = directive.__init__

    def changed(self: Any, val: str) -> None:
        original(self, change(val))

    directive.__init__ = changed


def interpreters(log: str) -> tuple[int, list[str]]:
    """How many interpreters imported with our importer, and what mod_python's own importer had to say besides."""
    ours = {m[1] for m in re.finditer(r"interpreter='([^']*)'\): Importing module", log)}
    stock = re.findall(r"mod_python: \(Re\)importing module '[^']*'", log)
    return len(ours), stock


def stop_httpd(home: Path) -> None:
    """Whatever the suite has left running, by its pid."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((home / "logs/httpd.pid").read_text()), signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--httpd", required=True)
    parser.add_argument("--modules", required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--importer", action="store_true")
    parser.add_argument("--publisher", action="store_true")
    parser.add_argument("only", nargs="*")
    options = parser.parse_args()

    sys.path.insert(0, str(options.packages))
    os.chdir(options.home)
    arrange_constants(options.home, options.httpd, options.modules)
    arrange_python(options.packages)
    arrange_mode(options.importer, options.publisher)
    unittest.TextTestRunner = runner(options.only)  # type: ignore[misc]
    try:
        runpy.run_path(str(options.home / "test.py"))
    finally:
        stop_httpd(options.home)
        log = options.home / "logs/error_log"
        text = log.read_text(errors="replace") if log.exists() else ""
        ours, stock = interpreters(text)
        crashes = re.findall(r"child pid \d+ exit signal [^(,]*", text)
        found = {"outcomes": outcomes, "interpreters": ours, "stock_imports": stock, "crashes": crashes}
        options.result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
