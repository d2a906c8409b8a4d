"""Raw data sets and what others made of them, each with a reader that turns its files into clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from mica.data import splits, synthetic
from mica.data.clip import StoreInfo
from mica.data.formats import ntu, nw_ucla, pku_mmd, utd_mhad
from mica.data.formats.others import agcn, ctr_gcn, pyskl
from mica.data.formats.own import folder
from mica.data.outcome import Found, Outcome
from mica.data.preparation import prepare_found, prepare_stream
from mica.data.recordings import open_source
from mica.data.store import Store, WriteSummary
from mica.errors import InputError
from mica.files import output_file

RECORDED: dict[str, Callable[..., Found]] = {
    "ntu60": partial(ntu.find, dataset="ntu60"),
    "ntu120": partial(ntu.find, dataset="ntu120"),
    "pku-mmd-1": partial(pku_mmd.find, part=1),
    "pku-mmd-2": partial(pku_mmd.find, part=2),
    "nw-ucla": nw_ucla.find,
    "utd-mhad": utd_mhad.find,
    "folder": folder.find,
}
"""Raw files, many to a data set: found, then read in parallel."""

STREAMED: dict[str, Callable[..., tuple[StoreInfo, Iterable[Outcome], int]]] = {
    "ctr-gcn": ctr_gcn.read,
    "pyskl": pyskl.read,
    "agcn": agcn.read,
    "synthetic": lambda raw: _made(),
}
"""One big file, or none: clips come one after another."""


def prepare(
    dataset: str,
    raw: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    /,
    *,
    overwrite: bool = False,
    progress: bool = True,
    processes: int | None = None,
    skip_broken: bool = False,
    **options: Any,
) -> WriteSummary:
    """Write the store of `dataset` to `out` from the folder, zip or file `raw` (None for the synthetic set).

    `processes` (None: one a core) and `skip_broken` are for raw recordings; `options` go to the format's `find`
    or `read`. The summary counts clips kept, left out and cleaned, and says for each protocol whether its counts
    are the published ones. Raises `InputError` for an unknown data set, a place without its files, a damaged
    file, or an `out` that exists.
    """
    output_file(out, overwrite)
    known = [*RECORDED, *STREAMED]
    if dataset not in known:
        raise InputError(f"unknown data set '{dataset}'", hint=f"known data sets: {', '.join(sorted(known))}")
    if raw is None and dataset != "synthetic":
        raise InputError(f"{dataset} needs the place of its raw files", field="raw")
    how: dict[str, Any] = {"overwrite": overwrite, "progress": progress}
    if dataset in STREAMED:
        summary = prepare_stream(*STREAMED[dataset](raw, **options), out, **how)
    else:
        assert raw is not None
        source = open_source(raw)
        found = RECORDED[dataset](source, **options)
        summary = prepare_found(found, source, out, processes=processes, skip_broken=skip_broken, **how)
    return replace(summary, splits=splits.describe(Store.open(out)))


def _made() -> tuple[StoreInfo, Iterable[Outcome], int]:
    info, clips, total = synthetic.generate()
    return info, (Outcome(clip.name, clip) for clip in clips), total
