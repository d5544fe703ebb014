"""docker/start.py: what the image's entry point makes of the environment it is given."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from psycopg2.extensions import parse_dsn

FILE = Path(__file__).resolve().parents[2] / "docker" / "start.py"
DEFAULTS = {"APACHE_LISTEN": "8080", "APACHE_PROCESSES": "2", "APACHE_THREADS": "15", "PATH": "/opt/bin:/bin"}


@pytest.fixture(scope="module")
def start() -> ModuleType:
    spec = importlib.util.spec_from_file_location("container_start", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prepare(start: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict]]:
    """`prepare(NAME="value")`: the environment that Apache gets, its runtime directory in *tmp_path*."""
    monkeypatch.setattr(start, "MEMORY", tmp_path)
    yield lambda **given: start.prepare({**DEFAULTS, **given})


def passwords(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def test_what_is_given_is_passed_on(prepare):
    made = prepare(LANG="fr_CH", HOME="/root", SITE_COLOUR="green", MPOOL_MAX_SIZE="3")
    assert made["SITE_COLOUR"] == "green" and made["MPOOL_MAX_SIZE"] == "3"
    assert made["LANG"] == "C.UTF-8" and made["HOME"] == made["RUNTIME_DIR"]
    assert made["APACHE_WORKERS"] == "30"


def test_a_password_from_a_file_goes_to_a_passfile(prepare, tmp_path):
    (tmp_path / "secret").write_text(" a:b\\c é \n", encoding="utf-8")
    made = prepare(PGPASSWORD_FILE=str(tmp_path / "secret"))
    assert "PGPASSWORD" not in made and "PGPASSWORD_FILE" not in made
    assert passwords(made["PGPASSFILE"]) == ["*:*:*:*: a\\:b\\\\c é "]
    assert Path(made["PGPASSFILE"]).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("pool", ["", "REPORTS_"])
@pytest.mark.parametrize("text", ["host=a,b password='p w' dbname=x", "postgresql://u:p%20w@a,b/x"])
def test_a_conninfo_from_a_file_loses_its_password_to_a_passfile(prepare, tmp_path, pool, text):
    (tmp_path / "secret").write_text(text, encoding="utf-8")
    made = prepare(**{f"MPOOL_{pool}CONNINFO_FILE": str(tmp_path / "secret")})
    parts = parse_dsn(made[f"MPOOL_{pool}CONNINFO"])
    assert passwords(parts.pop("passfile")) == ["*:*:*:*:p w"]
    assert (parts["host"], parts["dbname"]) == ("a,b", "x") and "password" not in parts


def test_pools_have_passfiles_of_their_own(prepare, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"password={name}")
    made = prepare(MPOOL_CONNINFO_FILE=str(tmp_path / "one"), MPOOL_REPORTS_CONNINFO_FILE=str(tmp_path / "two"))
    files = [parse_dsn(made[name])["passfile"] for name in ("MPOOL_CONNINFO", "MPOOL_REPORTS_CONNINFO")]
    assert [passwords(file)[0] for file in files] == ["*:*:*:*:one", "*:*:*:*:two"]


@pytest.mark.parametrize(
    "variable", ["MPOOL_CONNECT_TIMEOUT", "MPOOL_REPORTS_CONNECT_TIMEOUT", "MPOOL_A_B_TIMEOUT", "MPOOL_PORT_80_TCP"]
)
def test_options_of_any_pool_are_known(prepare, variable):
    assert prepare(**{variable: "3"})[variable] == "3"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"MPOOL_MAX_SISE": "1"}, "MPOOL_MAX_SISE: a pool has no such option"),
        ({"MPOOL_CONFIGURE": "x"}, "MPOOL_CONFIGURE: a pool has no such option"),
        ({"MPOOL_POOL": "none"}, "pool default: option pool must be one of"),
        ({"MPOOL_REPORTS_MIN_SIZE": "20"}, r"pool reports: max_size \(10\) must not be below min_size \(20\)"),
        ({"MPOOL_LEAK_STACKS": "perhaps"}, "MPOOL_LEAK_STACKS: must be On or Off, not 'perhaps'"),
        ({"APACHE_PROCESSES": ""}, "APACHE_PROCESSES must be a number from 1 to 100, not ''"),
        ({"APACHE_LISTEN": "65536"}, "APACHE_LISTEN must be a number from 1 to 65535, not '65536'"),
        ({"PGPASSWORD_FILE": "/nowhere/at/all"}, "PGPASSWORD_FILE: /nowhere/at/all: No such file or directory"),
        ({"MPOOL_CONNINFO": "x=1 password=hidden"}, r"pool default: conninfo is neither .* \(it is not shown here\)"),
    ],
)
def test_a_mistake_is_named(prepare, given, said):
    with pytest.raises(ValueError, match=said) as caught:
        prepare(**given)
    assert "\n" not in str(caught.value) and "hidden" not in str(caught.value)


def test_a_secret_of_two_lines_or_none_is_a_mistake(prepare, tmp_path):
    for text in ("", "\n", "one\ntwo\n"):
        (tmp_path / "secret").write_text(text)
        with pytest.raises(ValueError, match="must hold one line"):
            prepare(PGPASSWORD_FILE=str(tmp_path / "secret"))


def test_a_wrong_conninfo_of_a_file_is_not_shown(prepare, tmp_path):
    (tmp_path / "secret").write_text("nonsense=1 password=hidden")
    with pytest.raises(ValueError, match="MPOOL_CONNINFO_FILE: conninfo is neither") as caught:
        prepare(MPOOL_CONNINFO_FILE=str(tmp_path / "secret"))
    assert "hidden" not in str(caught.value)


def test_the_readme_names_every_variable_of_the_image():
    root = FILE.parents[1]
    dockerfile = (root / "docker" / "Dockerfile").read_text(encoding="utf-8")
    variables = set(re.findall(r"^(?:ENV| {3}) (APACHE_\w+)=(\w+)", dockerfile, re.MULTILINE))
    assert dict(variables) == {name: value for name, value in DEFAULTS.items() if name != "PATH"}
    readme = (root / "README.rst").read_text(encoding="utf-8")
    section = readme.partition("\nIn Docker\n")[2].partition("\nOne site, one command\n")[0]
    for name in (*DEFAULTS, "PGPASSWORD_FILE", "MPOOL_CONNINFO_FILE", "MPOOL_NAME_CONNINFO_FILE"):
        assert name == "PATH" or f"``{name}``" in section
