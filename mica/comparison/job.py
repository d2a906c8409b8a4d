"""One job of a comparison, in a process of its own: python -m mica.comparison.job FILE, as `work_through` starts it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import get_args

from mica.configs import config_of
from mica.data.store import Store
from mica.errors import InputError, Interrupted
from mica.evaluation.evaluate import Effort, Evaluation
from mica.evaluation.features import Source
from mica.evaluation.results import ProtocolName, result_file
from mica.evaluation.validation import VALIDATION, read_validated, validate_run
from mica.training.loop import pretrain


def main(description: Path) -> None:
    """Train the run unless it is trained, then judge it by whatever it was not judged by yet."""
    entries = json.loads(description.read_text())
    config = config_of(entries["config"])
    run, store = Path(entries["run"]), Store.open(entries["data"])
    pretrain(config, store, run, resume=True)
    missing = [pair for pair in entries["judged"] if not judgement(run, *pair).is_file()]
    if missing == [["validation", ""]]:
        validate_run(run, store)
    elif missing:
        validated = read_validated(Path(entries["trial"]))
        evaluation = Evaluation(run, store, Effort(progress=False), validated)
        for protocol, source in missing:
            assert protocol in get_args(ProtocolName)
            assert source in get_args(Source)
            evaluation.evaluate(protocol, source)


def judgement(run: Path, protocol: str, source: str) -> Path:
    """Where it is kept."""
    return run / VALIDATION if protocol == "validation" else result_file(run, protocol, source)


def stop_with_parent() -> None:
    """Ask this process to save and leave once the one that started it is gone, with whom its standard input ends."""

    def wait() -> None:
        # Not by sys.stdin, whose lock this thread would hold while the interpreter shuts down.
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    stop_with_parent()
    try:
        main(Path(sys.argv[1]))
    except InputError as error:
        sys.exit(f"mica: error: {error}")
    except Interrupted as interrupted:
        print(interrupted)
        sys.exit(interrupted.status)
