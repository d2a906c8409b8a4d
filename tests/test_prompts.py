"""The shipped prompts are complete and distinct; a bad file is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

import mica.prompts
from mica.data.class_names import CLASS_NAMES
from mica.data.synthetic.actions import CLASS_NAMES as SYNTHETIC
from mica.errors import InputError
from mica.prompts import FILES, TEMPLATES, WORDINGS, key, prompts, read_prompts, spoken

CLASSES = {**CLASS_NAMES, "synthetic": SYNTHETIC}
WRITTEN = {
    "nw-ucla": 4,
    "utd-mhad": 4,
    "synthetic": 4,
    "ntu60": 2,
    "ntu120": 2,
    "pku-mmd-1": 2,
    "pku-mmd-2": 2,
}


def shipped(dataset: str) -> dict[str, tuple[str, ...]]:
    return read_prompts(Path(mica.prompts.__file__).with_name(f"{FILES[dataset]}.yaml"))


def test_every_dataset_has_a_file() -> None:
    assert set(FILES) == set(CLASSES) == set(WRITTEN)


@pytest.mark.parametrize("dataset", FILES)
def test_every_class_has_hand_written_wordings(dataset: str) -> None:
    written = shipped(dataset)
    assert [name for name in CLASSES[dataset] if len(written.get(key(name), ())) != WRITTEN[dataset]] == []


@pytest.mark.parametrize("dataset", ["nw-ucla", "utd-mhad", "synthetic", "ntu120"])
def test_no_file_names_a_class_that_does_not_exist(dataset: str) -> None:
    assert set(shipped(dataset)) == {key(name) for name in CLASSES[dataset]}


def test_pku_mmd_adds_only_classes_of_its_own() -> None:
    own = set(shipped("pku-mmd-1")) - set(shipped("ntu120"))
    assert own
    assert own <= {key(name) for name in CLASSES["pku-mmd-1"]}


@pytest.mark.parametrize("dataset", FILES)
def test_all_wordings_of_a_dataset_are_distinct(dataset: str) -> None:
    wordings = prompts(dataset, CLASSES[dataset])
    assert {len(of_class) for of_class in wordings} == {WORDINGS}
    texts = [text for of_class in wordings for text in of_class]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("dataset", FILES)
def test_wordings_are_plain_short_sentences(dataset: str) -> None:
    texts = [text for wordings in shipped(dataset).values() for text in wordings]
    assert [text for text in texts if text != text.strip() or "  " in text or not text.isascii()] == []
    assert max(len(text.split()) for text in texts) <= 30  # far below CLIP's 77 tokens


def test_order_follows_the_class_names() -> None:
    forward, backward = prompts("nw-ucla", ["throw", "carry"]), prompts("nw-ucla", ["carry", "throw"])
    assert forward == backward[::-1]


def test_names_are_compared_without_case_and_underscores() -> None:
    assert prompts("nw-ucla", ["Sit_Down"])[0][:4] == prompts("nw-ucla", ["sit down"])[0][:4]


@pytest.mark.parametrize("dataset", ["nw-ucla", "my own"])
def test_an_unknown_class_gets_the_templates(dataset: str) -> None:
    expected = [template.replace("{}", "moonwalk, backwards") for template in TEMPLATES]
    assert prompts(dataset, ["moonwalk (backwards)"]) == [expected]


def test_no_classes_no_prompts() -> None:
    assert prompts("nw-ucla", []) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("use a fan (with hand or paper)/feeling warm", "use a fan, with hand or paper, or feeling warm"),
        ("put on a hat/cap", "put on a hat or cap"),
        ("draw_circle (clockwise)", "draw circle, clockwise"),
        ("{}", "{}"),
    ],
)
def test_spoken(name: str, said: str) -> None:
    assert spoken(name) == said


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "'classes'"),
        ("classes: [sit]", "'classes'"),
        ("classes: {sit: }", "'sit': wants a list"),
        ("classes: {sit: take a seat}", "'sit': wants a list"),
        ("classes: {sit: [down, 3]}", "'sit': wants a list"),
        ("classes: {sit: [down, ' ']}", "'sit': wants a list"),
        ("classes: {sit: []}", "'sit': has 0 wordings"),
        ("classes: {sit: [a, b, c, d, e, f]}", "'sit': has 6 wordings"),
        ("classes: {sit: [a, b], squat: [b, c]}", "'squat': 'b' stands under 'sit' already"),
        ("classes: {sit: [a, a]}", "'a' stands under 'sit' already"),
        ("classes: {sit: [a", "cannot be read"),
        ("extends: nothing\nclasses: {sit: [a]}", "nothing.yaml: cannot be read"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(InputError) as error:
        read_prompts(file)
    assert told in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_extending_takes_over_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("classes: {sit: [a], stand: [b]}")
    file = tmp_path / "own.yaml"
    file.write_text("extends: base\nclasses: {stand: [c]}")
    assert read_prompts(file) == {"sit": ("a",), "stand": ("c",)}
