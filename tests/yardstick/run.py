"""The yardstick: mod_python's own test suite, on the stock package and with ours in its place.

    python tests/yardstick/run.py [--mpm worker|event|prefork] [--keep] CHECKOUT/test [NAME...]

The suite is not part of this project: CHECKOUT is a clone of mod_python (or MOD_PYTHON_TEST names its test/ directory).
Every mode runs a copy of it, on copies of the packages, on ports of 127.0.0.1:

- stock: Debian's mod_python;
- importer: handlers.importer in every interpreter, by PythonPath;
- publisher: the importer, and handlers.publisher wherever the suite names mod_python.publisher.

The exit status is 1 if a test fails that passes on stock, if a child crashes that does not on stock, or if an
interpreter was not reached.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from servers.base import CLEAN_PATH, make_public_dir, remove_tree, serving_user, spawn
from servers.httpd import HTTPD, MODULE_DIR, stage_packages

PYTHON = "/usr/bin/python3"  # the one that mod_python embeds
MOD_PYTHON = Path("/usr/lib/python3/dist-packages/mod_python")
SUITE = Path(__file__).with_name("suite.py")
TIMEOUT = 900.0  # seconds for one mode; the suite itself waits about 40

# Files of the suite that are not in every copy of it.
MIME_TYPES = "text/html html htm\ntext/plain txt\n"
ERROR_PAGE = "fail\n"


@dataclass
class Mode:
    name: str
    arguments: list[str] = field(default_factory=list)
    importer: bool = False


MODES = [
    Mode("stock"),
    Mode("importer", ["--importer"], importer=True),
    Mode("publisher", ["--importer", "--publisher"], importer=True),
]


@dataclass
class Run:
    """One mode's results: the text of the failure for each test, empty where it passed."""

    outcomes: dict[str, str]
    interpreters: int = 0
    stock_imports: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)  # of children of the last and largest server


def prepare(home: Path, source: Path) -> None:
    """A copy of the suite, with the files that it needs and may lack."""
    shutil.copytree(source, home, dirs_exist_ok=True)
    for name in ("conf", "htdocs/subdir"):
        (home / name).mkdir(exist_ok=True)
    for name, text in (("conf/mime.types", MIME_TYPES), ("htdocs/psptest_fail.psp", ERROR_PAGE)):
        if not (home / name).exists():
            (home / name).write_text(text)


def write_httpd(path: Path, packages: Path, mpm: str, mode: Mode) -> None:
    """The httpd that the suite starts: Debian's, in a clean environment, with the directives that it lacks.

    -C stands before the file: a PythonPath of the suite's own comes after this one and replaces it.
    """
    before = [
        f"LoadModule mpm_{mpm}_module {MODULE_DIR}/mod_mpm_{mpm}.so",
        f"LoadModule python_module {MODULE_DIR}/mod_python.so",
        f"DefaultRuntimeDir {path.parent}",
    ]
    if mode.importer:
        before.append("PythonImport psycopg2 main_interpreter")
        before.append("PythonPath \"__import__('handlers.importer').importer.python_path(sys.path)\"")
    environment = {"PATH": CLEAN_PATH, "LANG": "C.UTF-8", "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["TMPDIR"] = str(path.parent)  # its handlers leave files there
    words = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), HTTPD]
    for directive in before:
        words += ["-C", directive]
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)


def run_mode(source: Path, mode: Mode, mpm: str, only: list[str], keep: bool) -> Run:
    base = make_public_dir("yst-")
    home, packages, result = base / "test", base / "packages", base / "result.json"
    try:
        prepare(home, source)
        staged = stage_packages()
        try:
            shutil.copytree(staged, packages)
        finally:
            remove_tree(staged)
        shutil.copytree(MOD_PYTHON, packages / "mod_python")
        shutil.copy(SUITE, base)
        (base / "bin").mkdir()
        write_httpd(base / "bin/httpd", packages, mpm, mode)
        if shutil.which("ab"):  # the suite looks for it beside httpd
            (base / "bin/ab").symlink_to(str(shutil.which("ab")))
        give_to(serving_user(), base)
        command = [PYTHON, "-B", str(base / "suite.py"), "--home", str(home), "--packages", str(packages)]
        command += ["--httpd", str(base / "bin/httpd"), "--modules", str(MODULE_DIR), "--result", str(result)]
        process = spawn([*command, *mode.arguments, *only], log=base / "output", user=serving_user(), cwd=home)
        try:
            process.wait(TIMEOUT)
        finally:
            if process.poll() is None:
                stop(process, home)
        if not result.exists():
            output = (base / "output").read_text(errors="replace")
            raise SystemExit(f"{mode.name}: the suite did not finish:\n{output[-4000:]}")
        return Run(**json.loads(result.read_text()))
    finally:
        if keep:
            print(f"{mode.name}: kept in {base}")
        else:
            remove_tree(base)


def give_to(user: str | None, tree: Path) -> None:
    if user is not None:
        subprocess.run(["chown", "-R", f"{user}:", str(tree)], check=True)


def stop(process: subprocess.Popen[bytes], home: Path) -> None:
    """Interrupted or too late: the suite's process, and the httpd that it has started as a daemon."""
    process.kill()
    process.wait()
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((home / "logs/httpd.pid").read_text()), signal.SIGTERM)


def table(runs: dict[str, Run]) -> list[str]:
    """Print a line for each test; return what is worse than stock."""
    names = list(dict.fromkeys(name for run in runs.values() for name in run.outcomes))
    width = max(len(name) for name in names)
    print(f"{'test':{width}}  " + "  ".join(f"{mode:9}" for mode in runs))
    worse = []
    for name in names:
        cells = []
        for mode, run in runs.items():
            outcome = run.outcomes.get(name)
            cells.append("-" if outcome is None else "FAILED" if outcome else "ok")
            if mode != "stock" and outcome != "" and runs["stock"].outcomes.get(name) == "":
                worse.append(f"{mode}: {name}: {outcome or 'did not run'}")
        print(f"{name:{width}}  " + "  ".join(f"{cell:9}" for cell in cells))
    totals = [f"{list(r.outcomes.values()).count('')} of {len(r.outcomes)}" for r in runs.values()]
    print(f"{'passed':{width}}  " + "  ".join(f"{total:9}" for total in totals))
    return worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mpm", default="worker", choices=["worker", "event", "prefork"])
    parser.add_argument("--keep", action="store_true", help="leave the directories, with logs, for a look")
    parser.add_argument("--mode", action="append", choices=[mode.name for mode in MODES[1:]], help="beside stock; all")
    parser.add_argument("arguments", nargs="*", metavar="CHECKOUT/test [NAME...]")
    options = parser.parse_args()

    given = list(options.arguments)
    place = os.environ.get("MOD_PYTHON_TEST") or (given.pop(0) if given else "")
    source = Path(place)
    if not place or not (source / "test.py").is_file():
        raise SystemExit("name the test/ directory of a clone of mod_python, or set MOD_PYTHON_TEST")

    modes = [mode for mode in MODES if mode.name == "stock" or not options.mode or mode.name in options.mode]
    runs = {mode.name: run_mode(source, mode, options.mpm, given, options.keep) for mode in modes}
    problems = table(runs)
    for mode in modes[1:]:
        run = runs[mode.name]
        print(f"{mode.name}: the importer was at work in {run.interpreters} interpreters")
        problems += [f"{mode.name}: stock importer at work: {line}" for line in run.stock_imports]
        if len(run.crashes) > len(runs["stock"].crashes):
            problems += [f"{mode.name}: {crash}" for crash in run.crashes]
        if not run.interpreters:
            problems.append(f"{mode.name}: the importer was nowhere at work")
    for name, run in runs.items():
        for test, outcome in run.outcomes.items():
            if outcome:
                print(f"\n{name}: {test}: {outcome}")
    if problems:
        print("\nWorse than stock:", *problems, sep="\n  ")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
