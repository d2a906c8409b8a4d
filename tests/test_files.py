"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mica.errors import InputError
from mica.files import atomic_path, refuse_existing


def test_success_leaves_the_file_alone_in_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "a.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent  # a rename is atomic within one file system
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_failure_leaves_everything_as_it_was(
    tmp_path: Path, error: type[BaseException], existing: bool
) -> None:
    target = tmp_path / "a.txt"
    if existing:
        target.write_text("before")

    def write() -> None:
        with atomic_path(target, overwrite=True) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert os.listdir(tmp_path) == (["a.txt"] if existing else [])
    if existing:
        assert target.read_text() == "before"


def test_existing_file_is_refused_before_any_work(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")
    with (
        pytest.raises(InputError, match=r"a\.txt: exists already\n  hint: pass --overwrite"),
        atomic_path(target),
    ):
        pytest.fail("the body must not run")
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_existing_file_is_replaced_whole_when_told(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("a long text that was there before")
    with target.open() as reader, atomic_path(target, overwrite=True) as temporary:
        temporary.write_text("short")
        assert reader.read() == "a long text that was there before"
    assert target.read_text() == "short"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_file_has_the_rights_of_any_other(tmp_path: Path, mask: int) -> None:
    previous = os.umask(mask)
    try:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("")
        (tmp_path / "b.txt").write_text("")
    finally:
        os.umask(previous)
    ours, usual = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt"))
    assert ours == usual


def test_refuse_existing(tmp_path: Path) -> None:
    assert refuse_existing(str(tmp_path / "new"), overwrite=False) == tmp_path / "new"
    assert refuse_existing(tmp_path, overwrite=True) == tmp_path
    with pytest.raises(InputError, match="exists already"):
        refuse_existing(tmp_path, overwrite=False)
