"""PKU-MMD, parts I and II: the labelled actions of long videos.

A video is two text files of one name, `0002-L.txt` in part I and `A01N01-L.txt` in part II, in different folders:
its skeletons and its labels. L, M and R are the left, middle and right camera, here 1, 2 and 3. The owners' lists
`cross-subject.txt` and `cross-view.txt` (part II: `cross_subject_v2.txt`, `cross_view_v2.txt`) lie anywhere beside.

In part II, N counts the 13 subjects and A the 26 courses of actions that each of them went through. In part I the
number is that of the video, and nothing says who acted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Literal

import numpy as np

from mica.data.class_names import CLASS_NAMES
from mica.data.clip import Clip, StoreInfo, check_clip
from mica.data.formats.pku_text import Action, parse_labels, parse_list, parse_video
from mica.data.formats.text_lines import line_error
from mica.data.outcome import Found, Outcome, Unit
from mica.data.recordings import Recording, Source
from mica.errors import InputError

Part = Literal[1, 2]
Parts = Mapping[str, dict[str, str]]
"""Who trains and who tests: by video, then by protocol."""

NOBODY = "no body in any frame"
UNLABELLED = "video without labels"
UNSEEN = "labels without a video"
LATE = "label ends after the video"
BACKWARDS = "label ends before it starts"

_INFO = {
    part: StoreInfo(
        dataset=f"pku-mmd-{part}",
        layout="ntu-25",  # the joints of Kinect v2, in its order
        class_names=CLASS_NAMES[f"pku-mmd-{part}"],
        frame_rate=30.0,
        source=f"PKU-MMD part {'I' * part}, skeletons of its Kinects v2",
    )
    for part in (1, 2)
}
_VIDEO = {
    1: re.compile(r"(?P<setup>\d{4})-(?P<view>[LMR])"),
    2: re.compile(r"A(?P<setup>\d{2})N(?P<subject>\d{2})-(?P<view>[LMR])"),
}
_EXAMPLE = {1: "0002-L.txt", 2: "A01N01-L.txt"}
_LIST = re.compile(r"cross[-_](subject|view)([-_]v2)?\.txt", re.IGNORECASE)
_MOST_LABELS = 1 << 16  # bytes; a video of two seconds is larger


def find(source: Source, part: Part) -> Found:
    """Look for the videos of PKU-MMD, part 1 or 2: a unit a video, in the order of their names.

    A clip is a labelled action, `0002-L_003` the third of its label file. Labels name the first and the last frame,
    counted from 0, and both belong to the clip; some peers leave out the last, others begin one frame earlier. A
    label that ends after the video is clipped and counted. A clip has the bodies that it shows, two or one; one
    that shows none, a label that ends before it starts, a video without labels and labels without a video are left
    out.

    Raises `InputError` for a file that is there twice, for a damaged list, and if there is no video.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mica.data.recordings import open_source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, text in (("Data", 90 * (150 * " 0.25" + "\\n")), ("Label", "33,10,59,2\\n")):
    ...         Path(folder, name).mkdir()
    ...         _ = Path(folder, name, "0002-L.txt").write_text(text)
    ...     source = open_source(folder)
    ...     found = find(source, 1)
    ...     (outcome,) = found.read(source, found.units[0])
    >>> outcome.name, outcome.clip.keypoints.shape, found.info.class_names[outcome.clip.label]
    ('0002-L_001', (50, 2, 25, 3), 'sitting down')
    """
    videos: dict[str, dict[bool, Recording]] = {}
    lists = []
    for file in source.list(".txt"):
        if _VIDEO[part].fullmatch(_stem(file)):
            _enter(source, file, videos.setdefault(_stem(file), {}))
        elif _LIST.fullmatch(file.name):
            lists.append(file)
    if not videos:
        hint = (
            f"give the folder or zip that holds skeletons and labels, two files like {_EXAMPLE[part]} a video"
        )
        raise InputError(f"no video of PKU-MMD part {'I' * part} in it", file=source.root, hint=hint)
    parts = _read_lists(source, lists, part)
    units: list[Unit] = [
        tuple(videos[name][kind] for kind in sorted(videos[name])) for name in sorted(videos)
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Found(_INFO[part], units, partial(_read_unit, part, parts), options=f"lists {digest}")


def _stem(file: Recording) -> str:
    return file.name[: -len(".txt")]


def _enter(source: Source, file: Recording, video: dict[bool, Recording]) -> None:
    kind = _is_labels(source, file)
    if kind in video:
        what, first = "labels" if kind else "skeletons", source.where(video[kind].path)
        problem = f"a second file of the {what} of {_stem(file)}, the first is {first}"
        raise InputError(problem, file=source.where(file.path), hint="leave one of them there")
    video[kind] = file


def _is_labels(source: Source, file: Recording) -> bool:
    """Labels are small files, in a folder of that name or with commas."""
    if file.size > _MOST_LABELS:
        return False
    return "label" in file.path.rpartition("/")[0].lower() or b"," in source.read(file.path)


def _read_lists(source: Source, lists: Iterable[Recording], part: Part) -> dict[str, dict[str, str]]:
    """Read the lists of this part, which their videos tell; the other part may lie beside it."""
    parts: dict[str, dict[str, str]] = {}
    first: dict[str, str] = {}
    for file in lists:
        where = source.where(file.path)
        given = parse_list(source.read(file.path), where)
        if not all(_VIDEO[part].fullmatch(video) for video in given):
            continue
        protocol = "cross-subject" if "subject" in file.name.lower() else "cross-view"
        if protocol in first:
            problem = f"a second list for {protocol}, the first is {first[protocol]}"
            raise InputError(problem, file=where, hint="leave one of them there")
        first[protocol] = where
        for video, which in given.items():
            parts.setdefault(video, {})[protocol] = which
    return parts


def _read_unit(part: Part, parts: Parts, source: Source, unit: Unit) -> Iterable[Outcome]:
    name = _stem(unit[0])
    labels = unit[-1]
    if not _is_labels(source, labels):
        return [Outcome(name, None, UNLABELLED)]
    where = source.where(labels.path)
    actions = parse_labels(source.read(labels.path), where)
    if len(unit) == 1:
        names = [_clip_name(name, action) for action in actions] or [name]
        return [Outcome(unseen, None, UNSEEN) for unseen in names]
    if not actions:
        return [Outcome(name, None, UNLABELLED)]
    video = parse_video(source.read(unit[0].path), source.where(unit[0].path))
    for action in actions:
        if len(video) <= action.start <= action.end:
            problem = f"an action from frame {action.start}, but the video has {len(video)}"
            raise line_error(where, action.line, problem)
    return [_outcome(part, name, video, action, parts, source.where(unit[0].path)) for action in actions]


def _clip_name(video: str, action: Action) -> str:
    return f"{video}_{action.line:03d}"


def _outcome(part: Part, name: str, video: np.ndarray, action: Action, parts: Parts, where: str) -> Outcome:
    clip_name = _clip_name(name, action)
    if action.end < action.start:
        return Outcome(clip_name, None, BACKWARDS)
    shown = video[action.start : action.end + 1]
    bodies = np.flatnonzero(shown.any(axis=(0, 2, 3)))
    if not len(bodies):
        return Outcome(clip_name, None, NOBODY)
    match = _VIDEO[part].fullmatch(name)
    assert match is not None
    numbers = match.groupdict(default="0")
    clip = Clip(
        name=clip_name,
        keypoints=shown[:, bodies[0] : bodies[-1] + 1],
        label=action.label,
        subject=int(numbers.get("subject", 0)),
        camera=1 + "LMR".index(numbers["view"]),
        setup=int(numbers["setup"]),
        parts=dict(parts.get(name, {})),
    )
    cleaned = (LATE,) if action.end >= len(video) else ()
    return Outcome(clip_name, check_clip(clip, _INFO[part], file=where), cleaned=cleaned)
