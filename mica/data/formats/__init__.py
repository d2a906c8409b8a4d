"""Raw data sets, each with a reader that turns its files into clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from mica.data import splits, store, synthetic
from mica.data.clip import Clip, StoreInfo
from mica.data.formats import nw_ucla, utd_mhad
from mica.errors import InputError
from mica.files import refuse_existing

Reader = Callable[[str | os.PathLike[str]], tuple[StoreInfo, Iterator[Clip], int]]

FORMATS: dict[str, Reader | None] = {
    "nw-ucla": nw_ucla.read,
    "utd-mhad": utd_mhad.read,
    "synthetic": None,  # made, not read
}


def prepare(
    dataset: str,
    raw: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    overwrite: bool = False,
    progress: bool = True,
) -> store.WriteSummary:
    """Write the store of `dataset` to `out` from the files under `raw` (None for the synthetic set).

    The summary says for each protocol whether its counts are the published ones. Raises `InputError` for an
    unknown data set, a directory without its files, a damaged file, or an `out` that exists.
    """
    refuse_existing(out, overwrite)
    info, clips, total = _read(dataset, raw)
    summary = store.write(out, clips, info, overwrite=overwrite, progress=progress, total=total)
    return replace(summary, splits=splits.describe(store.Store.open(out)))


def _read(dataset: str, raw: str | os.PathLike[str] | None) -> tuple[StoreInfo, Iterator[Clip], int]:
    if dataset not in FORMATS:
        raise InputError(
            f"unknown data set '{dataset}'", hint=f"known data sets: {', '.join(sorted(FORMATS))}"
        )
    reader = FORMATS[dataset]
    if reader is None:
        return synthetic.generate()
    if raw is None:
        raise InputError(f"{dataset} needs the directory of its raw files", field="raw")
    return reader(raw)
