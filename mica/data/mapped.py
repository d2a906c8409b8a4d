"""A store as seen by a model that was trained on other joints: mapped as clips are read, nothing is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from mica.data.clip import layout_of
from mica.data.store import Store
from mica.skeleton import map_layout


class MappedStore(Store):
    """The clips of `store` with the joints of another layout, as `map_layout` finds them; all else stays.

    Args:
        store: the clips.
        layout: name of the layout that they shall have.
        own_layout: describes it where it is not one of ours.

    `mapping` says which joint comes from where. Bodies that are all zero stay so. Raises `InputError` where the layouts
    have too little in common, or there is no such layout. `convert` writes the same coordinates to a file.

    >>> import tempfile
    >>> from mica.data.store import Clip, StoreInfo, write
    >>> clip = Clip("first", np.random.default_rng(0).normal(size=(31, 1, 20, 3)).astype(np.float32), label=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     info = StoreInfo("mine", "kinect-20", ("wave",), 30.0)
    ...     mapped = MappedStore(Store.open(write(f"{folder}/a.arrow", [clip], info).path), "ntu-25")
    ...     mapped.keypoints(0).shape, mapped.layout.name, mapped.mapping.unmatched[:2]
    ((31, 1, 25, 3), 'ntu-25', ('left hand tip', 'left thumb'))
    """

    def __init__(self, store: Store, layout: str, own_layout: dict[str, Any] | None = None) -> None:
        self.__dict__.update(vars(store))
        self._recorded = store
        self.info = replace(store.info, layout=layout, own_layout=own_layout)
        self.layout = layout_of(self.info)
        self.mapping = map_layout(store.layout, self.layout)

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        return MappedStore, (self._recorded, self.info.layout, self.info.own_layout)

    def keypoints(self, i: int) -> Float32[np.ndarray, "T M V 3"]:
        """Return the coordinates of clip `i` in metres, on the joints of `layout`."""
        return self.mapping.apply(self._recorded.keypoints(i))
