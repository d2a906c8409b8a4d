from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.io import savemat

from mica.data import synthetic
from mica.data.formats import RECORDED, STREAMED, nw_ucla, prepare, utd_mhad
from mica.data.recordings import open_source
from mica.data.splits import split
from mica.data.store import Clip, Store, StoreInfo
from mica.errors import InputError
from mica.skeleton import get_layout


def only_clip(module: ModuleType, root: Path | str) -> tuple[StoreInfo, Clip]:
    source = open_source(root)
    found = module.find(source)
    (unit,) = found.units
    (outcome,) = found.read(source, unit)
    assert outcome.name == outcome.clip.name
    return found.info, outcome.clip


def test_nw_ucla_clip(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).normal(size=(4, 20, 3)).round(3)
    content = {"file_name": "a08_s02_e03_v01", "label": 7, "skeletons": frames.tolist()}
    (tmp_path / "all_sqe").mkdir()
    (tmp_path / "all_sqe" / "a08_s02_e03_v01.json").write_text(json.dumps(content))
    for root in (tmp_path, tmp_path / "all_sqe", str(tmp_path)):
        info, clip = only_clip(nw_ucla, root)
        assert (clip.name, clip.label, info.class_names[clip.label]) == ("a08_s02_e03_v01", 6, "donning")
        assert (clip.subject, clip.camera, clip.replication) == (2, 1, 3)
        np.testing.assert_array_equal(clip.keypoints, frames[:, None].astype(np.float32))


@pytest.mark.parametrize("frames", [1, 5])
def test_utd_mhad_clip(tmp_path: Path, frames: int) -> None:
    skeleton = np.random.default_rng(0).normal(size=(20, 3, frames))
    (tmp_path / "Skeleton").mkdir()
    savemat(tmp_path / "Skeleton" / "a27_s8_t4_skeleton.mat", {"d_skel": skeleton.squeeze()})
    for root in (tmp_path, tmp_path / "Skeleton"):
        info, clip = only_clip(utd_mhad, root)
        assert (clip.name, info.class_names[clip.label]) == ("a27_s8_t4", "squat")
        assert (clip.subject, clip.replication) == (8, 4)
        assert clip.keypoints.shape == (frames, 1, 20, 3)
        hip_center, head, right_foot = (clip.keypoints[:, 0, v].T for v in (0, 3, 19))
        np.testing.assert_array_equal(hip_center, skeleton[3].astype(np.float32))
        np.testing.assert_array_equal(head, skeleton[0].astype(np.float32))
        np.testing.assert_array_equal(right_foot, skeleton[19].astype(np.float32))


def test_real_utd_mhad_joints_are_put_in_the_layouts_order(real_data: Path) -> None:
    lines = (real_data / "utd_mhad" / "Skeleton" / "Skeleton_joint_order.txt").read_text().splitlines()
    listed = [line.split(".")[1].strip(" ;") for line in lines if line[:1].isdigit()]
    ours = [listed[row].replace("_", " ").replace("center", "centre") for row in utd_mhad.JOINT_ROWS]
    assert tuple(ours) == get_layout("kinect-20").joints


@pytest.fixture(scope="module")
def stores(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Both real data sets, prepared."""
    folder = tmp_path_factory.mktemp("stores")
    made = {}
    for dataset, raw in (("nw-ucla", "nw_ucla"), ("utd-mhad", "utd_mhad")):
        summary = prepare(dataset, real_data / raw, folder / f"{dataset}.arrow", progress=False)
        assert all(note.endswith("as published") for note in summary.splits.values()), summary
        made[dataset] = Store.open(summary.path)
    return made


def test_real_nw_ucla(stores: dict[str, Store]) -> None:
    store = stores["nw-ucla"]
    assert len(store) == 1484
    assert sorted(np.unique(store.subjects).tolist()) == list(range(1, 11))
    assert Counter(store.cameras.tolist()) == {1: 516, 2: 504, 3: 464}
    assert [store.frames.min(), np.median(store.frames), store.frames.max()] == [1, 31, 201]
    assert store.names[store.frames == 1].tolist() == ["a02_s09_e04_v02", "a02_s09_e04_v03"]
    parts = split(store, "cross-view")
    assert (len(parts.train), len(parts.test)) == (1020, 464)
    assert set(store.subjects[parts.validation].tolist()) == {3, 8}


def test_real_nw_ucla_split_equals_the_releases_list(real_data: Path, stores: dict[str, Store]) -> None:
    listed = json.loads((real_data / "nw_ucla" / "ctrgcn_split.json").read_text())
    parts = split(stores["nw-ucla"], "cross-view")
    names = stores["nw-ucla"].names
    assert set(names[parts.train]) == set(listed["train"])
    assert set(names[parts.test]) == set(listed["val"])


def test_real_utd_mhad(stores: dict[str, Store]) -> None:
    store = stores["utd-mhad"]
    assert len(store) == 861
    assert [store.frames.min(), np.median(store.frames), store.frames.max()] == [41, 67, 125]
    assert set(np.bincount(store.labels).tolist()) == {31, 32}
    parts = split(store, "cross-subject")
    assert (len(parts.train), len(parts.test)) == (431, 430)


@pytest.mark.parametrize("dataset", ["nw-ucla", "utd-mhad"])
def test_real_bodies_stand_upright(stores: dict[str, Store], dataset: str) -> None:
    """Heads above hips above feet, left and right told apart: what a wrong joint order would break."""
    store = stores[dataset]
    mean = np.stack([store.keypoints(i)[0, 0] for i in range(len(store))]).mean(axis=0)
    joint = store.layout.joints.index
    heights = [
        mean[joint(name), 1] for name in ("head", "shoulder centre", "hip centre", "left knee", "left foot")
    ]
    assert heights == sorted(heights, reverse=True)
    lengths = [np.linalg.norm(mean[child] - mean[parent]) for child, parent in store.layout.bones]
    assert max(lengths) < 0.6


def test_prepare_synthetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = synthetic.generate
    monkeypatch.setattr(synthetic, "generate", lambda: generate(clips_per_class=2, subjects=2))
    summary = prepare("synthetic", None, tmp_path / "x.arrow")
    _, _, total = generate(clips_per_class=2, subjects=2)
    assert summary.clips == total == len(Store.open(tmp_path / "x.arrow"))
    assert list(summary.splits) == ["cross-subject"]
    assert "cross-subject (train / test): " in str(summary)
    captured = capsys.readouterr()
    assert "prepare synthetic" in captured.err
    assert captured.out == ""


def test_prepare_refuses_before_it_reads(tmp_path: Path) -> None:
    out = tmp_path / "x.arrow"
    with pytest.raises(InputError, match=r"(?s)unknown data set 'ucla'.*nw-ucla, .*synthetic, utd-mhad"):
        prepare("ucla", tmp_path, out)
    with pytest.raises(InputError, match="needs the place"):
        prepare("nw-ucla", None, out)
    out.touch()
    with pytest.raises(InputError, match="exists already"):
        prepare("nw-ucla", tmp_path / "nowhere", out)
    assert {"nw-ucla", "utd-mhad", "ntu60"} <= set(RECORDED)
    assert "synthetic" in STREAMED
