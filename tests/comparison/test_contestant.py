"""Who takes part: names, settings that differ in nothing but what the name says, and grids of one length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mica.comparison.contestant import Contestant, grid, read_contestants
from mica.configs import datasets, methods
from mica.errors import InputError
from mica.training.checks import check_config


def test_a_change_changes_what_it_names_and_nothing_else() -> None:
    plain = Contestant("mica").config("nw-ucla", 2, "split.part=train")
    changed = Contestant("mica+encoder.frest=false").config("nw-ucla", 2, "split.part=train")
    assert (plain.seed, plain.split.part, plain.encoder.frest) == (2, "train", True)
    assert changed == replace(plain, encoder=replace(plain.encoder, frest=False))


def test_what_was_chosen_holds_unless_the_name_says_otherwise() -> None:
    chosen = ("optimizer.lr=0.5", "optimizer.epochs=7")
    found = (
        Contestant("mica+optimizer.lr=0.25", chosen).config("nw-ucla", 0, "optimizer.batch_size=8").optimizer
    )
    assert (found.lr, found.epochs, found.batch_size) == (0.25, 7, 8)


def test_data_of_ones_own_have_a_recipe_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("optimizer: {epochs: 5}\n")
    found = Contestant("aimclr").config(str(tmp_path / "mine.yaml"), 0)
    assert (found.method, found.optimizer.epochs) == ("aimclr", 5)


@pytest.mark.parametrize("dataset", datasets())
@pytest.mark.parametrize("method", methods())
def test_as_many_settings_are_tried_of_each_method_and_no_two_are_one(method: str, dataset: str) -> None:
    rate = Contestant(method).config(dataset, 0).optimizer.lr
    tried = grid(method, rate)
    assert len(tried) == len(grid("mica", rate))
    assert tried[0] == ()
    configs = [Contestant(method, settings).config(dataset, 0) for settings in tried]
    assert all(configs.count(config) == 1 for config in configs)
    for config in configs:
        check_config(config)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["mica", "mica"], "the same method twice"),
        (["mica", "moco"], "no method is called 'moco'"),
        (["+encoder.frest=false"], "no method is called ''"),
    ],
)
def test_names_that_say_nothing_are_refused(names: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read_contestants(names)


def test_a_change_that_is_no_setting_is_named() -> None:
    with pytest.raises(InputError, match=r"encoder\.frost"):
        Contestant("mica+encoder.frost=false").config("nw-ucla", 0)
