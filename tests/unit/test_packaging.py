"""What `pip install .` and an sdist carry: the packages, the example site, the Apache samples, the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCE = (".*", "__pycache__", "*.egg-info", "build", "dist")


def run(*command: str | Path, cwd: Path) -> str:
    # The build's own warnings are setuptools' business, and Apache's environment is not this one.
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONWARNINGS", "PYTHONPATH")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: a build leaves directories behind."""
    copy = tmp_path_factory.mktemp("build") / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return copy


@pytest.fixture(scope="module")
def sdist(source: Path) -> Path:
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", source.parent, cwd=source)
    (archive,) = source.parent.glob("mpool-*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Built from the sdist: what that one lacks is missing here too."""
    directory = sdist.parent
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", directory, sdist, cwd=directory)
    (found,) = directory.glob("mpool-*.whl")
    return found


def relative_files(directory: str, pattern: str = "*") -> set[str]:
    paths = (ROOT / directory).rglob(pattern)
    return {str(path.relative_to(ROOT)) for path in paths if path.is_file() and "__pycache__" not in path.parts}


def test_the_sdist_has_sources_samples_site_and_tests(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {"LICENSE", "README.rst", "CHANGELOG.rst", "Makefile", "pyproject.toml", "setup.py"}
    for directory, pattern in (("mpool", "*"), ("handlers", "*"), ("apache-conf", "*.conf"), ("tests", "*.py")):
        expected |= relative_files(directory, pattern)
    assert expected - names == set()
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_has_packages_and_their_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert (relative_files("mpool") | relative_files("handlers")) - names == set()
    data = {name.partition("/data/share/mpool/")[2] for name in names}
    assert relative_files("apache-conf", "*.conf") - data == set()
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


def test_the_installed_command_finds_its_samples(wheel, tmp_path):
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    # Ignored: this Python may have the package already, and pip would leave it at that.
    run(*pip, "install", "--ignore-installed", "--no-deps", "--no-index", "--prefix", tmp_path, wheel, cwd=tmp_path)
    (site_packages,) = {path.parent for path in tmp_path.rglob("mpool") if (path / "__init__.py").exists()}
    ask = "from mpool.tools.webserver import sample_configuration as s; print(s('worker'))"
    found = run(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site_packages)!r}); {ask}", cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(tmp_path.resolve())
    (command,) = tmp_path.rglob("bin/mpool")
    environment = {**os.environ, "PYTHONPATH": str(site_packages)}
    done = subprocess.run([command, "serve", "--help"], env=environment, capture_output=True, text=True, check=True)
    assert "mpool serve handlers/examples" in done.stdout
