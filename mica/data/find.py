"""Clips of a store by their names, as a person types them."""

from __future__ import annotations

import difflib

import numpy as np
from jaxtyping import Shaped

from mica.data.store import Store
from mica.errors import InputError

_CLOSE_NAMES, _MOST_COMPARED = 3, 1000


def find_clip(store: Store, clip: str) -> int:
    """Return the position of the clip called `clip` or, if none is and it is a number, `clip` as a position from 0.

    Raises `InputError` that suggests similar names if there is no such clip.

    >>> import tempfile
    >>> from mica.data.store import write
    >>> from mica.data.synthetic import generate
    >>> info, clips, _ = generate(clips_per_class=1, subjects=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store.open(write(f"{folder}/a.arrow", clips, info).path)
    ...     find_clip(store, str(store.names[3])), find_clip(store, "5")
    (3, 5)
    """
    named = np.flatnonzero(store.names == clip)
    if len(named):
        return int(named[0])
    if clip.isdecimal() and len(clip) < 19 and int(clip) < len(store):
        return int(clip)
    similar = difflib.get_close_matches(clip, _most_alike(store.names, clip), _CLOSE_NAMES, cutoff=0.5)
    names = f"similar names: {', '.join(similar)}" if similar else f"the first is called {store.names[0]}"
    raise InputError(
        f"no clip '{clip}'", file=store.path, hint=f"{names}; positions run from 0 to {len(store) - 1}"
    )


def _most_alike(names: Shaped[np.ndarray, " clips"], name: str) -> list[str]:
    """The names that share most letters in place with `name`: few enough to be compared with care."""
    letters = np.ascontiguousarray(names).view(np.uint32).reshape(len(names), -1)
    wanted = np.array([name], dtype=names.dtype).view(np.uint32)
    same = ((letters == wanted) & (letters != 0)).sum(axis=1)
    return names[np.argsort(-same, kind="stable")[:_MOST_COMPARED]].tolist()
