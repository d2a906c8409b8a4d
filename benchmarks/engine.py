"""What the parts of a pretraining step cost at the size of NTU RGB+D, and what the engine around it costs.

    python -m benchmarks.engine            on this machine, a few minutes
    python -m benchmarks.engine --keep     into the results: docs/scaling.md has the table
    python -m benchmarks.engine --out DIR  into a file there

The trainer of `mica pretrain` takes its own steps on made-up clips of NTU's size, and times its own phases.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import figures, memory
from benchmarks.figures import Figures
from benchmarks.results import RESULTS, stamp

if TYPE_CHECKING:  # the tables are made where only PyTorch is
    from mica.data.store import Store
    from mica.training.config import PretrainConfig
    from mica.training.trainer import Trainer

FILE, COMMAND = "engine.json", "python -m benchmarks.engine --keep"
BATCH, CLIPS, STEPS, SAVES = 128, 2000, 3, 5
PART, PARTS = 32, 16
"""Of the steps whose memory is compared: clips that go through the encoder at a time, and how often as many."""


def cases(batch: int = BATCH) -> dict[str, PretrainConfig]:
    """Configurations of a run, by what each adds to the first."""
    from mica.objectives import ObjectiveConfig
    from mica.training.config import EngineConfig, MomentumConfig, OptimizerConfig, PretrainConfig
    from mica.transforms.augment import VIEWS

    plain = PretrainConfig(
        text="none", augment=VIEWS["strong"], optimizer=OptimizerConfig(batch_size=batch, warmup_epochs=0)
    )
    return {
        "as by default": plain,
        "in four parts": replace(plain, optimizer=replace(plain.optimizer, micro_batch=batch // 4)),
        "with momentum encoder and queue": replace(
            plain,
            objectives=ObjectiveConfig(instance=1.0),
            momentum=MomentumConfig(decay=0.999, queue=32_768),
        ),
        "leaving broken steps out": replace(plain, engine=EngineConfig(skip_broken=1)),
    }


def measure(
    batch: int = BATCH, clips: int = CLIPS, steps: int = STEPS, part: int = PART, parts: int = PARTS
) -> Figures:
    """All figures, and where and with what they were made."""
    from mica.training.allocator import freed_memory_kept
    from mica.training.trainer import Trainer

    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder), clips)
        trainers = {name: Trainer(config, store) for name, config in cases(batch).items()}
        device = trainers["as by default"].device
        with freed_memory_kept(device):
            seconds = _in_turn(trainers, steps)
        saving = _saving(trainers["with momentum encoder and queue"], Path(folder))
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        held = {count: pool.apply(most_held, (count * part, part)) for count in (1, parts)}
    return {
        **stamp(device),
        "precision": str(trainers["as by default"].precision).removeprefix("torch."),
        "batch": batch,
        "seconds": seconds,
        "phases": {name: trainer.phases.seconds() for name, trainer in trainers.items()},
        "steps": steps,
        "saving": saving,
        "memory": {"part": part, "parts": parts, "alone": held[1], "of_all": held[parts]},
    }


def most_held(batch: int, micro_batch: int) -> int:
    """Bytes that a step holds at most beyond model and clips; for a process of its own, whose memory is fresh."""
    from mica.training.trainer import Trainer

    plain = cases(batch)["as by default"]
    config = replace(plain, optimizer=replace(plain.optimizer, micro_batch=micro_batch))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, _store(Path(folder), 3 * batch))
        clips = next(trainer.batches())
        take = memory.allocated if trainer.device.type == "cuda" else memory.peak
        return take(lambda: trainer.train_step(clips["x"], clips["label"]) and None)


def _store(folder: Path, count: int) -> Store:
    """Clips as long as NTU's, one in five of two persons."""
    from mica.data.store import Clip, Store, StoreInfo, write

    random = np.random.default_rng(0)
    clips = (
        Clip(
            f"clip {i}",
            random.normal(size=(random.integers(40, 121), 1 + (i % 5 == 0), 25, 3)).astype(np.float32),
            label=i % 60,
            subject=1 + i % 40,
        )
        for i in range(count)
    )
    info = StoreInfo("made-up", "ntu-25", tuple(f"class {label}" for label in range(60)), 30.0)
    return Store.open(write(folder / "store.arrow", clips, info).path)


def _in_turn(trainers: dict[str, Trainer], steps: int) -> dict[str, list[float]]:
    """Seconds of each step, the trainers taking turns, so that what else the machine does hits all alike."""
    loading = {name: trainer.batches() for name, trainer in trainers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(steps + 1):
        for name, trainer in trainers.items():
            trainer.phases.recording = turn > 0  # the first step sets memory up
            started = time.perf_counter()
            batch = next(loading[name])
            values = trainer.train_step(batch["x"], batch["label"])
            trainer.take(trainer.monitor.push(trainer.step - 1, values))
            trainer.take(trainer.monitor.drain())
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _saving(trainer: Trainer, folder: Path) -> Figures:
    """What a save of all that a resume needs takes, until it is on the disk."""
    from mica.training.config import EngineConfig
    from mica.training.state import write_state

    times = []
    for step in range(SAVES):
        started = time.perf_counter()
        saved = write_state(folder, step, trainer.state_dict())
        times.append(time.perf_counter() - started)
    size = sum(file.stat().st_size for file in saved.iterdir())
    return {"seconds": times, "megabytes": size / 1e6, "interval_minutes": EngineConfig.save_minutes}


def table(results: Path = RESULTS) -> str:
    """The kept figures in Markdown, a table a device."""
    return figures.kept_table(FILE, COMMAND, _lines, results)


def _lines(found: Figures) -> Iterator[tuple[str, str]]:
    plain = statistics.median(found["seconds"]["as by default"])
    size = f"{found['batch']} clips, 64 frames, 2 persons, ST-GCN with FreST, {found['precision']}"
    yield f"a step: {size}", f"{plain:.2f} s, {found['batch'] / plain:.1f} clips/s"
    phases = found["phases"]["as by default"]
    for name, seconds in phases.items():
        if name != "first parts":
            share = seconds / sum(phases.values())
            yield f"of it: {name}", f"{1e3 * seconds / found['steps']:,.0f} ms, {share:.1%}"
    together = (phases["loader"] + phases["augmentation"]) / sum(phases.values())
    yield "**loader and augmentation**", f"**{together:.1%} of the step** (to be under 5 %)"
    for name, seconds in found["seconds"].items():
        if name != "as by default":
            yield f"a step {name}", f"{statistics.median(seconds) / plain:.2f} times that"
    if held := found.get("memory"):  # not measured on every device yet
        alone, of_all = held["alone"], held["of_all"]
        yield f"the most that a step of {held['part']} clips holds", f"{alone / 1e9:.2f} GB"
        words = f"one of {held['parts'] * held['part']} clips, {held['part']} at a time"
        yield words, f"{of_all / 1e9:.2f} GB, {of_all / alone:.2f} times that"
    saving = found["saving"]
    median = statistics.median(saving["seconds"])
    share = median / (60 * saving["interval_minutes"])
    yield "a save, with momentum encoder and queue", f"{median:.2f} s, {saving['megabytes']:.0f} MB"
    yield (
        "**saving**, at the default interval",
        f"**{share:.2%} of the time** (to be under 2 %): every {saving['interval_minutes']:.0f} minutes",
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--keep", action="store_true", help=f"write results/<device>/{FILE}")
    made.add_argument("--out", type=Path, help=f"a directory for {FILE}")
    made.add_argument("--batch", type=int, default=BATCH, help="clips a step")
    return made


def main() -> None:
    parsed = parser().parse_args()
    found = measure(parsed.batch)
    print(figures.table(found, COMMAND, _lines))
    if parsed.keep:
        figures.keep(FILE, found)
    if parsed.out:
        figures.write(parsed.out / FILE, found)


if __name__ == "__main__":
    main()
