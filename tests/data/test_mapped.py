"""A store on other joints is in every way the one that `convert` would write."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mica.data.convert import convert
from mica.data.dataset import SkeletonDataset
from mica.data.mapped import MappedStore
from mica.data.splits import split
from mica.data.store import Clip, Store, StoreInfo
from mica.errors import InputError
from mica.skeleton import get_layout, infer_layout, layout_to_dict
from mica.transforms.sampling import Preprocessing

MakeClip = Callable[..., Clip]
MakeStore = Callable[..., Store]


@pytest.fixture
def store(make_clip: MakeClip, make_store: MakeStore) -> Store:
    """Clips of one frame, of two persons, of one whom the sensor lost for a while."""
    clips = [
        make_clip("one", 1, 1, label=0, subject=1),
        make_clip("two", 9, 2, label=1, subject=3),
        make_clip("lost", 6, 2, label=2, subject=2),
        make_clip("long", 30, 3, label=0, subject=4),
    ]
    clips[2].keypoints[2:4] = 0
    clips[2].keypoints[:, 1] = 0
    return make_store(clips)


@pytest.mark.parametrize("layout", ["ntu-25", "coco-17", "h36m-17"])
def test_clips_are_those_that_convert_writes(store: Store, layout: str, tmp_path: Path) -> None:
    converted = Store.open(convert(store, layout, tmp_path / "converted.arrow").path)
    mapped = MappedStore(store, layout)
    assert (mapped.layout, len(mapped)) == (converted.layout, len(converted))
    for i in range(len(store)):
        assert mapped.keypoints(i).dtype == np.float32
        np.testing.assert_array_equal(mapped.keypoints(i), converted.keypoints(i))
        one, two = mapped.clip(i), converted.clip(i)
        np.testing.assert_array_equal(one.keypoints, two.keypoints)
        one.keypoints = two.keypoints
        assert one == two
    assert not mapped.keypoints(2)[2:4].any()
    assert not mapped.keypoints(2)[:, 1].any()


def test_training_reads_it_like_any_other(store: Store, tmp_path: Path) -> None:
    converted = Store.open(convert(store, "ntu-25", tmp_path / "converted.arrow").path)
    mapped, how = MappedStore(store, "ntu-25"), Preprocessing(num_frames=7)
    for part in ("train", "test", "fit", "validation"):
        of_mapped, of_converted = (
            getattr(split(each, "cross-subject"), part) for each in (mapped, converted)
        )
        np.testing.assert_array_equal(of_mapped, of_converted)
    one, two = (SkeletonDataset(each, range(4), how) for each in (mapped, converted))
    assert one.persons == two.persons == 2
    for i in range(4):
        assert torch.equal(one[i]["x"], two[i]["x"])


def test_the_store_itself_stays_as_it_was(store: Store) -> None:
    before, mapped = copy.copy(store), MappedStore(store, "ntu-25")
    assert (store.info, store.layout) == (before.info, get_layout("kinect-20"))
    assert (mapped.info.layout, mapped.info.class_names) == ("ntu-25", store.info.class_names)
    assert store.keypoints(0).shape == (1, 1, 20, 3)
    assert "left thumb" in mapped.mapping.unmatched
    assert mapped.path == store.path


def test_a_layout_of_ones_own(store: Store) -> None:
    kinect = get_layout("kinect-20")
    own = infer_layout("mine", kinect.joints[::-1], [19 - parent for parent in kinect.parents[::-1]])
    mapped = MappedStore(store, "mine", layout_to_dict(own))
    assert mapped.layout == own
    np.testing.assert_array_equal(mapped.keypoints(1), store.keypoints(1)[:, :, ::-1])


def test_another_process_maps_again(store: Store) -> None:
    own = infer_layout("mine", get_layout("kinect-20").joints, get_layout("kinect-20").parents)
    for mapped in (MappedStore(store, "ntu-25"), MappedStore(store, "mine", layout_to_dict(own))):
        again = pickle.loads(pickle.dumps(mapped))
        assert (again.info, again.layout) == (mapped.info, mapped.layout)
        np.testing.assert_array_equal(again.keypoints(3), mapped.keypoints(3))


def test_what_cannot_be_mapped_is_refused(
    store: Store, make_clip: MakeClip, make_store: MakeStore, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="unknown skeleton layout 'nowhere'"):
        MappedStore(store, "nowhere")
    rig = infer_layout("rig", ["hips", "l_arm", "r_arm", "l_thigh", "r_thigh"], [0] * 5)
    with pytest.raises(InputError, match="'rig' has no left elbow"):
        MappedStore(store, "rig", layout_to_dict(rig))
    info = StoreInfo("mine", "rig", ("wave",), 30.0, own_layout=layout_to_dict(rig))
    with pytest.raises(InputError, match="'rig' cannot become 'ntu-25'"):
        MappedStore(make_store([make_clip("a", joints=5)], info), "ntu-25")
