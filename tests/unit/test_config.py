"""PoolConfig from keywords, PythonOption text, the environment."""

from __future__ import annotations

import pytest

from mpool import PoolConfig
from mpool.config import options_from_environment, options_from_pythonoption, parse_conninfo
from mpool.engine.opening import application_name


@pytest.mark.parametrize(
    "option",
    [
        {"min_size": -1}, {"max_size": 0}, {"min_size": 3, "max_size": 2}, {"timeout": -1}, {"max_idle": 0},
        {"max_lifetime": 0}, {"num_workers": 0}, {"check_bypass": -0.1}, {"max_waiting": -1}, {"leak_after": -1},
        {"max_idle": float("nan")},
    ],
)  # fmt: skip
def test_wrong_values_fail_at_construction_and_name_the_option(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        PoolConfig(**option)


def test_no_secret_in_a_repr_or_in_an_error():
    config = PoolConfig(conninfo="host=a password=hush", kwargs={"password": "hush"})
    assert "hush" not in repr(config)
    with pytest.raises(ValueError) as caught:
        PoolConfig(conninfo="host=a password hush")
    assert "hush" not in str(caught.value) and caught.value.__cause__ is None
    assert parse_conninfo("postgresql://me@here/there")["host"] == "here"


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://me:hu@sh@127.0.0.1:1/there", "postgresql://me:hu/sh@127.0.0.1:1/there",
        "postgresql://me:hu%sh@127.0.0.1:1/there", "postgresql://me:hush@[::1/there", "postgres://me:1/hush@127.0.0.1/x",
        "postgresql://me:hu?s/h@127.0.0.1/there", "host=127.0.0.1 password=my hush word", "host=a port=hush",
    ],
)  # fmt: skip
def test_a_password_that_breaks_the_conninfo_is_not_quoted(conninfo):
    with pytest.raises(ValueError, match="not shown here") as caught:
        PoolConfig(conninfo=conninfo)
    assert not any(part in str(caught.value) for part in ("hu", "sh@", "127"))


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://me:hu%40s%2Fh@127.0.0.1:1/there", "postgresql://a:1,b:2/there?user=me@here", "postgresql:///there",
        "postgresql://%2Ftmp/there", "host=/tmp,b port=5432,5433", "host=@abstract user=me@here", "host=a,b port=,5433",
    ],
)  # fmt: skip
def test_unusual_conninfo_is_accepted(conninfo):
    assert parse_conninfo(PoolConfig(conninfo=conninfo).conninfo)


def test_pythonoption_text():
    table = {
        "mpool.max_size": "8", "mpool.timeout": "2.5", "mpool.leak_stacks": "On", "mpool.reset_session": "off",
        "mpool.reports.max_size": "2", "mpool.reports.conninfo": "host=r", "handlers.x": "y",
    }  # fmt: skip
    assert options_from_pythonoption(table) == {
        "max_size": 8, "timeout": 2.5, "leak_stacks": True, "reset_session": False,
    }  # fmt: skip
    reports = options_from_pythonoption(table, "reports")
    assert reports["max_size"] == 2 and reports["conninfo"] == "host=r" and reports["timeout"] == 2.5


@pytest.mark.parametrize(
    "key, value",
    [("mpool.max_size", "x"), ("mpool.leak_stacks", "maybe"), ("mpool.timeout", "nan"), ("mpool.no_such", "1"),
     ("mpool.configure", "f"), ("mpool.reports.no_such", "1")],
)  # fmt: skip
def test_a_wrong_pythonoption_is_named(key, value):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        options_from_pythonoption({key: value})


def test_environment():
    environment = {
        "MPOOL_MAX_SIZE": "8", "MPOOL_REPORTS_MAX_SIZE": "2", "MPOOL_A_B_TIMEOUT": "1", "MPOOL_OTHER": "ignored",
    }  # fmt: skip
    assert options_from_environment(environment) == {"max_size": 8}
    assert options_from_environment(environment, "reports") == {"max_size": 2}
    assert options_from_environment(environment, "a-b") == {"max_size": 8, "timeout": 1.0}
    with pytest.raises(ValueError, match="MPOOL_MAX_SIZE"):
        options_from_environment({"MPOOL_MAX_SIZE": "x"})


def test_application_name_fits_into_63_bytes():
    assert application_name("default").startswith("mpool/")
    assert application_name("default", "mine").endswith("/python/default mine")
    assert len(application_name("x" * 100)) == 63
    assert len(application_name("päule" * 20).encode()) == 63
