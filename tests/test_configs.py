"""Recipes: those shipped are sound, and what is wrong in one is named with its file."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from mica.configs import find_recipe, load_config, recipes
from mica.errors import InputError
from mica.training.checks import check_config
from mica.training.config import PretrainConfig


@pytest.mark.parametrize("name", recipes())
def test_shipped_recipe_loads_and_is_in_range(name: str) -> None:
    check_config(load_config(name))


@pytest.mark.parametrize("name", recipes())
def test_shipped_recipe_says_what_it_changes_and_only_that(name: str) -> None:
    """Every entry of the file arrives in the configuration."""
    config = load_config(name)
    for key, value in yaml.safe_load(find_recipe(name).read_text()).items():
        entry = getattr(config, key)
        if isinstance(value, dict):
            assert {inner: getattr(entry, inner) for inner in value} == value
        else:
            assert entry == value


def test_defaults_are_in_range() -> None:
    check_config(PretrainConfig())


def test_every_number_has_a_range() -> None:
    """Whatever number is added to the configuration gets a range, too."""
    config = PretrainConfig()
    names = []
    for field in fields(config):
        value = getattr(config, field.name)
        inner = [(f"{field.name}.{sub.name}", getattr(value, sub.name)) for sub in fields(value)] if (
            is_dataclass(value)
        ) else [(field.name, value)]  # fmt: skip
        names += [name for name, entry in inner if type(entry) in (int, float)]
    assert len(names) > 25
    for name in names:
        group, _, entry = name.rpartition(".")
        broken = PretrainConfig()
        object.__setattr__(getattr(broken, group) if group else broken, entry, float("nan"))
        with pytest.raises(InputError) as caught:
            check_config(broken)
        assert caught.value.field == name


def test_a_path_is_a_recipe_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 4\naugment: {mirror: 0.25}\noptimizer: {lr: 1e-3}\n")
    config = load_config(str(tmp_path / "mine.yaml"))
    assert (config.seed, config.augment.mirror, config.optimizer.lr) == (4, 0.25, 1e-3)
    assert config.encoder == PretrainConfig().encoder


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(InputError, match=r"'nosuch' is neither .*\n  hint: shipped recipes: .*synthetic"):
        find_recipe("nosuch")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("colour: red", "colour"),
        ("heads: {segmente: 1}", "segmente"),
        ("data: my.arrow", "data"),
        ("seed: many", "seed"),
        ("seed: 1.5", "seed"),
        ("optimizer: {epochs: three}", "optimizer.epochs"),
        ("split: {part: all}", "split.part"),
        ("encoder: 3", "field 'encoder': expected a mapping"),
        ("split:", "field 'split': expected a mapping"),
        ("split: {protocol: [", "cannot be read as YAML"),
        ("seed: 1\n\tknn_every: 2", "cannot be read as YAML"),
        (b"\xff\xfe\x93", "cannot be read as YAML"),
        ("", "holds no settings"),
        ("- 1", "holds no settings"),
        ("just words", "holds no settings"),
    ],
)
def test_a_bad_recipe_is_named_with_what_is_wrong(tmp_path: Path, content: str | bytes, problem: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        load_config(str(file))
    assert caught.value.file == file
    assert problem in str(caught.value)
