"""The synthetic people: anatomy, habits, sensor, and the promise that a seed fixes every bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica.data.clip import check_clip, check_info
from mica.data.synthetic import CLASS_NAMES, generate
from mica.data.synthetic.actions import ACTIONS, REST, interpolate, vector
from mica.data.synthetic.body import COLUMN, Body, forward_kinematics
from mica.data.synthetic.generate import FRAME_RATE, act, mirrored
from mica.data.synthetic.sensor import CAMERA_YAW, SETUPS, degrade, observe
from mica.data.synthetic.subject import Subject, perform
from mica.errors import InputError
from mica.skeleton import get_layout

LAYOUT = get_layout("ntu-25")
JOINT = {name: index for index, name in enumerate(LAYOUT.joints)}
LABEL = {name: index for index, name in enumerate(CLASS_NAMES)}
HEAD, LEFT_WRIST, RIGHT_WRIST = 3, 6, 10
LEGS = ((12, 13, 14), (16, 17, 18))  # hip, knee, ankle
ANKLES = [14, 18]


def person(number: int) -> Subject:
    return Subject.draw(number, np.random.default_rng([0, 0, number]))


def ideal(name: str, frames: int = 41) -> np.ndarray:
    """One performance without any person's habits, in the body frame."""
    action = ACTIONS[LABEL[name]]
    return forward_kinematics(
        Body.of_height(1.75), interpolate(np.linspace(0, 1, frames), action.times, action.poses)
    )


def bone_lengths(joints: np.ndarray) -> np.ndarray:
    child, parent = np.array(LAYOUT.bones).T
    return np.linalg.norm(joints[..., child, :] - joints[..., parent, :], axis=-1)


@pytest.fixture(scope="module")
def clips():
    return list(generate(clips_per_class=24)[1])


class TestSet:
    def test_every_clip_is_fit_for_the_store(self, clips):
        info, _, total = generate(clips_per_class=24)
        check_info(info)
        assert total == len(clips) == 24 * len(CLASS_NAMES)
        for clip in clips:
            check_clip(clip, info)
            assert clip.keypoints.shape[1:] == (1, 25, 3)
            assert clip.text == info.class_names[clip.label]
        assert len({clip.name for clip in clips}) == total

    def test_every_subject_performs_every_action_equally_often(self, clips):
        pairs, counts = np.unique([(clip.subject, clip.label) for clip in clips], axis=0, return_counts=True)
        assert len(pairs) == 12 * len(CLASS_NAMES)
        assert set(counts) == {2}

    def test_lengths_cameras_and_setups_vary(self, clips):
        frames = [len(clip.keypoints) for clip in clips]
        assert min(frames) == 30
        assert max(frames) == 90
        assert {clip.camera for clip in clips} == {1, 2, 3}
        assert {clip.setup for clip in clips} == {1, 2, 3}

    def test_names_follow_the_fields(self, clips):
        for clip in clips:
            numbers = (clip.setup, clip.subject, clip.replication, clip.label + 1)
            assert clip.name == "S{:03d}P{:03d}R{:03d}A{:03d}".format(*numbers)

    def test_same_seed_same_bits(self, clips):
        again = list(generate(clips_per_class=24)[1])
        assert [clip.name for clip in clips] == [clip.name for clip in again]
        for one, other in zip(clips, again, strict=True):
            assert one.keypoints.tobytes() == other.keypoints.tobytes()

    def test_other_seed_other_clips(self, clips):
        others = list(generate(clips_per_class=1, seed=1)[1])
        for one, other in zip(clips, others, strict=False):
            assert one.keypoints.tobytes() != other.keypoints.tobytes()
        # Not the people alone: the draws of the clips differ too.
        assert [len(clip.keypoints) for clip in clips[: len(others)]] != [len(c.keypoints) for c in others]

    def test_no_two_clips_are_alike(self, clips):
        assert len({clip.keypoints.tobytes() for clip in clips}) == len(clips)
        first = [len(clip.keypoints) for clip in clips if clip.replication == 1]
        second = [len(clip.keypoints) for clip in clips if clip.replication == 2]
        assert first != second

    @pytest.mark.parametrize("setting", [{"clips_per_class": 3}, {"clips_per_class": 4, "subjects": 2}])
    def test_a_clip_does_not_depend_on_how_many_there_are(self, clips, setting):
        known = {clip.name: clip.keypoints.tobytes() for clip in clips}
        for clip in generate(**setting)[1]:
            assert known[clip.name] == clip.keypoints.tobytes()

    def test_num_frames_bounds_the_length(self):
        frames = {len(clip.keypoints) for clip in generate(clips_per_class=2, num_frames=(8, 10))[1]}
        assert frames == {8, 9, 10}

    @pytest.mark.parametrize(
        "setting",
        [
            {"clips_per_class": 0},
            {"subjects": 0},
            {"num_frames": (90, 30)},
            {"num_frames": (1, 30)},
        ],
    )
    def test_impossible_settings_are_refused(self, setting):
        with pytest.raises(InputError):
            generate(**setting)

    def test_actions_are_named_once(self):
        assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == 16


class TestBody:
    @pytest.mark.parametrize("label", range(len(ACTIONS)), ids=CLASS_NAMES)
    @pytest.mark.parametrize("number", [1, 3])
    def test_bones_keep_their_length(self, number, label):
        lengths = bone_lengths(act(person(number), label, 60, np.random.default_rng(label)))
        np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), rtol=0, atol=1e-12)

    def test_bones_have_the_lengths_of_the_body(self):
        body = person(5).body
        lengths = dict(
            zip(LAYOUT.bones, bone_lengths(act(person(5), 0, 30, np.random.default_rng(0)))[0], strict=True)
        )
        for elbow, wrist, knee, ankle in ((5, 6, 13, 14), (9, 10, 17, 18)):
            assert lengths[elbow, elbow - 1] == pytest.approx(body.upper_arm)
            assert lengths[wrist, elbow] == pytest.approx(body.forearm)
            assert lengths[knee, knee - 1] == pytest.approx(body.thigh)
            assert lengths[ankle, knee] == pytest.approx(body.shank)

    @pytest.mark.parametrize("number", range(1, 13))
    def test_standing_people_have_human_dimensions(self, number):
        joints = forward_kinematics(person(number).body, vector(REST)[None])[0]
        assert 1.4 < joints[:, 1].max() < 1.9  # the head joint is its centre, a tenth below the crown
        assert 0.4 < joints[0, 1] / joints[HEAD, 1] < 0.65
        assert 0.25 < abs(joints[JOINT["left shoulder"], 0] - joints[JOINT["right shoulder"], 0]) < 0.55

    def test_sizes_differ_between_subjects(self):
        heights = [person(number).body.thigh for number in range(1, 13)]
        assert max(heights) / min(heights) > 1.15

    @pytest.mark.parametrize("name", CLASS_NAMES)
    def test_knees_bend_forward_and_nothing_sinks_into_the_floor(self, name):
        joints = ideal(name)
        for hip, knee, ankle in LEGS:
            straight = joints[:, ankle] - joints[:, hip]
            bend = joints[:, knee] - (joints[:, hip] + joints[:, ankle]) / 2
            # "Forward" is across the leg: its direction turned by a quarter in the sagittal plane.
            assert (bend[:, 2] * -straight[:, 1] + bend[:, 1] * straight[:, 2] >= -1e-9).all()
        assert joints[..., 1].min() > 0

    @pytest.mark.parametrize("name", [name for name in CLASS_NAMES if name != "jump up"])
    def test_one_foot_stays_on_the_floor(self, name):
        lowest = ideal(name)[:, ANKLES, 1].min(axis=1)
        np.testing.assert_allclose(lowest, Body.of_height(1.75).ankle, atol=0.012)

    def test_mirroring_twice_changes_nothing(self):
        joints = ideal("throw")
        np.testing.assert_array_equal(mirrored(mirrored(joints)), joints)

    def test_reach_is_the_distance_from_shoulder_to_wrist(self):
        body, pose = Body.of_height(1.75), vector(REST | {"right reach": 0.6})
        joints = forward_kinematics(body, pose[None])[0]
        reach = np.linalg.norm(joints[RIGHT_WRIST] - joints[JOINT["right shoulder"]])
        assert reach == pytest.approx(0.6 * (body.upper_arm + body.forearm))


class TestActions:
    def test_sitting_down_lowers_and_standing_up_raises_the_body(self):
        down, up = ideal("sitting down")[:, 0, 1], ideal("standing up")[:, 0, 1]
        assert down[-1] < 0.65 * down[0]
        np.testing.assert_allclose(up[0], down[-1])
        np.testing.assert_allclose(up[-1], down[0])

    def test_jump_leaves_the_floor(self):
        height = ideal("jump up")[:, ANKLES, 1].min(axis=1)
        assert height.max() > 0.25
        assert height[0] == height[-1] < 0.08

    def test_hand_reaches_where_the_action_says(self):
        drink, hat, pick = ideal("drink water"), ideal("put on a hat"), ideal("pick up")
        assert np.linalg.norm(drink[20, 11] - drink[20, HEAD]) < 0.25
        assert hat[:, 11, 1].max() > hat[0, HEAD, 1]
        assert pick[:, 11, 1].min() < 0.4

    def test_claps_meet_and_part(self):
        gap = np.linalg.norm(np.diff(ideal("clapping")[:, [7, 11]], axis=1)[:, 0], axis=-1)
        assert gap.min() < 0.12
        assert gap.max() > 0.3

    def test_cycles_close(self):
        for action in ACTIONS:
            if action.repeated:
                np.testing.assert_array_equal(action.poses[0], action.poses[-1])

    @given(st.lists(st.floats(-180, 180), min_size=2, max_size=8), st.integers(0, 2**32 - 1))
    def test_curve_passes_the_keys_and_never_overshoots(self, values, seed):
        times = np.cumsum(np.random.default_rng(seed).uniform(0.1, 2, len(values)))
        poses = np.array(values)[:, None]
        np.testing.assert_allclose(interpolate(times, times, poses), poses, atol=1e-9)
        for left in range(len(values) - 1):
            inside = interpolate(np.linspace(times[left], times[left + 1], 20), times, poses)
            low, high = sorted(values[left : left + 2])
            assert inside.min() >= low - 1e-9
            assert inside.max() <= high + 1e-9


class TestSubject:
    def test_both_hands_are_preferred_in_both_halves_of_the_subjects(self):
        for half in (range(1, 13, 2), range(2, 13, 2)):
            assert {person(number).left_handed for number in half} == {True, False}

    def test_handedness_mirrors_the_execution(self):
        right = replace(person(4), left_handed=False)
        left = replace(right, left_handed=True)
        for label in range(len(ACTIONS)):
            one = act(right, label, 40, np.random.default_rng(7))
            other = act(left, label, 40, np.random.default_rng(7))
            np.testing.assert_array_equal(mirrored(one), other)

    def test_left_handed_people_mostly_throw_with_the_left(self):
        def left_share(subject: Subject) -> float:
            raised = [
                act(subject, LABEL["throw"], 40, np.random.default_rng(seed))[..., 1].max(axis=0)
                for seed in range(40)
            ]
            return float(np.mean([height[LEFT_WRIST] > height[RIGHT_WRIST] for height in raised]))

        assert left_share(person(3)) > 0.6
        assert left_share(person(4)) < 0.4

    def test_speed_shortens_the_cycle(self):
        def turns(speed: float) -> int:
            subject = replace(person(1), speed=speed, restlessness=0.0)
            pose = perform(subject, ACTIONS[LABEL["hand waving"]], 90, FRAME_RATE, np.random.default_rng(3))
            velocity = np.sign(np.diff(pose[:, COLUMN["right azimuth"]]))
            return int((np.diff(velocity) != 0).sum())

        assert turns(1.6) > 1.5 * turns(0.7)


class TestSensor:
    @pytest.mark.parametrize("camera", [1, 2, 3])
    @pytest.mark.parametrize("setup", [1, 2, 3])
    def test_observation_is_rigid_and_in_front_of_the_sensor(self, camera, setup):
        joints = ideal("kicking something")
        seen = observe(joints, camera, setup, np.random.default_rng(0))

        def distances(x: np.ndarray) -> np.ndarray:
            return np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)

        np.testing.assert_allclose(distances(seen), distances(joints), atol=1e-12)
        chirality = [np.linalg.det(x[0, [4, 8, 16]] - x[0, 0]) for x in (joints, seen)]
        assert chirality[0] == pytest.approx(chirality[1])
        distance = SETUPS[setup - 1][0]
        assert distance - 1.3 < seen[..., 2].min() < seen[..., 2].max() < distance + 1.3

    def test_people_face_the_sensor_upright(self):
        seen = observe(ideal("bow")[:1], 2, 2, np.random.default_rng(0))[0]
        assert (
            seen[JOINT["left shoulder"], 0] < seen[JOINT["right shoulder"], 0]
        )  # x grows to the sensor's left
        assert seen[HEAD, 1] > seen[0, 1] > seen[ANKLES, 1].max()
        assert seen[15, 2] < seen[14, 2]  # toes towards the sensor

    def test_cameras_see_from_up_to_sixty_degrees_aside(self):
        yaw = []
        for seed in range(60):
            seen = observe(ideal("bow", 2)[:1], 1 + seed % len(CAMERA_YAW), 2, np.random.default_rng(seed))[0]
            across = seen[16] - seen[12]
            yaw.append(np.degrees(np.arctan2(across[2], across[0])))
        assert -62 < min(yaw) < -40
        assert 40 < max(yaw) < 62

    def test_jitter_is_small_and_correlated(self):
        still = np.zeros((4000, 25, 3))
        noise = degrade(still, np.random.default_rng(0), jitter=0.01)[:, 0]  # no limb: jitter alone
        noise = noise[(noise != 0).any(axis=1)]
        assert noise.std() == pytest.approx(0.01, rel=0.1)
        lag = np.mean(noise[1:] * noise[:-1]) / np.mean(noise**2)
        assert 0.7 < lag < 0.9

    def test_limbs_freeze_jump_and_bodies_vanish(self, clips):
        frozen, vanished = 0, 0
        for clip in clips:
            body = clip.keypoints[:, 0]
            lost = ~body.any(axis=(1, 2))
            still = (np.diff(body, axis=0) == 0).all(axis=2) & ~(lost[1:] | lost[:-1])[:, None]
            frozen += bool(still.any())
            vanished += bool(lost.any())
            assert not lost[0]
            assert lost.sum() <= 3
        assert 0.2 < frozen / len(clips) < 0.9
        assert 0.01 < vanished / len(clips) < 0.15

    def test_clips_show_their_own_person(self, clips):
        for number in range(1, 13):
            observed = [clip.keypoints[:, 0] for clip in clips if clip.subject == number]
            seen = np.median(np.concatenate([bone_lengths(joints) for joints in observed]), axis=0)
            exact = bone_lengths(forward_kinematics(person(number).body, vector(REST)[None]))[0]
            long = exact > 0.2  # jitter lengthens short bones
            np.testing.assert_allclose(seen[long], exact[long], rtol=0.04)
