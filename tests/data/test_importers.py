"""Files that others prepared, read against what a few loops make of the same arrays."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mica.data.class_names import CLASS_NAMES
from mica.data.clip import Clip, StoreInfo
from mica.data.formats.others import agcn, ctr_gcn, pyskl
from mica.data.outcome import Outcome
from mica.data.preparation import prepare_stream
from mica.data.store import Store
from mica.errors import InputError

Result = tuple[StoreInfo, dict[str, Outcome]]


def collect(result: tuple[StoreInfo, Any, int]) -> Result:
    info, outcomes, total = result
    found = list(outcomes)
    assert len(found) == total
    by_name = {outcome.name: outcome for outcome in found}
    assert len(by_name) == total
    return info, by_name


def clip_of(outcome: Outcome) -> Clip:
    assert outcome.clip is not None
    assert outcome.clip.name == outcome.name
    assert outcome.clip.keypoints.dtype == np.float32
    return outcome.clip


def padded(clips: list[np.ndarray], frames: int) -> np.ndarray:
    """Put (T, M, V, 3) clips into (N, frames, 2 x V x 3), a number at a time, the last index quickest."""
    joints = clips[0].shape[2]
    x = np.zeros((len(clips), frames, 2 * joints * 3))
    for n, clip in enumerate(clips):
        for t, m, v, c in np.ndindex(clip.shape):
            x[n, t, (m * joints + v) * 3 + c] = clip[t, m, v, c]
    return x


def bodies(seed: int, frames: int, persons: int = 1, joints: int = 25) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, persons, joints, 3)).astype(np.float32)


def ctr_gcn_file(
    file: Path, save: Callable[..., None] = np.savez, **changes: Any
) -> dict[str, list[np.ndarray]]:
    """One frame; two persons; frames in which nobody is seen; nobody at all; only the second person."""
    lost = bodies(2, 6)
    lost[[0, 3]] = 0
    second = bodies(3, 4, 2)
    second[:, 0] = 0
    train, test = [bodies(0, 1), bodies(1, 5, 2), lost, np.zeros((2, 1, 25, 3))], [second, bodies(4, 8)]
    one_hot = np.eye(60)[[3, 59, 0, 1, 7, 49]]
    arrays = {
        "x_train": padded(train, 8).astype(np.float32),
        "y_train": one_hot[:4],
        "x_test": padded(test, 8).astype(np.float32),
        "y_test": one_hot[4:],
    }
    arrays = {key: value for key, value in (arrays | changes).items() if value is not None}
    save(file, **arrays)
    return {"train": train, "test": [second[:, 1:], test[1]]}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_ctr_gcn(tmp_path: Path, save: Callable[..., None]) -> None:
    file = tmp_path / "NTU60_CS.npz"
    clips = ctr_gcn_file(file, save)
    info, found = collect(ctr_gcn.read(file))
    assert (info.dataset, info.layout, info.frame_rate) == ("ntu60", "ntu-25", 30.0)
    assert info.class_names == CLASS_NAMES["ntu60"]
    assert "NTU60_CS.npz" in info.source
    labels = {"train": [3, 59, 0, 1], "test": [7, 49]}
    assert list(found) == [f"{part}_{i:06d}" for part in clips for i in range(len(clips[part]))]
    nobody = found.pop("train_000003")
    assert (nobody.clip, nobody.left_out) == (None, "no body in any frame")
    for part in clips:
        for i, expected in enumerate(clips[part]):
            if expected.any():
                clip = clip_of(found[f"{part}_{i:06d}"])
                np.testing.assert_array_equal(clip.keypoints, expected)
                assert (clip.label, clip.parts) == (labels[part][i], {"cross-subject": part})
                assert (clip.subject, clip.camera, clip.setup, clip.replication) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("NTU60_CS.npz", "cross-subject"),
        ("NTU60_CV.npz", "cross-view"),
        ("NTU120_CSub.npz", "cross-subject"),
        ("ntu120_cset.npz", "cross-setup"),
        ("NTU60_CS_aligned.npz", "cross-subject"),
        ("NTU60_CSV.npz", "as-given"),
        ("mine.npz", "as-given"),
    ],
)
def test_ctr_gcn_protocol(tmp_path: Path, name: str, protocol: str) -> None:
    ctr_gcn_file(tmp_path / name)
    _, found = collect(ctr_gcn.read(tmp_path / name))
    assert clip_of(found["test_000001"]).parts == {protocol: "test"}
    _, found = collect(ctr_gcn.read(tmp_path / name, protocol="mine"))
    assert clip_of(found["train_000000"]).parts == {"mine": "train"}


@pytest.mark.parametrize("labels", [[3, 119, 0, 1], np.array([[3], [119], [0], [1]]), [3.0, 119.0, 0.0, 1.0]])
def test_ctr_gcn_labels_as_numbers(tmp_path: Path, labels: Any) -> None:
    file = tmp_path / "x.npz"
    ctr_gcn_file(file, y_train=np.array(labels), y_test=np.array([7, 49]))
    info, found = collect(ctr_gcn.read(file))
    assert info.dataset == "ntu120"
    assert [clip_of(found[f"train_{i:06d}"]).label for i in range(3)] == [3, 119, 0]


def test_ctr_gcn_of_another_data_set(tmp_path: Path) -> None:
    file = tmp_path / "Mine.npz"
    x = padded([bodies(0, 3, 2, 20), bodies(1, 2, 1, 20)], 4)
    np.savez(
        file,
        x_train=x,
        y_train=np.eye(3)[[2, 0]],
        x_test=x.astype(">f4"),
        y_test=np.eye(3, dtype=bool)[[1, 1]],
    )
    info, found = collect(ctr_gcn.read(file, layout="kinect-20"))
    assert (info.dataset, info.layout) == ("mine", "kinect-20")
    assert info.class_names == ("class 0", "class 1", "class 2")
    np.testing.assert_array_equal(clip_of(found["train_000000"]).keypoints, bodies(0, 3, 2, 20))
    np.testing.assert_array_equal(clip_of(found["test_000001"]).keypoints, bodies(1, 2, 1, 20))
    info, _, _ = ctr_gcn.read(file, layout="kinect-20", dataset="nw-ucla")
    assert info.class_names == CLASS_NAMES["nw-ucla"]
    info, _, _ = ctr_gcn.read(
        file, layout="kinect-20", dataset="chores", class_names=["sweep", "wash", "iron"]
    )
    assert (info.dataset, info.class_names) == ("chores", ("sweep", "wash", "iron"))
    with pytest.raises(InputError, match="need 3 classes, chores has 2"):
        ctr_gcn.read(file, layout="kinect-20", dataset="chores", class_names=["sweep", "wash"])


@pytest.mark.parametrize(
    ("width", "layout", "shape"),
    [
        (150, "ntu-25", (2, 25)),
        (75, "ntu-25", (1, 25)),
        (120, "kinect-20", (2, 20)),
        (60, "kinect-20", (1, 20)),
        (450, "ntu-25", (6, 25)),
    ],
)
def test_ctr_gcn_layout_told_from_the_width(
    tmp_path: Path, width: int, layout: str, shape: tuple[int, int]
) -> None:
    file = tmp_path / "x.npz"
    x = np.random.default_rng(0).normal(size=(1, 4, width))
    np.savez(file, x_train=x, y_train=[0], x_test=x, y_test=[0])
    info, found = collect(ctr_gcn.read(file, layout=layout if width == 450 else None))
    assert info.layout == layout
    keypoints = clip_of(found["test_000000"]).keypoints
    assert keypoints.shape == (4, *shape, 3)
    np.testing.assert_array_equal(keypoints.reshape(4, -1), x[0].astype(np.float32))


def test_ctr_gcn_is_read_a_clip_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "NTU60_CS.npz"
    ctr_gcn_file(file)
    monkeypatch.setattr(np, "load", None)
    _, outcomes, total = ctr_gcn.read(file)
    assert total == 6
    with file.open("r+b") as damaged:  # later clips are not looked at before they are asked for
        damaged.seek(2 * 8 * 150 * 4)
        damaged.write(b"\xff" * 100)
    assert next(iter(outcomes)).name == "train_000000"
    with pytest.raises(InputError):
        list(outcomes)


NAN = padded([bodies(0, 3), bodies(1, 2), bodies(1, 2), bodies(1, 2)], 8)
NAN[1, 1, 7] = np.nan


@pytest.mark.parametrize(
    ("changes", "field", "clip", "problem"),
    [
        ({"x_test": None}, "x_test", None, "array missing, found x_train, y_test, y_train"),
        ({"y_train": None}, "y_train", None, "array missing"),
        ({"x_train": np.zeros((4, 8, 149))}, "x_train", None, "149 numbers a frame"),
        ({"x_train": np.zeros((4, 8))}, "x_train", None, "8 numbers a frame"),
        ({"x_test": np.zeros((2, 8, 120))}, "x_test", None, "another layout than ntu-25"),
        ({"x_train": np.zeros((4, 8, 2, 75))}, "x_train", None, "shape (4, 8, 2, 75)"),
        ({"x_train": np.zeros((4, 8, 150), int)}, "x_train", None, "int64"),
        ({"x_train": np.zeros((4, 0, 150))}, "x_train", None, "with entries"),
        ({"x_train": np.zeros((0, 8, 150))}, "x_train", None, "with entries"),
        ({"x_train": np.array([None] * 4)}, "x_train", None, "an array of object, expected numbers"),
        ({"x_train": np.asfortranarray(np.ones((4, 8, 150)))}, "x_train", None, "ascontiguousarray"),
        ({"x_train": NAN}, "x_train", "train_000001", "the first is frame 1"),
        ({"x_train": np.full((4, 8, 150), 1e300)}, "x_train", "train_000000", "8 of 8 frames"),
        ({"y_train": np.eye(60)[:3]}, "y_train", None, "each of the 4 clips"),
        ({"y_train": np.zeros((4, 60))}, "y_train", "train_000000", "0 classes are marked"),
        ({"y_train": np.ones((4, 60))}, "y_train", "train_000000", "60 classes are marked"),
        ({"y_train": np.eye(60)[[0] * 4].reshape(4, 60, 1)}, "y_train", None, "shape (4, 60, 1)"),
        ({"y_train": np.array([0, 1, -1, 2])}, "y_train", "2", "label -1"),
        ({"y_train": np.array([0, 1, 2.5, 2])}, "y_train", "2", "label 2.5"),
        ({"y_train": np.array([0, 1, np.nan, 2])}, "y_train", "2", "label nan"),
        ({"y_train": np.array([0, np.inf, 1, 2])}, "y_train", "1", "label inf"),
        ({"y_train": np.array([0, 2**62, 1, 2])}, "label", None, "4611686018427387905 classes"),
        ({"y_train": np.array(["a", "b", "c", "d"])}, "y_train", None, "expected numbers"),
    ],
)
def test_bad_ctr_gcn(
    tmp_path: Path, changes: dict[str, Any], field: str, clip: str | None, problem: str
) -> None:
    file = tmp_path / "NTU60_CS.npz"
    ctr_gcn_file(file, **changes)
    with pytest.raises(InputError) as caught:
        collect(ctr_gcn.read(file))
    assert (caught.value.file, caught.value.field, caught.value.clip) == (file, field, clip)
    assert problem in str(caught.value)


def test_ctr_gcn_arguments(tmp_path: Path) -> None:
    ctr_gcn_file(tmp_path / "x.npz")
    for options, problem in (
        ({"dataset": "utd-mhad"}, "need 60 classes, utd-mhad has 27"),
        ({"layout": "nobody's"}, "unknown skeleton layout"),
        ({"class_names": ["a"] * 60}, "differ"),
    ):
        with pytest.raises(InputError, match=problem):
            ctr_gcn.read(tmp_path / "x.npz", **options)
    with pytest.raises(InputError, match="no such file"):
        ctr_gcn.read(tmp_path / "missing.npz")
    with pytest.raises(InputError, match=r"not readable as a \.npz file"):
        ctr_gcn.read(tmp_path)


NAMES = ["S001C002P003R001A005", "S017C003P008R002A060", "S001C001P001R001A001", "S002C001P010R002A002"]


def pyskl_content(*clips: np.ndarray, **changes: Any) -> dict[str, Any]:
    annotations = [
        {"frame_dir": name, "label": int(name[-3:]) - 1, "total_frames": len(clip),
         "keypoint": clip.transpose(1, 0, 2, 3).astype(np.float16)}
        for name, clip in zip(NAMES, clips, strict=False)
    ]  # fmt: skip
    split = {
        "xsub_train": NAMES[:1],
        "xsub_val": NAMES[1:3],
        "xview_train": [NAMES[1]],
        "xview_val": [NAMES[0]],
    }
    return {"split": split, "annotations": annotations, **changes}


def save_pickle(file: Path, content: Any, protocol: int = 4) -> Path:
    file.write_bytes(pickle.dumps(content, protocol))
    return file


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pyskl(tmp_path: Path, protocol: int) -> None:
    lost = bodies(5, 4, 2)
    lost[3], lost[:, 1] = 0, 0
    clips = [bodies(0, 1), bodies(1, 5, 2), np.zeros((2, 1, 25, 3)), lost]
    file = save_pickle(tmp_path / "ntu60_3danno.pkl", pyskl_content(*clips), protocol)
    info, found = collect(pyskl.read(file))
    assert (info.dataset, info.layout, info.class_names) == ("ntu60", "ntu-25", CLASS_NAMES["ntu60"])
    assert found[NAMES[2]].left_out == "no body in any frame"
    first, second, last = (clip_of(found[NAMES[i]]) for i in (0, 1, 3))
    np.testing.assert_array_equal(first.keypoints, clips[0].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(second.keypoints, clips[1].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(last.keypoints, lost[:, :1].astype(np.float16).astype(np.float32))
    assert (first.setup, first.camera, first.subject, first.replication, first.label) == (1, 2, 3, 1, 4)
    assert (second.setup, second.camera, second.subject, second.replication, second.label) == (
        17,
        3,
        8,
        2,
        59,
    )
    assert first.parts == {"cross-subject": "train", "cross-view": "test"}
    assert second.parts == {"cross-subject": "test", "cross-view": "train"}
    assert last.parts == {}
    assert all(outcome.cleaned == () for outcome in found.values())


def test_pyskl_flat(tmp_path: Path) -> None:
    """Pixels of an image of 100 x 200 by hand: its centre is the origin, up is up, half its height is 1."""
    keypoint = np.zeros((1, 3, 17, 2), np.float16)
    keypoint[0, 0, 0] = 100, 50
    keypoint[0, 0, 1] = 150, 25
    keypoint[0, 0, 2] = 200, 100
    keypoint[0, 1, 3] = 50, 0
    keypoint[0, 1, 4] = 10, 10
    keypoint[0, 1, 5] = np.nan, 10
    score = np.ones((1, 3, 17), np.float16)
    score[0, 1, 4] = 0
    entry = {
        "frame_dir": "b",
        "label": 2,
        "keypoint": keypoint,
        "keypoint_score": score,
        "img_shape": (100, 200),
    }
    content = {"split": {"diving_train": ["b"], "test1": ["b"]}, "annotations": [entry]}
    info, found = collect(pyskl.read(save_pickle(tmp_path / "Diving.pkl", content)))
    assert (info.dataset, info.layout, len(info.class_names)) == ("diving", "coco-17", 3)
    expected = np.zeros((3, 1, 17, 3))
    expected[0, 0, 1] = 1, 0.5, 0
    expected[0, 0, 2] = 2, -1, 0
    expected[1, 0, 3] = -1, 1, 0
    clip = clip_of(found["b"])
    np.testing.assert_array_equal(clip.keypoints, expected)
    assert clip.parts == {"diving": "train", "split-1": "test"}
    assert found["b"].cleaned == ("joints that are not numbers, set to zero",)
    del entry["keypoint_score"]
    expected[1, 0, 4] = (10 - 100) / 50, (50 - 10) / 50, 0
    _, found = collect(pyskl.read(save_pickle(tmp_path / "Diving.pkl", content)))
    np.testing.assert_allclose(clip_of(found["b"]).keypoints, expected, rtol=1e-6)


def test_pyskl_splits(tmp_path: Path) -> None:
    names = [f"clip{i}" for i in range(4)]
    annotations = [
        {"frame_dir": n, "label": np.int64(0), "keypoint": bodies(0, 2).transpose(1, 0, 2, 3)} for n in names
    ]
    split = {"train": names[:1], "val": np.array(names[1:2]), "test": tuple(names[2:3]), "others": names,
             "xset_train": [*names[:1], "gone"], "xset_val": names[3:]}  # fmt: skip
    _, found = collect(
        pyskl.read(save_pickle(tmp_path / "x.pkl", {"split": split, "annotations": annotations}))
    )
    assert [clip_of(found[name]).parts for name in names] == [
        {"as-given": "train", "cross-setup": "train"}, {"as-given": "validation"}, {"as-given": "test"},
        {"cross-setup": "test"},
    ]  # fmt: skip
    assert found["gone"].clip is None
    assert "without an annotation" in found["gone"].left_out
    _, found = collect(pyskl.read(save_pickle(tmp_path / "x.pkl", annotations)))
    assert [clip_of(found[name]).parts for name in names] == [{}] * 4


def annotated(**changes: Any) -> dict[str, Any]:
    content = pyskl_content(bodies(0, 3))
    content["annotations"][0].update(changes)
    content["annotations"][0] = {k: v for k, v in content["annotations"][0].items() if v is not None}
    return content


FLAT = np.ones((1, 3, 17, 2), np.float32)


@pytest.mark.parametrize(
    ("content", "field", "clip", "problem"),
    [
        ("text", None, None, "a dictionary of 'split' and 'annotations'"),
        ({"split": {}}, None, None, "a dictionary of"),
        (pyskl_content(split=[]), "split", None, "lists of clip names"),
        (pyskl_content(split={"train": 3}), "split", None, "lists of clip names"),
        (pyskl_content(split={"train": [1]}), "split", None, "lists of clip names"),
        (pyskl_content(split={1: []}), "split", None, "lists of clip names"),
        (pyskl_content(annotations=[{}]), "frame_dir", None, "no name"),
        ({**annotated(), "split": {"a_train": [NAMES[0]], "a_val": [NAMES[0]]}}, "split", NAMES[0], "as train"),
        (pyskl_content(annotations={}), "annotations", None, "a list of dictionaries"),
        (pyskl_content(annotations=[]), "annotations", None, "no clips"),
        (pyskl_content(annotations=[3]), "annotations", None, "a list of dictionaries"),
        (annotated(frame_dir=None), "frame_dir", None, "annotation 0"),
        (annotated(frame_dir=""), "frame_dir", None, "annotation 0"),
        (annotated(label=None), "label", NAMES[0], "missing"),
        (annotated(label="5"), "label", NAMES[0], "whole number"),
        (annotated(label=True), "label", NAMES[0], "whole number"),
        (annotated(label=-1), "label", NAMES[0], "whole number"),
        (annotated(label=5), "label", NAMES[0], "its name says action 5"),
        (annotated(label=200), "label", None, "201 classes"),
        (annotated(label=2**63), "label", None, "classes"),
        (annotated(keypoint=None), "keypoint", NAMES[0], "missing"),
        (annotated(keypoint=[[1, 2, 3]]), "keypoint", NAMES[0], "an array of numbers"),
        (annotated(keypoint=np.array(["a"])), "keypoint", NAMES[0], "an array of numbers"),
        (annotated(keypoint=np.ones((3, 25, 3))), "keypoint", NAMES[0], "shape (3, 25, 3)"),
        (annotated(keypoint=np.ones((1, 3, 25, 4))), "keypoint", NAMES[0], "2 or 3"),
        (annotated(keypoint=np.ones((1, 3, 21, 3))), "keypoint", NAMES[0], "several layouts"),
        (annotated(keypoint=np.ones((1, 3, 25, 2))), "keypoint", NAMES[0], "several layouts"),
        (annotated(keypoint=np.full((1, 3, 25, 3), np.inf)), "keypoint", NAMES[0], "not finite"),
        (annotated(keypoint=np.full((1, 3, 25, 3), 900.0)), "keypoint", NAMES[0], "around 900, expected metres"),
        (annotated(keypoint=FLAT), "img_shape", NAMES[0], "missing"),
        (annotated(keypoint=FLAT, img_shape=(0, 5)), "img_shape", NAMES[0], "in pixels"),
        (annotated(keypoint=FLAT, img_shape=(5.5, 5)), "img_shape", NAMES[0], "in pixels"),
        (annotated(keypoint=FLAT, img_shape=(5, 5, 3)), "img_shape", NAMES[0], "(height, width)"),
        (annotated(keypoint=FLAT, img_shape=5), "img_shape", NAMES[0], "(height, width)"),
        (
            annotated(keypoint=FLAT, img_shape=(5, 5), keypoint_score=np.ones((1, 3, 16))),
            "keypoint_score", NAMES[0], "(1, 3, 16)",
        ),
        ([*annotated()["annotations"] * 2], "name", NAMES[0], "came before"),
    ],
)  # fmt: skip
def test_bad_pyskl(tmp_path: Path, content: Any, field: str | None, clip: str | None, problem: str) -> None:
    file = save_pickle(tmp_path / "x.pkl", content)
    with pytest.raises(InputError) as caught:
        collect(pyskl.read(file))
    assert (caught.value.file, caught.value.field, caught.value.clip) == (file, field, clip)
    assert problem in str(caught.value)


def test_pyskl_bodies_of_two_kinds(tmp_path: Path) -> None:
    content = pyskl_content(bodies(0, 3), bodies(1, 3, joints=20))
    with pytest.raises(InputError, match="20 joints, layout ntu-25 has 25"):
        collect(pyskl.read(save_pickle(tmp_path / "x.pkl", content)))


def test_pyskl_layout_can_be_named(tmp_path: Path) -> None:
    file = save_pickle(tmp_path / "x.pkl", annotated(keypoint=np.ones((1, 3, 17, 3), np.float32)))
    assert pyskl.read(file)[0].layout == "coco-17"
    info, found = collect(pyskl.read(file, layout="h36m-17"))
    assert info.layout == "h36m-17"
    assert clip_of(found[NAMES[0]]).keypoints.shape == (3, 1, 17, 3)


def agcn_data(clips: list[np.ndarray], frames: int) -> np.ndarray:
    """Put (T, M, V, 3) clips into (N, 3, frames, V, 2), a number at a time."""
    data = np.zeros((len(clips), 3, frames, clips[0].shape[2], 2), np.float32)
    for n, clip in enumerate(clips):
        for t, m, v, c in np.ndindex(clip.shape):
            data[n, c, t, v, m] = clip[t, m, v, c]
    return data


AGCN_CLIPS = [bodies(0, 1), bodies(1, 5, 2), np.zeros((1, 1, 25, 3)), bodies(2, 7)]
AGCN_LABELS = [int(name[-3:]) - 1 for name in NAMES]


def agcn_folder(
    folder: Path, data: str = "data_joint", other: str = "val", kind: type = list, **changes: Any
) -> Path:
    folder.mkdir(parents=True)
    files = {"train": slice(0, 2), other: slice(2, 4)}
    for part, clips in files.items():
        np.save(folder / f"{part}_{data}.npy", changes.get(part, agcn_data(AGCN_CLIPS[clips], 7)))
        np.save(folder / f"{part}_data_bone.npy", np.ones((2, 3, 7, 25, 2)))
        names = [f"{name}.skeleton" for name in NAMES[clips]]
        labels = changes.get("labels", kind(AGCN_LABELS[clips]))
        save_pickle(folder / f"{part}_label.pkl", changes.get("content", (names, labels)), 2)
    return folder


@pytest.mark.parametrize(
    ("data", "folder", "protocol"),
    [
        ("data_joint", "ntu/xsub", "cross-subject"),
        ("data", "ntu120/xset", "cross-setup"),
        ("position", "NTU60_frame50_xview", "cross-view"),
        ("position", "elsewhere", "as-given"),
    ],
)
@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_agcn(tmp_path: Path, data: str, folder: str, protocol: str, kind: type) -> None:
    root = agcn_folder(tmp_path / folder, data, kind=kind)
    info, found = collect(agcn.read(root))
    assert (info.dataset, info.layout, info.class_names) == ("ntu60", "ntu-25", CLASS_NAMES["ntu60"])
    assert sorted(found) == sorted(NAMES)
    assert found[NAMES[2]].left_out == "no body in any frame"
    for i, part in ((0, "train"), (1, "train"), (3, "test")):
        clip = clip_of(found[NAMES[i]])
        np.testing.assert_array_equal(clip.keypoints, AGCN_CLIPS[i])
        assert (clip.label, clip.parts) == (AGCN_LABELS[i], {protocol: part})
    assert (clip.setup, clip.camera, clip.subject, clip.replication) == (2, 1, 10, 2)
    _, found = collect(agcn.read(root / f"val_{data}.npy", protocol="mine"))
    assert sorted(found) == sorted(NAMES[2:])
    assert clip_of(found[NAMES[3]]).parts == {"mine": "test"}


def test_agcn_validation_beside_a_test_part(tmp_path: Path) -> None:
    root = agcn_folder(tmp_path / "mine")
    np.save(root / "test_data_joint.npy", agcn_data([bodies(7, 2)], 3))
    save_pickle(root / "test_label.pkl", (["another"], [4]))
    info, found = collect(agcn.read(root))
    assert (info.dataset, len(info.class_names)) == ("mine", 60)
    assert clip_of(found["another"]).parts == {"as-given": "test"}
    assert clip_of(found[NAMES[3]]).parts == {"as-given": "validation"}
    _, found = collect(agcn.read(root / "val_data_joint.npy"))
    assert clip_of(found[NAMES[3]]).parts == {"as-given": "validation"}


@pytest.mark.parametrize(
    ("changes", "name", "problem"),
    [
        ({"train": np.zeros((2, 3, 7, 25), np.float32)}, "train_data.npy", "shape (2, 3, 7, 25)"),
        ({"train": np.zeros((2, 4, 7, 25, 2), np.float32)}, "train_data.npy", "(clips, 3, frames"),
        ({"train": np.zeros((2, 3, 7, 18, 2), np.float32)}, "train_data.npy", "the third is a confidence"),
        ({"train": np.ones((2, 3, 7, 20, 2), np.float32)}, "val_data.npy", "25 joints, layout kinect-20 has 20"),
        ({"train": np.ones((3, 3, 7, 25, 2), np.float32)}, "train_label.pkl", "2 labels, but 3 clips"),
        ({"train": np.full((2, 3, 7, 25, 2), np.nan)}, "train_data.npy", "7 of 7 frames"),
        ({"train": np.array([{}, 2])}, "train_data.npy", "expected numbers"),
        ({"labels": [0]}, "train_label.pkl", "2 names, but 1 labels"),
        ({"labels": [0, 1]}, "train_label.pkl", "its name says action 5"),
        ({"labels": [0, 0.5]}, "train_label.pkl", "whole number"),
        ({"content": ["a", "b", "c"]}, "train_label.pkl", "two lists"),
        ({"content": ["ab", "cd"]}, "train_label.pkl", "two lists"),
        ({"content": ([1, 2], [0, 1])}, "train_label.pkl", "entry 0: a int, expected text"),
        ({"content": (["a", "a"], [0, 1])}, None, "came before"),
        ({"content": {"a": 0}}, "train_label.pkl", "two lists"),
    ],
)  # fmt: skip
def test_bad_agcn(tmp_path: Path, changes: dict[str, Any], name: str | None, problem: str) -> None:
    root = agcn_folder(tmp_path / "xsub", "data", **changes)
    with pytest.raises(InputError) as caught:
        collect(agcn.read(root))
    assert caught.value.file == (root / name if name else root)
    assert problem in str(caught.value)


def test_agcn_files_that_are_missing(tmp_path: Path) -> None:
    root = agcn_folder(tmp_path / "xsub")
    for path in (root / "train_data_bone.npy", root / "train_label.pkl", tmp_path):
        with pytest.raises(InputError, match="no data file of this form") as caught:
            agcn.read(path)
        assert caught.value.file == path
    (root / "val_label.pkl").unlink()
    with pytest.raises(InputError, match="cannot be read: No such file") as caught:
        agcn.read(root)
    assert caught.value.file == root / "val_label.pkl"
    with pytest.raises(InputError, match="no such file or directory"):
        agcn.read(root / "nowhere")


def test_labels_that_would_run_something(tmp_path: Path) -> None:
    root = agcn_folder(tmp_path / "xsub")
    (root / "train_label.pkl").write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
    with pytest.raises(InputError, match=r"asks for os\.system"):
        agcn.read(root)


def test_into_a_store(tmp_path: Path) -> None:
    """What prepared files say of who trains is what a protocol of the store says."""
    ctr_gcn_file(tmp_path / "NTU60_CS.npz")
    summary = prepare_stream(*ctr_gcn.read(tmp_path / "NTU60_CS.npz"), tmp_path / "a.arrow", progress=False)
    assert summary.clips == 5
    store = Store.open(tmp_path / "a.arrow")
    parts = store.parts("cross-subject")
    assert parts.tolist() == ["train"] * 3 + ["test"] * 2
    content = pyskl_content(*(bodies(i, 4) for i in range(4)))
    save_pickle(tmp_path / "ntu60.pkl", content)
    prepare_stream(*pyskl.read(tmp_path / "ntu60.pkl"), tmp_path / "b.arrow", progress=False)
    assert Store.open(tmp_path / "b.arrow").parts("cross-view").tolist() == ["test", "train", "", ""]
