"""The engine behind `mica prepare`: the same bytes however often it is killed and whoever reads."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mica.data.formats import prepare
from mica.data.preparation import shards as shards_module
from mica.data.store import Store, WriteSummary
from mica.errors import InputError

from .folders import body

CLIPS = 30


def write_clip(folder: Path, number: int, frames: int = 6) -> Path:
    subject, episode = 1 + number % 10, number // 10
    name = f"a01_s{subject:02d}_e{episode:02d}_v01"
    skeletons = np.random.default_rng(number).normal(size=(frames, 20, 3)).tolist()
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"file_name": name, "label": 1, "skeletons": skeletons}))
    return file


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(CLIPS):
        write_clip(folder, number)
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_SHARD_UNITS", 4)


def prepared(raw: Path, out: Path, **options: object) -> WriteSummary:
    return prepare("nw-ucla", raw, out, progress=False, **options)  # type: ignore[arg-type]


def test_the_number_of_processes_does_not_show(raw: Path, tmp_path: Path) -> None:
    one, three = tmp_path / "one.arrow", tmp_path / "three.arrow"
    assert prepared(raw, one, processes=1).clips == prepared(raw, three, processes=3).clips == CLIPS
    assert one.read_bytes() == three.read_bytes()
    assert Store.open(one).names.tolist() == sorted(file.stem for file in raw.iterdir())


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_as_the_folder_is(raw: Path, tmp_path: Path, compression: int) -> None:
    archive = tmp_path / "release.zip"
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in raw.iterdir():
            file.write(path, f"release/all_sqe/{path.name}")
            file.writestr(f"__MACOSX/release/all_sqe/._{path.name}", b"\x00\x05")
    prepared(raw, tmp_path / "folder.arrow")
    prepared(archive, tmp_path / "zip.arrow", processes=2)
    assert (tmp_path / "folder.arrow").read_bytes() == (tmp_path / "zip.arrow").read_bytes()


def test_damage_in_a_zip_names_the_file_inside(raw: Path, tmp_path: Path) -> None:
    archive = tmp_path / "release.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(raw.iterdir()):
            file.write(path, path.name)
    content = bytearray(archive.read_bytes())
    content[content.index(b"skeletons") + 20] ^= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"a01_s01_e00_v01\.json: cannot be unpacked.*CRC"):
        prepared(archive, tmp_path / "x.arrow")
    archive.write_bytes(content[:-30])
    with pytest.raises(InputError, match="not a zip"):
        prepared(archive, tmp_path / "x.arrow")


COMMAND = """
import sys
from mica.data.preparation import shards
shards._SHARD_UNITS = 1
from mica.data.formats import prepare
if __name__ == "__main__":
    print(prepare("nw-ucla", sys.argv[1], sys.argv[2], progress=False, processes=2))
"""


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in found.read_text().split()] if found.exists() else []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_killed_at_any_point_it_goes_on_and_ends_in_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    script, out, undisturbed = tmp_path / "command.py", tmp_path / "x.arrow", tmp_path / "whole.arrow"
    script.write_text(COMMAND)
    run = [sys.executable, str(script), str(raw)]
    subprocess.run([*run, str(undisturbed)], check=True, capture_output=True)
    draw = random.Random(0)
    work = tmp_path / "x.arrow.work"
    kills = orphans_seen = done = 0
    while not out.exists():
        process = subprocess.Popen([*run, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        aim = done + draw.randint(1, 8)  # shards after which it dies
        while process.poll() is None and len(list(work.glob("*.json"))) < aim:
            time.sleep(0.001)
        if process.poll() is None:
            readers = children(process.pid)
            process.send_signal(signal.SIGKILL)
            kills += 1
            orphans_seen += len(readers)
            deadline = time.monotonic() + 20
            while any(is_running(reader) for reader in readers) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not any(is_running(reader) for reader in readers), "a reader outlived its parent"
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        done = len(list(work.glob("*.json")))
    assert kills >= 2
    assert orphans_seen
    assert out.read_bytes() == undisturbed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["command.py", "raw", "whole.arrow", "x.arrow"]


def is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def stamps(work: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in work.glob("*.arrow")}


def test_damaged_files_cost_only_their_shard(raw: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "x.arrow", tmp_path / "x.arrow.work"
    files = sorted(raw.iterdir())
    whole = files[9].read_text()
    for file in (files[9], files[21]):
        file.write_text(whole[:100])
    with pytest.raises(InputError) as caught:
        prepared(raw, out)
    message = str(caught.value)
    assert caught.value.file == str(files[9])
    assert caught.value.clip == files[9].stem
    assert "and 1 more damaged file: " in message
    assert "--skip-broken" in message
    assert not out.exists()
    before = stamps(work)
    assert len(before) == 8  # 30 files by 4
    report = list(csv.DictReader((tmp_path / "x.report.csv").open()))
    assert [(row["name"], row["outcome"]) for row in report] == [
        (str(files[9]), "damaged"),
        (str(files[21]), "damaged"),
    ]

    summary = prepared(raw, out, skip_broken=True)  # reads nothing again
    assert summary.clips == CLIPS - 2
    assert summary.left_out == {"damaged file": 2}
    assert "left out 2: damaged file" in str(summary)
    assert not work.exists()
    out.unlink()
    (tmp_path / "x.report.csv").unlink()

    with pytest.raises(InputError):
        prepared(raw, out)
    before = stamps(work)
    files[9].write_text(whole)
    write_clip(raw, int(files[21].stem[5:7]) - 1 + 10 * int(files[21].stem[9:11]))
    seen = []
    read = shards_module.read_shard
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mica.data.preparation.engine.read_shard", lambda *given: (seen.append(given[2]), read(*given))
        )
        assert prepared(raw, out, processes=1).clips == CLIPS
    assert len(seen) == 2
    assert not {shard.clips.name for shard in seen} & before.keys()
    assert not (tmp_path / "x.report.csv").exists()


def test_where_every_file_is_damaged_nothing_is_left(raw: Path, tmp_path: Path) -> None:
    for file in raw.iterdir():
        file.write_text("{")
    with pytest.raises(InputError, match=f"and {CLIPS - 1} more damaged files") as caught:
        prepared(raw, tmp_path / "x.arrow", skip_broken=True)
    assert "skip-broken" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [raw]


def locked(monkeypatch: pytest.MonkeyPatch, *files: Path) -> None:
    """The system does not let us read these files; the rights themselves would not keep the superuser out."""
    read = Path.read_bytes

    def refuse(file: Path) -> bytes:
        if file in files:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", refuse)


def test_a_file_that_could_not_be_read_is_tried_again(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "x.arrow", tmp_path / "x.arrow.work"
    files = sorted(raw.iterdir())
    with monkeypatch.context() as patch:
        locked(patch, files[9])
        with pytest.raises(InputError, match="cannot be read: Permission denied") as caught:
            prepared(raw, out, processes=1)
        assert str(caught.value.file) == str(files[9])
        before = stamps(work)
        with pytest.raises(InputError, match="cannot be read: Permission denied"):
            prepared(raw, out, processes=1)
        again = stamps(work)
    assert [name[:6] for name in before if again[name] != before[name]] == ["000002"]
    assert prepared(raw, out, processes=1).clips == CLIPS
    assert not work.exists()


def test_a_file_that_could_not_be_read_is_left_out_on_request(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sorted(raw.iterdir())[9]
    locked(monkeypatch, file)
    summary = prepared(raw, tmp_path / "x.arrow", processes=1, skip_broken=True)
    assert (summary.clips, summary.left_out) == (CLIPS - 1, {"file that could not be read": 1})
    _, (name, outcome, problem) = csv.reader((tmp_path / "x.report.csv").open())
    assert (name, outcome, problem) == (str(file), "not read", "cannot be read: Permission denied")


TABLE = "file,label,subject\n" + "".join(f"{i}.npy,{'ab'[i % 2]},{i}\n" for i in range(1, 5))


def own_folder(folder: Path, table: str = TABLE, still: tuple[int, ...] = ()) -> Path:
    """Own recordings of four people; nobody is in those of `still`."""
    folder.mkdir()
    (folder / "clips.csv").write_text(table)
    for i in range(1, 5):
        np.save(folder / f"{i}.npy", np.zeros((4, 20, 3)) if i in still else body(seed=i))
    return folder


def own(raw: Path, out: Path, **options: object) -> WriteSummary:
    how = {"layout": "kinect-20", "frame_rate": 30.0, "progress": False, "processes": 1}
    return prepare("folder", raw, out, **{**how, **options})  # type: ignore[arg-type]


def test_a_name_that_is_no_text_is_reported(tmp_path: Path) -> None:
    raw = own_folder(tmp_path / "raw")
    stray = os.fsdecode(b"caf\xe9.npy")
    (raw / stray).write_bytes(b"")
    summary = own(raw, tmp_path / "x.arrow")
    assert summary.left_out == {"not in clips.csv": 1}
    assert summary.report is not None
    assert summary.report.read_text(encoding="utf-8").splitlines()[1] == (
        r"caf\udce9.npy,left out,not in clips.csv"
    )


def test_where_every_clip_is_left_out_it_says_why(tmp_path: Path) -> None:
    raw, out = own_folder(tmp_path / "raw", still=(1, 2, 3, 4)), tmp_path / "x.arrow"
    np.save(raw / "5.npy", body())
    with pytest.raises(InputError, match="all 5 left out, 4 of them: no body in any frame") as caught:
        own(raw, out)
    assert caught.value.file == out
    assert str(tmp_path / "x.report.csv") in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "x.report.csv"]
    shutil.rmtree(raw)
    assert own(own_folder(raw), out, overwrite=True).clips == 4


def test_where_nothing_of_a_big_file_is_kept_it_says_why(tmp_path: Path) -> None:
    x = np.zeros((3, 5, 150), np.float32)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 0, 1], x_test=x[:1], y_test=[0])
    with pytest.raises(InputError, match="all 4 left out, 4 of them: no body in any frame") as caught:
        prepare("ctr-gcn", tmp_path / "a.npz", tmp_path / "x.arrow", progress=False)
    assert caught.value.file == tmp_path / "x.arrow"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "x.report.csv"]


def test_a_report_without_its_store_is_left_alone(tmp_path: Path) -> None:
    raw, out, report = own_folder(tmp_path / "raw"), tmp_path / "x.arrow", tmp_path / "x.report.csv"
    report.write_text("precious")
    for write in (partial(own, raw), partial(prepare, "synthetic", None, progress=False)):
        with pytest.raises(InputError, match="exists already") as caught:
            write(out)
        assert caught.value.file == report
        assert report.read_text() == "precious"
        assert sorted(tmp_path.iterdir()) == [raw, report]
    own(raw, out, overwrite=True)
    assert sorted(tmp_path.iterdir()) == [raw, out]


def test_a_report_of_the_same_work_is_replaced(tmp_path: Path) -> None:
    raw, out, report = own_folder(tmp_path / "raw"), tmp_path / "x.arrow", tmp_path / "x.report.csv"
    (raw / "2.npy").write_bytes(b"junk")
    for _ in range(2):
        with pytest.raises(InputError, match="not readable"):
            own(raw, out)
    assert report.exists()
    np.save(raw / "2.npy", body())
    assert own(raw, out).clips == 4
    assert not report.exists()


def test_stores_that_differ_behind_a_dot_have_reports_of_their_own(tmp_path: Path) -> None:
    raw = own_folder(tmp_path / "raw", still=(3,))
    reports = [own(raw, tmp_path / name).report for name in ("set.v1", "set.v2", "set.arrow")]
    expected = ["set.v1.report.csv", "set.v2.report.csv", "set.report.csv"]
    assert [report and report.name for report in reports] == expected


@pytest.mark.parametrize("processes", [0, -3])
def test_fewer_than_one_process_are_refused(raw: Path, tmp_path: Path, processes: int) -> None:
    with pytest.raises(InputError, match=f"{processes} processes, expected at least 1"):
        prepared(raw, tmp_path / "x.arrow", processes=processes)
    assert list(tmp_path.iterdir()) == [raw]


def test_two_at_once_are_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "x.arrow.work").mkdir()
    with FileLock(tmp_path / "x.arrow.work" / "lock"), pytest.raises(InputError, match="another process"):
        prepared(raw, tmp_path / "x.arrow")
    assert prepared(raw, tmp_path / "x.arrow").clips == CLIPS


def test_an_existing_store_stays_until_the_new_one_is_whole(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.arrow"
    prepared(raw, out)
    before = out.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        prepared(raw, out)
    broken = write_clip(raw, 99)
    broken.write_text("{")
    with pytest.raises(InputError, match="JSON"):
        prepared(raw, out, overwrite=True)
    assert out.read_bytes() == before
    write_clip(raw, 99)
    assert prepared(raw, out, overwrite=True).clips == CLIPS + 1
    assert len(Store.open(out)) == CLIPS + 1


def test_a_killed_reader_is_an_error_and_costs_nothing(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []

    def kill(processes: int, *given: object) -> object:
        for number, shard in enumerate(real(processes, *given)):
            if number == 1:
                (victim, *_) = [child for child in children(os.getpid()) if is_python(child)]
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)
            yield shard

    from mica.data.preparation import engine

    real = engine._read_in
    monkeypatch.setattr(engine, "_read_in", kill)
    with pytest.raises(InputError, match="was killed"):
        prepared(raw, tmp_path / "x.arrow", processes=2)
    assert killed
    monkeypatch.setattr(engine, "_read_in", real)
    assert prepared(raw, tmp_path / "x.arrow", processes=2).clips == CLIPS


def is_python(process: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
