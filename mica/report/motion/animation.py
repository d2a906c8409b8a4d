"""A clip in motion: as a GIF, or as a page on which the bodies can be stopped and turned."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mica.data.store import Store
from mica.errors import InputError
from mica.files import atomic_path
from mica.report.motion.gif import write_gif
from mica.report.motion.scene import FLOOR_COLOUR, FLOOR_LINES, SIDE_COLOURS, TILT, set_scene
from mica.report.templates import style, template
from mica.skeleton import SkeletonLayout


def animate(store: Store, clip: int, out: Path, *, overwrite: bool = False) -> Path:
    """Write clip number `clip` of a store as a GIF or a page, by the suffix of `out`, and return the path.

    Raises `InputError` if `out` ends in neither .gif nor .html, or exists and may not be overwritten.

    >>> import tempfile
    >>> from mica.data.store import write
    >>> from mica.data.synthetic import generate
    >>> info, clips, _ = generate(clips_per_class=1, subjects=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store.open(write(f"{folder}/a.arrow", clips, info).path)
    ...     animate(store, 0, Path(folder, "drinking.html")).read_text()[:15]
    '<!DOCTYPE html>'
    """
    out, kind = Path(out), Path(out).suffix.lower()
    if kind not in (".gif", ".html"):
        raise InputError(
            "an animation is a .gif or a .html", file=out, hint=f"try {out.stem or 'animation'}.html"
        )
    shown, name = store.clip(clip), str(store.names[clip])
    numbers = {key: getattr(shown, key) for key in ("subject", "camera", "setup", "replication")}
    known = (f"{key} {number}" for key, number in numbers.items() if number)
    about = ", ".join((store.info.class_names[shown.label], *known))
    with atomic_path(out, overwrite) as temporary:
        if kind == ".gif":
            write_gif(temporary, shown.keypoints, store.layout, name, about, store.info.frame_rate)
        else:
            figure = animation_html(shown.keypoints, store.layout, about, store.info.frame_rate)
            temporary.write_text(animation_page(name, figure), encoding="utf-8", errors="replace")
    return out


def animation_html(
    keypoints: Float[np.ndarray, "T M V 3"], layout: SkeletonLayout, title: str, frame_rate: float = 30.0
) -> str:
    """Return a `<figure>` that plays a clip, for a page that holds `animation_player()` once, behind all figures.

    Coordinates in metres with y up, an absent body all zero; whoever faces the viewer in the clip does so at first.
    The page can be stopped, turned and stepped through by mouse, finger and keyboard. Raises `InputError` if there is
    nobody to see or the shape is not that of the layout.

    >>> from mica.skeleton import get_layout
    >>> html = animation_html(np.ones((2, 1, 20, 3), np.float32), get_layout("kinect-20"), "<b>")
    >>> html.startswith("<figure"), "&lt;b&gt;" in html
    (True, True)
    """
    scene = set_scene(keypoints, layout)
    clip = {
        "rate": frame_rate,
        "radius": scene.radius * 1000,
        "height": scene.height * 1000,
        "parents": layout.parents,
        "sides": [layout.side(joint) for joint in range(layout.num_joints)],
        "frames": [[_millimetres(body) for body in frame] for frame in scene.joints],
    }
    data = json.dumps(clip, separators=(",", ":"))
    return _macro("figure")(title=title, data=data, frames=len(keypoints), colours=SIDE_COLOURS)


def _millimetres(body: Float[np.ndarray, "V 3"]) -> list[int] | None:
    return None if np.isnan(body).any() else [int(value) for value in np.rint(body * 1000).ravel().tolist()]


def animation_player() -> str:
    """Return the style and the script that bring the figures of `animation_html` to life."""
    return f"<style>{_macro('style')()}</style>\n<script>{_script()}</script>"


def player_hash() -> str:
    """Return the SHA-256 of the player, by which a page allows this script and no other to run."""
    return base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()


def animation_page(heading: str, figure: str) -> str:
    """Return a page around a figure of `animation_html`, which fetches nothing and runs no script but the player."""
    return _macro("page")(
        heading=heading, figure=figure, player=animation_player(), style=style(), script_hash=player_hash()
    )


def _script() -> str:
    return _macro("script")(
        colours=json.dumps(SIDE_COLOURS), floor=FLOOR_COLOUR, lines=FLOOR_LINES, tilt=TILT
    )


def _macro(name: str) -> Callable[..., str]:
    macro: Callable[..., str] = getattr(template("animation.html.j2").module, name)
    return macro
