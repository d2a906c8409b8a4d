"""One's own recordings as arrays: coordinates placed by hand, joints that were not seen, units and axes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mica.data.formats.own.coordinates import fill_missing, mark_unseen, to_metres

from .folders import COCO, KINECT, body, npy, npz, one, outcomes, refused

# Arrays


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: npy(x),
        lambda x: npy(np.asfortranarray(x)),
        lambda x: npy(x.astype(">f8")),
        lambda x: npy(np.repeat(x, 2, axis=0)[::2]),
        lambda x: npz(keypoints=x, other=x + 1),
        lambda x: npz(anything=x),
        lambda x: npy(np.concatenate([x, np.ones_like(x[..., :1])], axis=-1)),
    ],
)
def test_arrays(make_folder: Callable[..., Path], change: Callable[[np.ndarray], bytes], frames: int) -> None:
    x = body(frames=frames, persons=2)
    content = change(x)
    name = "a.npz" if content[:2] == b"PK" else "a.npy"
    clip = one(make_folder(f"file,label\n{name},x\n", {name: content}))
    np.testing.assert_array_equal(clip.keypoints, x.astype(np.float32))
    if name == "a.npy":
        single = one(make_folder("file,label\na.npy,x\n", {"a.npy": change(x[:, 0])}))
        np.testing.assert_array_equal(single.keypoints, x[:, :1].astype(np.float32))


def header_says(shape: str, data: bytes = b"", descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


BAD_ARRAYS = {
    "empty": (b"", "not readable as .npy"),
    "no NumPy file": (b"junk" * 30, "not readable as .npy"),
    "a newer version": (b"\x93NUMPY\x09\x00" + npy(body())[8:], "not readable as .npy"),
    "cut": (npy(body())[:-1], "bytes of numbers, but shape (4, 1, 20, 3) of float64 takes 1,920"),
    "too long": (npy(body()) + b"\0", "1,921 bytes of numbers"),
    "absurd": (header_says("(1000000000000, 20, 3)"), "1,000,000,000,000 frames x 1 persons x 20 joints are too many"),
    "more than there": (header_says("(10000, 20, 3)"), "0 bytes of numbers, but shape (10000, 20, 3)"),
    "negative": (header_says("(-4, -20, 3)"), "no frames"),
    "huge and empty": (header_says("(1000000000000000000000, 0, 20, 3)"), "no persons"),
    "no shape": (header_says("7"), "not readable as .npy"),
    "header with code": (header_says("__import__('os').abort()"), "not readable as .npy"),
    "objects": (npy(np.array([None, {}], dtype=object)), "holds object, expected numbers"),
    "text": (npy(np.array([["a"]])), "holds <U1, expected numbers"),
    "complex": (npy(body().astype(complex)), "holds complex128"),
    "truth": (npy(body() > 0), "holds bool"),
    "two axes": (npy(body()[0, 0]), "shape (20, 3), expected (frames, joints, axes)"),
    "five axes": (npy(body()[None]), "shape (1, 4, 1, 20, 3)"),
    "axes first": (npy(body()[:, 0].transpose(2, 0, 1)), "shape (3, 4, 20)"),
    "five numbers a joint": (npy(np.ones((4, 20, 5))), "shape (4, 20, 5)"),
    "no frames": (npy(np.ones((0, 20, 3))), "no frames"),
    "no persons": (npy(np.ones((4, 0, 20, 3))), "no persons"),
    "25 joints": (npy(np.ones((4, 25, 3))), "kinect-20 has 20\n  hint: layouts with 25 joints: ntu-25"),
    "infinite": (npy(np.where(np.arange(3) == 1, np.inf, body())), "frame 0: inf of joint 0, person 0, is no"),
    "absurdly far": (npy(np.where(np.arange(3) == 1, 1e30, body())), "1e+30 of joint 0, person 0, is no coordinate"),
    "too far": (npy(body() + 2e4), "metres away: move the origin nearer"),
    "millimetres": (npy(body() * 1000), "metres: are these metres?\n  hint: try units: millimetres"),
    "centimetres": (npy(body() * 100), "hint: try units: centimetres"),
    "collapsed": (npy(np.ones((4, 20, 3))), "it is 0 metres: are these metres?\n  hint: try units: unknown"),
    "one joint never seen": (
        npy(np.where(np.arange(20)[:, None] == 6, np.nan, body())), "joint 6, 'left wrist', of person 0 is never seen"
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_ARRAYS)
def test_bad_array(make_folder: Callable[..., Path], wrong: str) -> None:
    content, problem = BAD_ARRAYS[wrong]
    message = refused(make_folder("file,label\na.npy,x\n", {"a.npy": content}))
    assert "mine/a.npy: " in message
    assert problem in message


def test_bad_npz(make_folder: Callable[..., Path]) -> None:
    whole, two = npz(keypoints=body()), npz(a=body(), b=body())
    lzma = io.BytesIO()
    with zipfile.ZipFile(lzma, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("keypoints.npy", npy(body()))
    for content, problem in (
        (whole[:100], "not readable as .npz"),
        (whole[:60] + b"\0\0\0\0" + whole[64:], "not readable as .npz"),
        (b"", "not readable as .npz"),
        (two, "field 'keypoints': array missing, found a, b"),
        (npz(), "array missing, found nothing"),
        (lzma.getvalue(), "packed in a way that NumPy does not use"),
        (npz(keypoints=np.array([None])), "holds object"),
    ):
        message = refused(make_folder("file,label\na.npz,x\n", {"a.npz": content}))
        assert "mine/a.npz" in message
        assert problem in message
    bomb = bytearray(whole)
    at = bomb.rindex(b"PK\x01\x02") + 24
    bomb[at : at + 4] = (2**31).to_bytes(4, "little")
    assert "2,147,483,648 bytes unpacked" in refused(
        make_folder("file,label\na.npz,x\n", {"a.npz": bytes(bomb)})
    )


# What was not seen


def test_joints_that_are_missing_are_interpolated(make_folder: Callable[..., Path]) -> None:
    """Against np.interp's definition by hand: ends are held, gaps are straight, absent bodies stay absent."""
    x = body(frames=6)
    holes = x.copy()
    holes[[0, 2, 3, 5], 0, 7, 1] = np.nan  # one coordinate missing is a joint missing
    holes[4] = np.nan  # nobody there
    expected = x.copy()
    expected[0, 0, 7] = x[1, 0, 7]
    expected[[2, 3, 5], 0, 7] = x[1, 0, 7]
    expected[4] = 0
    (outcome,) = outcomes(make_folder("file,label\na.npy,x\n", {"a.npy": holes}))
    assert outcome.cleaned == ("missing joints interpolated",)
    np.testing.assert_array_equal(outcome.clip.keypoints, expected.astype(np.float32))


def test_gaps_are_straight() -> None:
    x = np.zeros((5, 1, 20, 2))
    x[:, 0, :, 0] = 1 + np.arange(5)[:, None] ** 2
    x[[1, 2], 0, 3] = np.nan
    filled, was_missing = fill_missing(x, KINECT, "a.npy")
    assert was_missing
    np.testing.assert_allclose(filled[:, 0, 3, 0], [1, 1 + 9 / 3, 1 + 18 / 3, 10, 17])
    assert np.isnan(x[1, 0, 3]).all(), "the input was written to"


def test_persons_and_frames_without_anybody(make_folder: Callable[..., Path]) -> None:
    x = body(persons=3)
    x[:, 0] = 0
    x[1, 1] = 0
    x[2, 2] = np.nan
    clip = one(make_folder("file,label\na.npy,x\n", {"a.npy": x}), up="-y")
    expected = np.nan_to_num(x[:, 1:] * [1, -1, -1]).astype(np.float32)
    np.testing.assert_array_equal(clip.keypoints, expected)
    (outcome,) = outcomes(make_folder("file,label\na.npy,x\n", {"a.npy": np.zeros((4, 20, 3))}))
    assert (outcome.name, outcome.clip, outcome.left_out) == ("a", None, "no body in any frame")


def test_confidence(make_folder: Callable[..., Path]) -> None:
    x = body(COCO)[..., :2] * -400 + 900
    unsure = np.concatenate([x, np.full_like(x[..., :1], 0.7)], axis=-1)
    unsure[1, 0, 4, 2] = 0
    unsure[2, 0, 4, 2] = np.nan
    unsure[3, 0, 4] = 0
    holes = np.where((np.arange(17) == 4)[:, None] & (np.arange(4) > 0)[:, None, None, None], np.nan, x)
    options = {"layout": "coco-17", "units": "pixels"}
    sure = one(make_folder("file,label\na.npy,x\n", {"a.npy": holes}), **options)
    clip = one(make_folder("file,label\na.npy,x\n", {"a.npy": unsure}), dimensions=2, **options)
    np.testing.assert_array_equal(clip.keypoints, sure.keypoints)
    message = refused(make_folder("file,label\na.npy,x\n", {"a.npy": unsure}), **options)
    assert "three coordinates a joint, but pixels have two" in message
    message = refused(make_folder("file,label\na.npy,x\n", {"a.npy": x}), dimensions=3, **options)
    assert "2 numbers a joint, but 3 dimensions were asked for" in message


def test_in_pixels_a_joint_in_the_corner_is_not_seen() -> None:
    x = np.ones((2, 1, 3, 2))
    x[0, 0, 1] = 0
    assert np.isnan(mark_unseen(x, "pixels")).any(axis=-1).tolist() == [[[False, True, False]], [[False] * 3]]
    assert not np.isnan(mark_unseen(x, "metres")).any()


# Units and axes


@pytest.mark.parametrize(("units", "factor"), [("metres", 1), ("centimetres", 100), ("millimetres", 1000)])
@pytest.mark.parametrize(
    ("up", "axes"), [(None, (0, 1, 2)), ("y", (0, 1, 2)), ("-y", (0, -1, -2)), ("z", (0, -2, 1))]
)
def test_units_and_axes(
    make_folder: Callable[..., Path], units: str, factor: float, up: str | None, axes: tuple[int, ...]
) -> None:
    """`axes` says what the file's axes hold of the upright body: x is 0, y 1, z 2, negative where opposite."""
    x = body()
    turned = np.stack([np.copysign(1, axis) * x[..., abs(axis)] for axis in axes], axis=-1)
    clip = one(make_folder("file,label\na.npy,x\n", {"a.npy": turned * factor}), units=units, up=up)
    np.testing.assert_allclose(clip.keypoints, x, atol=1e-6)


@pytest.mark.parametrize("up", ["y", "-y", "z"])
def test_axes_are_turned_and_never_mirrored(up: str) -> None:
    corner = np.eye(3)[None, None] * 0.5
    layout = COCO
    x = np.zeros((1, 1, 17, 3))
    x[0, 0, :3] = corner
    x[0, 0, layout.landmarks["left shoulder"]] = [0.2, 0.5, 0.1]
    out = to_metres(x, layout, "metres", up, "a.npy")[0, 0, :3] / 0.5
    assert np.linalg.det(out) == pytest.approx(1.0)


def by_loops(x: np.ndarray) -> np.ndarray:
    """Pixels to metres in the plainest way: (T, M, 17, 2), NaN where nobody is."""
    torsos, middles = [], []
    for frame in x:
        for person in frame:
            if not np.isnan(person).any():
                shoulders, hips = (person[5] + person[6]) / 2, (person[11] + person[12]) / 2
                torsos.append(float(np.hypot(*(shoulders - hips))))
                middles.append((shoulders + hips) / 2)
    out = np.zeros((*x.shape[:3], 3))
    for place in np.ndindex(x.shape[:3]):
        if not np.isnan(x[place]).any():
            out[place][:2] = (x[place] - middles[0]) * [1, -1] * 0.5 / np.median(torsos)
    return out


@pytest.mark.parametrize("frames", [1, 6])
def test_pixels(make_folder: Callable[..., Path], frames: int) -> None:
    random = np.random.default_rng(1)
    x = body(COCO, frames, persons=2)[..., :2] * random.uniform(200, 300, (frames, 1, 1, 1)) * [1, -1] + 500
    x[0, 0] = np.nan
    x[1:2, 1] = np.nan
    clip = one(make_folder("file,label\na.npy,x\n", {"a.npy": x}), layout="coco-17", units="pixels")
    kept = [person for person in range(2) if not np.isnan(x[:, person]).all()]
    np.testing.assert_allclose(clip.keypoints, by_loops(x)[:, kept], atol=1e-6)
    first = clip.keypoints[0, -1]
    assert first[0, 1] > first[15, 1], "the nose is above the ankles"
    assert first[5, 0] > first[6, 0], "left stays on its side"


def test_pixels_with_y_up_already_and_unknown_units(make_folder: Callable[..., Path]) -> None:
    x = body(COCO)
    flat, options = x[..., :2], {"layout": "coco-17"}
    down = one(make_folder("file,label\na.npy,x\n", {"a.npy": flat * [7, -7]}), units="pixels", **options)
    upward = one(make_folder("file,label\na.npy,x\n", {"a.npy": flat * 7}), units="pixels", up="y", **options)
    np.testing.assert_allclose(down.keypoints, upward.keypoints, atol=1e-6)
    whole = one(make_folder("file,label\na.npy,x\n", {"a.npy": x * 7}), units="unknown", **options)
    torso = (x[:, :, [5, 6]] - x[:, :, [11, 12]]).mean(axis=2)
    scale = 0.5 / np.median(np.linalg.norm(torso, axis=-1))
    np.testing.assert_allclose(whole.keypoints, x * scale, rtol=1e-5)
    message = refused(
        make_folder("file,label\na.npy,x\n", {"a.npy": np.ones((4, 17, 2))}), units="pixels", **options
    )
    assert "shoulders and hips are in the same place" in message
