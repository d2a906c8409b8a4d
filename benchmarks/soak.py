"""Kill -9 at random moments: a pretraining that is killed again and again ends in the weights of one that never was.

    python -m benchmarks.soak --kills 30

Every life is a process of its own that resumes what the one before it left, saves after every step, and is killed at a
moment drawn at random, in the middle of a step or of a save. At the end weights and metrics are compared to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (an optimiser imports it, and every life has one)
from tqdm import tqdm

from mica.data.store import Store, write
from mica.data.synthetic import generate
from mica.models.heads import HeadConfig
from mica.models.stgcn import EncoderConfig
from mica.objectives import ObjectiveConfig
from mica.training.config import (
    EngineConfig,
    MomentumConfig,
    OptimizerConfig,
    PretrainConfig,
)
from mica.training.loop import pretrain
from mica.training.run import METRICS
from mica.training.state import FOLDER, states
from mica.transforms.augment import AugmentConfig
from mica.transforms.sampling import Preprocessing

TIMINGS = ("seconds", "waited", "clips_per_second")
WEIGHTS = Path("checkpoint", "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="how many lives are cut short")
    parser.add_argument(
        "--longest",
        type=float,
        default=0.8,
        help="seconds that a life lasts at most, until too many get nowhere",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here, too")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(Path(folder), parsed.kills, parsed.longest, random.Random(parsed.seed))
    print(json.dumps(figures, indent=1))
    if parsed.json:
        parsed.json.write_text(json.dumps(figures, indent=1) + "\n")
    sound = figures["same_weights"] and figures["same_metrics"] and not figures["went_back"]
    sys.exit(0 if sound else 1)


def soak(folder: Path, kills: int, longest: float, moments: random.Random) -> dict[str, Any]:
    """Kill a run `kills` times, let it end, and compare it with one that was let be."""
    info, clips, _ = generate(clips_per_class=8, subjects=8, num_frames=(8, 12))
    store = Store.open(write(folder / "store.arrow", clips, info).path)

    def live(name: str, save_minutes: float, resume: bool) -> Callable[[], object]:
        config = _config(kills, save_minutes)
        return lambda: pretrain(config, store, folder / name, resume=resume)

    _finish(_born(live("spared", save_minutes=60.0, resume=False)))
    found = {"kills": 0, "lives": 0, "in_a_save": 0, "went_on": 0, "went_back": 0}
    within = longest
    while not (folder / "killed" / WEIGHTS).is_file():
        saved = _steps(folder / "killed")
        child = _born(live("killed", save_minutes=0.0, resume=True))
        found["lives"] += 1
        if found["kills"] < kills:
            time.sleep(moments.uniform(0, within))
            found["kills"] += _killed(child)
            reached = _steps(folder / "killed")
            found["went_on"] += reached > saved
            # Where other work slows the machine down, lives last longer, or none would come to its first step.
            within = max(longest, within * (1.25 if reached == saved else 0.8))
            # A run that came to its end keeps no states.
            found["went_back"] += reached < saved and not (folder / "killed" / WEIGHTS).is_file()
            found["in_a_save"] += any((folder / "killed" / FOLDER).glob(".step-*.part"))
        else:
            _finish(child)
    same = (folder / "spared" / WEIGHTS).read_bytes() == (folder / "killed" / WEIGHTS).read_bytes()
    metrics = _metrics(folder / "spared") == _metrics(folder / "killed")
    return found | {"same_weights": same, "same_metrics": metrics}


def _config(kills: int, save_minutes: float) -> PretrainConfig:
    """All that has a state: moments, momentum encoder, queue; and dropout, parts of batches, a running kNN."""
    return PretrainConfig(
        preprocessing=Preprocessing(num_frames=8),
        encoder=EncoderConfig(preset="stgcn-small", dropout=0.1),
        heads=HeadConfig(segments=1, hidden=16, projection=8),
        objectives=ObjectiveConfig(instance=1.0),
        augment=AugmentConfig(shear=0.3, noise=0.5),
        optimizer=OptimizerConfig(
            epochs=max(4, 2 * kills // 3), batch_size=16, micro_batch=8, warmup_epochs=1
        ),
        momentum=MomentumConfig(decay=0.9, queue=40),
        engine=EngineConfig(save_minutes=save_minutes),
        text="none",
        knn_every=4,
    )


def _born(work: Callable[[], object]) -> int:
    """A process that does the work; what is imported here it has already."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)  # the bars
            # A bar's lock that is shared with earlier lives stays locked where one was killed holding it.
            tqdm.set_lock(threading.RLock())
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def _killed(child: int) -> bool:
    """Kill it; False where it had come to its end before."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"a life ended by itself, with status {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def _finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"a life that was not killed ended with status {status}")


def _steps(run: Path) -> int:
    """Steps that the newest state has behind it."""
    found = states(run)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def _metrics(run: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name not in TIMINGS} for entry in entries]


if __name__ == "__main__":
    main()
