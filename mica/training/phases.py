"""Where the time of a step goes: `mica pretrain --profile`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mica.files import atomic_path

WARMUP, MEASURED = 5, 10
"""Steps that are let pass, and that are measured."""


class Phases:
    """Names the phases of a step, `with phases("encoder"): ...`; free of cost while nothing is recorded.

    On a GPU the time is that of the stream's work, by events: the host runs ahead of it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.recording = device, False
        self._spans: list[tuple[str, Any, Any]] = []

    def __call__(self, name: str) -> Any:
        return self._recorded(name) if self.recording else nullcontext()

    @contextmanager
    def _recorded(self, name: str) -> Iterator[None]:
        start = self._now()
        with record_function(f"mica: {name}"):
            yield
        self._spans.append((name, start, self._now()))

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> dict[str, float]:
        """What each phase took in all, in the order in which they first ended; waits for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        totals: dict[str, float] = {}
        for name, start, end in self._spans:
            passed = end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3
            totals[name] = totals.get(name, 0.0) + passed
        return totals


class StepProfile:
    """Measures some steps of a run and writes profile.txt, for reading, and trace.json, for ui.perfetto.dev.

    Call `after_step` behind each step. The run itself goes on as it would have.
    """

    def __init__(self, phases: Phases, folder: Path) -> None:
        self.phases, self.folder, self.steps = phases, folder, 0
        activities = [ProfilerActivity.CPU]
        if phases.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities)

    def after_step(self) -> Path | None:
        """Count a step; returns the file when it has been written."""
        self.steps += 1
        if self.steps == WARMUP:
            self.phases.recording = True
            self._profiler.start()
            self._started = time.perf_counter()
        if self.steps != WARMUP + MEASURED:
            return None
        totals = self.phases.seconds()
        passed = time.perf_counter() - self._started
        self._profiler.stop()
        self.phases.recording = False
        with atomic_path(self.folder / "trace.json", overwrite=True) as temporary:
            self._profiler.export_chrome_trace(str(temporary))
        file = self.folder / "profile.txt"
        with atomic_path(file, overwrite=True) as temporary:
            temporary.write_text(self._describe(totals, passed), encoding="utf-8")
        return file

    def _describe(self, totals: dict[str, float], passed: float) -> str:
        lines = [
            f"{MEASURED} steps, {1e3 * passed / MEASURED:.1f} ms each",
            "",
            f"{'phase':<16}{'ms':>10}{'share':>9}",
        ]
        rows = [*totals.items(), ("between", max(0.0, passed - sum(totals.values())))]
        lines += [f"{name:<16}{1e3 * s / MEASURED:>10.2f}{s / passed:>9.1%}" for name, s in rows]
        by = "self_device_time_total" if self.phases.device.type == "cuda" else "self_cpu_time_total"
        operators = self._profiler.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=48)
        return "\n".join([*lines, "", "Operators:", operators, ""])
