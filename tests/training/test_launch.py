"""`torchrun -m mica pretrain`: started, stopped, gone on with, and taken down when one of its processes dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mica.data.store import Store

SETTINGS = (
    *("--text", "none", "--preprocessing.num_frames", "8", "--encoder.preset", "stgcn-small"),
    *(
        "--optimizer.batch_size",
        "16",
        "--engine.save_minutes",
        "0",
        "--knn_every",
        "0",
        "--precision",
        "float32",
    ),
)
FAILING = """
import os
from mica.cli import main
from mica.training.trainer import Trainer
take = Trainer.train_step
def train_step(self, *batch):
    if os.environ["RANK"] == "1" and self.step == 3:
        raise RuntimeError("the disk of rank 1 is on fire")
    return take(self, *batch)
Trainer.train_step = train_step
main()
"""


def settings(store: Store, out: Path, epochs: int) -> list[str]:
    where = ["--data", str(store.path), "--out", str(out), "--optimizer.epochs", str(epochs)]
    return ["pretrain", *where, *SETTINGS]


@contextmanager
def launched(*program: str) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *program,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, text=True, stdout=-1, stderr=subprocess.STDOUT, env=environment) as job:
        try:
            yield job
        finally:
            job.kill()


def wait_for_a_save(run: Path, job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not any(run.glob("state/step-*")):
        assert job.poll() is None, job.stdout and job.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_of(job: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")
def test_a_job_that_is_asked_to_stop_saves_and_is_gone_on_with_by_one_process(
    tiny_store: Store, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with launched("-m", "mica", *settings(tiny_store, run, epochs=300)) as job:
        wait_for_a_save(run, job)
        job.send_signal(signal.SIGTERM)
        said, _ = job.communicate(timeout=120)
    saved = re.search(
        r"mica: SIGTERM: saved after step (\d+) of 900\n  go on with: .*mica pretrain .* --resume", said
    )
    assert saved, said
    assert said.count("go on with") == 1
    assert (run / "state" / f"step-{int(saved[1]):08}").is_dir()
    started = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert [start["processes"] for start in started] == [2]
    # With other settings it is not gone on with; that they are looked at shows that one process finds the state of two.
    command = [sys.executable, "-m", "mica", *settings(tiny_store, run, epochs=2), "--resume"]
    refused = subprocess.run(command, text=True, capture_output=True, timeout=120)
    assert refused.returncode == 2
    assert "optimizer.epochs: 300 before, 2 now" in refused.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")
def test_a_process_that_dies_takes_the_job_down_within_a_minute(tiny_store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with launched("-m", "mica", *settings(tiny_store, run, epochs=300)) as job:
        wait_for_a_save(run, job)
        first, second = processes_of(job)
        os.kill(second, signal.SIGKILL)
        said, _ = job.communicate(timeout=60)
        assert job.returncode != 0
        assert not Path(f"/proc/{first}").exists()
    assert re.search(r"Root Cause.*\n.*\n.*\n.*\n.*rank +: 1 ", said), said
    assert "Signal 9 (SIGKILL)" in said
    assert any(run.glob("state/step-*"))


def test_the_error_of_the_process_that_failed_is_shown_first(tiny_store: Store, tmp_path: Path) -> None:
    program = tmp_path / "failing.py"
    program.write_text(FAILING)
    with launched(str(program), *settings(tiny_store, tmp_path / "run", epochs=300)) as job:
        said, _ = job.communicate(timeout=300)
    assert job.returncode != 0
    own, others = (
        said.find("RuntimeError: the disk of rank 1 is on fire"),
        said.find("another process went away"),
    )
    assert 0 <= own < others, said
    assert "Connection closed by peer" not in said
