"""What breaks first as clips and GPUs become more."""

from __future__ import annotations

import math

from benchmarks.scaling.corpus import CAPTION, clip_bytes, column_bytes, gallery_bytes, knn_operations
from benchmarks.scaling.plan import Plan, table
from benchmarks.scaling.sending import WAYS, first_above


def limits(plan: Plan) -> list[tuple[str, float, str, float]]:
    """What breaks, from how many on, of what, and by how much of the plan: the first first."""
    host, fastest, link = 1e9 * plan.host_gb, min(plan.step_ms), plan.link_gbit[0]
    each = host / plan.machine
    clips = {
        "the running kNN compares for an hour": math.sqrt(3600e9 * plan.host_gflops / knn_operations(1)),
        "features for the running kNN fill a card": 1e9 * plan.card_gb / gallery_bytes(1),
        "features for the running kNN fill a machine's memory": each / gallery_bytes(1),
        "the store is larger than a machine's memory": host / clip_bytes(plan),
        f"columns fill it, longest text {CAPTION} characters": each / column_bytes("x" * CAPTION),
    }
    gpus = {
        f"sending ({way.name}) is {words} of a step": first_above(limit, plan, fastest, link, way)
        for way in WAYS
        for limit, words in ((0.1, "a tenth"), (0.5, "half"))
    }
    rows = [(what, at, "clips", at / plan.clips) for what, at in clips.items()]
    rows += [(what, at, "GPUs", at / plan.gpus) for what, at in gpus.items()]
    return sorted(rows, key=lambda row: row[-1])


def breaks_table(plan: Plan) -> str:
    """A line a limit."""
    lines = [
        [what, f"{_rounded(at)} {unit}", f"{share:.2f}"]
        for what, at, unit, share in limits(plan)
        if math.isfinite(at)
    ]
    return table(("what", "from", f"of {plan.clips:,} clips, {plan.gpus} GPUs"), lines)


def _rounded(count: float) -> str:
    return f"{count:,.0f}" if count < 1e5 else f"{count / 1e6:,.1f} million"
