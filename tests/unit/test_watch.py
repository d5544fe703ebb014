"""The look at many files at once: what it takes for unchanged, and what it leaves to a closer one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from handlers.reload import files, watch
from handlers.reload.watch import Watch


@pytest.fixture
def directory(tmp_path):
    if not os.major(tmp_path.stat().st_dev):
        pytest.skip("the directory for temporary files is on no disk")
    return tmp_path


def noted(paths: list[Path]) -> Watch:
    watched = Watch([str(path) for path in paths])
    watched.note([files.signature_of(str(path)) for path in paths])
    return watched


def written(directory: Path, count: int = 3) -> list[Path]:
    paths = [directory / f"m{number}.py" for number in range(count)]
    for path in paths:
        path.write_text("x = 1\n")
    return paths


def test_files_that_nobody_touches_are_unchanged(directory):
    watched = noted(written(directory))
    assert watched.is_unchanged()
    assert watched.is_unchanged()


def test_nothing_counts_as_unchanged_before_it_was_noted(directory):
    assert not Watch([str(path) for path in written(directory)]).is_unchanged()


def _write(path: Path) -> None:
    path.write_text("x = 2\n")


def _write_with_the_old_time(path: Path) -> None:
    before = path.stat()
    path.write_text("x = 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path) -> None:
    before = path.stat()
    other = path.with_suffix(".new")
    other.write_text("x = 2\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def _move_away_and_back(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.with_suffix(".old").rename(path)


def _make_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    "change",
    [_write, _write_with_the_old_time, _replace, _move_away_and_back, _make_a_directory, os.unlink],
    ids=lambda change: change.__name__.strip("_"),
)
def test_each_change_of_any_file_is_seen(directory, change, number):
    paths = written(directory)
    watched = noted(paths)
    change(paths[number])
    assert not watched.is_unchanged()


def test_a_file_that_changed_before_it_was_noted_is_not_taken_for_what_was_loaded(directory):
    paths = written(directory)
    loaded = [files.signature_of(str(path)) for path in paths]
    paths[1].write_text("x = 22\n")
    watched = Watch([str(path) for path in paths])
    watched.note(loaded)
    assert not watched.is_unchanged()


def test_the_closer_look_is_noted_in_its_turn(directory):
    paths = written(directory)
    watched = noted(paths)
    _write(paths[0])
    assert not watched.is_unchanged()
    watched.note([files.signature_of(str(path)) for path in paths])
    assert watched.is_unchanged()


def test_a_name_that_is_not_ascii_is_found(directory):
    path = directory / "größe.py"
    path.write_text("x = 1\n")
    watched = noted([path])
    assert watched.is_unchanged()
    _write(path)
    assert not watched.is_unchanged()


def test_what_is_on_no_disk_of_this_machine_is_left_to_os_stat():
    memory = Path("/dev/shm")
    if not memory.is_dir() or os.major(memory.stat().st_dev):
        pytest.skip("there is no file system in memory")
    directory = Path(tempfile.mkdtemp(dir=memory))
    try:
        assert not noted(written(directory)).is_unchanged()
    finally:
        shutil.rmtree(directory)


def test_a_c_library_without_statx_leaves_all_to_os_stat(directory, monkeypatch):
    monkeypatch.setattr(watch, "_statx", None)
    assert not noted(written(directory)).is_unchanged()


@pytest.fixture
def clock(monkeypatch):
    """What `watch` takes for the time; a test sets it."""
    times = [1_000_000.0]
    monkeypatch.setattr(watch.time, "time", lambda: times[0])
    return times


def test_a_look_of_another_thread_will_do_where_it_began_after_the_request_had_come(directory, clock):
    (path,) = written(directory, 1)
    watched = noted([path])
    came = clock[0]
    clock[0] += watch.MOMENT / 4
    assert watched.is_unchanged(since=came)
    _write(path)
    clock[0] += watch.MOMENT / 4
    assert watched.is_unchanged(since=came), "the other request's look has been asked for"
    assert not watched.is_unchanged(since=clock[0]), "the request came after the last look"
    assert not watched.is_unchanged(), "nobody says when it came"


@pytest.mark.parametrize("later", [watch.MOMENT, -watch.MOMENT], ids=["too long ago", "the clock was set back"])
def test_a_look_of_another_thread_will_not_do(directory, clock, later):
    (path,) = written(directory, 1)
    watched = noted([path])
    came = clock[0] - 1
    assert watched.is_unchanged(since=came)
    _write(path)
    clock[0] += later
    assert not watched.is_unchanged(since=came)
