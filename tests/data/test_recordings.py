from __future__ import annotations

import errno
import os
import pickle
import zipfile
from pathlib import Path

import pytest

from mica.data.recordings import Folder, SingleFile, Unreadable, Zip, open_source
from mica.errors import InputError

FILES = {
    "b/Two.TXT": b"two",
    "a/one.txt": b"one",
    "a/._one.txt": b"fork",
    "note.md": b"#",
    ".hidden.txt": b"",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, content in FILES.items():
        file = tmp_path / "raw" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "raw"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "raw.ZIP", "w") as file:
        file.mkdir("b")
        for path, content in FILES.items():
            file.writestr(path, content)
    return tmp_path / "raw.ZIP"


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_what_is_there(kind: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(kind)
    source = open_source(str(root))
    assert isinstance(source, Folder if kind == "folder" else Zip)
    found = source.list(".txt")
    assert [(file.path, file.name, file.size) for file in found] == [
        ("a/one.txt", "one.txt", 3),
        ("b/Two.TXT", "Two.TXT", 3),
    ]
    assert [file.path for file in source.list(".md", ".txt")][-1] == "note.md"
    assert source.list(".json") == []
    for reader in (source, pickle.loads(pickle.dumps(source))):
        assert [reader.read(file.path) for file in found] == [b"one", b"two"]
    assert source.where("a/one.txt") == f"{root}/a/one.txt"


def test_a_stamp_changes_with_the_content(folder: Path, archive: Path) -> None:
    (before,) = open_source(folder).list("one.txt")
    os.utime(folder / "a/one.txt", ns=(0, 5))
    assert open_source(folder).list("one.txt")[0].stamp == 5 != before.stamp
    (before,) = open_source(archive).list("one.txt")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/one.txt", b"eno")
    assert open_source(archive).list("one.txt")[0].stamp != before.stamp


def test_a_file_by_itself(folder: Path) -> None:
    source = open_source(folder / "a/one.txt")
    assert isinstance(source, SingleFile)
    (only,) = source.list(".txt")
    assert (only.path, source.read(only.path)) == ("one.txt", b"one")
    assert source.where(only.path) == str(folder / "a/one.txt")
    assert source.list(".csv") == []


def test_links_to_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "three.txt").touch()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert "linked/three.txt" in [file.path for file in open_source(folder).list(".txt")]


def test_a_folder_that_cannot_be_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = os.scandir

    def refuse(place: str) -> object:
        if str(place).endswith("/a"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return look(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="folder cannot be read: Permission denied") as caught:
        open_source(folder).list(".txt")
    assert caught.value.file == str(folder / "a")


def test_links_to_nowhere(folder: Path) -> None:
    (folder / "gone.md").symlink_to("nowhere.md")
    assert len(open_source(folder).list(".txt")) == 2  # of no kind that is asked for
    for name in ("gone.txt", "gone.zip"):  # a zip may hold anything
        (folder / name).symlink_to("nowhere.txt")
        with pytest.raises(InputError, match=r"(?s)a link to nowhere, nowhere\.txt.*remove it") as caught:
            open_source(folder).list(".txt")
        assert caught.value.file == folder / name
        (folder / name).unlink()


@pytest.mark.parametrize("inside", [False, True])
def test_what_the_system_does_not_read_is_told_from_what_is_damaged(
    folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    source = open_source(archive if inside else folder)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zipfile.ZipFile if inside else Path, "read" if inside else "read_bytes", fail)
    with pytest.raises(Unreadable, match=r"one\.txt: cannot be read: Input/output error"):
        source.read("a/one.txt")
    monkeypatch.undo()
    monkeypatch.setattr(zipfile, "ZipFile", fail)
    with pytest.raises(Unreadable, match=r"raw\.ZIP: cannot be read: Input/output error"):
        open_source(archive).list(".txt")


def test_what_cannot_be_read(folder: Path, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or directory"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"gone\.txt: cannot be read: No such file"):
        open_source(folder).read("gone.txt")
    archive.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="not a zip"):
        open_source(archive).list(".txt")


def test_an_encrypted_entry_is_refused(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    start = content.index(b"PK\x01\x02")
    while start >= 0:
        content[start + 8] |= 1
        start = content.find(b"PK\x01\x02", start + 1)
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"one\.txt: cannot be unpacked: .*password"):
        open_source(archive).read("a/one.txt")


def test_zips_in_a_folder_are_folders_of_their_own(folder: Path, archive: Path) -> None:
    """As the two archives of NTU RGB+D 120 are."""
    archive.rename(folder / "raw.ZIP")
    (folder / "b.zip").mkdir()
    (folder / "b.zip" / "four.txt").write_bytes(b"four")
    (folder / "._raw.zip").write_bytes(b"no zip")
    source = pickle.loads(pickle.dumps(open_source(folder)))
    found = {file.path: source.read(file.path) for file in source.list(".txt")}
    assert found == {
        "a/one.txt": b"one",
        "b/Two.TXT": b"two",
        "b.zip/four.txt": b"four",
        "raw.ZIP/a/one.txt": b"one",
        "raw.ZIP/b/Two.TXT": b"two",
    }
    assert source.where("raw.ZIP/a/one.txt") == f"{folder}/raw.ZIP/a/one.txt"
