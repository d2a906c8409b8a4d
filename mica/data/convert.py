"""A store on the joints of another layout, for encoders that were trained on those."""

from __future__ import annotations

import os
from dataclasses import replace

from mica.data.store import Store
from mica.data.writing import WriteSummary, write
from mica.skeleton import get_layout, map_layout


def convert(
    store: Store,
    layout: str,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> WriteSummary:
    """Write the clips of `store` to `out` with the joints of `layout`, as `map_layout` finds them.

    Everything but the joints stays. Raises `InputError` for a layout that is not registered, one that has too
    little in common with the store's, and an `out` that exists.

    >>> import tempfile
    >>> import numpy as np
    >>> from mica.data.store import Clip, StoreInfo
    >>> clip = Clip("first", np.random.default_rng(0).normal(size=(31, 1, 25, 3)).astype(np.float32), label=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write(f"{folder}/a.arrow", [clip], StoreInfo("mine", "ntu-25", ("wave",), 30.0))
    ...     made = convert(Store.open(f"{folder}/a.arrow"), "kinect-20", f"{folder}/b.arrow")
    ...     Store.open(made.path).keypoints(0).shape
    (31, 1, 20, 3)
    """
    mapping = map_layout(store.layout, get_layout(layout))
    clips = (replace(store.clip(i), keypoints=mapping.apply(store.keypoints(i))) for i in range(len(store)))
    source = f"{store.info.source}; joints from {store.info.layout}".removeprefix("; ")
    info = replace(store.info, layout=layout, own_layout=None, source=source)
    return write(out, clips, info, overwrite=overwrite, progress=progress, total=len(store))
