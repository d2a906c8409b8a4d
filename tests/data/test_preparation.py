"""The engine behind `mica prepare`: the same bytes however often it is killed and whoever reads."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mica.data.formats import prepare
from mica.data.preparation import shards as shards_module
from mica.data.store import Store, WriteSummary
from mica.errors import InputError

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
