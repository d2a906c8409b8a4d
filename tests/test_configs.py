"""Recipes: those shipped are sound, and what is wrong in one is named with its file."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from mica.configs import (
    FOLDER,
    add_config,
    config_of,
    datasets,
    find_recipe,
    load_config,
    methods,
    read_config,
    recipes,
)
from mica.errors import InputError
from mica.training.checks import check_config
from mica.training.config import PretrainConfig


@pytest.mark.parametrize("name", recipes())
def test_shipped_recipe_loads_and_is_in_range(name: str) -> None:
    check_config(load_config(name))


@pytest.mark.parametrize("name", recipes())
def test_shipped_recipe_says_what_it_changes_and_only_that(name: str) -> None:
    """Every entry of its files arrives in the configuration, that of a later file over that of an earlier one."""
    found, expected = _flat(asdict(load_config(name))), {}
    for file in find_recipe(name):
        expected |= _flat(yaml.safe_load(file.read_text()))
    assert {entry: found[entry] for entry in expected} == expected


@pytest.mark.parametrize("name", recipes())
def test_a_configuration_survives_json(name: str) -> None:
    config = load_config(name)
    assert config_of(json.loads(json.dumps(asdict(config)))) == config


def _flat(entries: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat


def test_defaults_are_in_range() -> None:
    check_config(PretrainConfig())


def test_every_number_has_a_range() -> None:
    """Whatever number is added to the configuration gets a range, too."""
    config = PretrainConfig()
    names = []
    for field in fields(config):
        value = getattr(config, field.name)
        names += [
            name
            for name, entry in _flat({field.name: asdict(value) if is_dataclass(value) else value}).items()
            if type(entry) in (int, float)
        ]
    assert len(names) > 25
    for name in names:
        group, _, entry = name.rpartition(".")
        broken = PretrainConfig()
        object.__setattr__(attrgetter(group)(broken) if group else broken, entry, float("nan"))
        with pytest.raises(InputError) as caught:
            check_config(broken)
        assert caught.value.field == name


def test_a_path_is_a_recipe_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 4\naugment: {mirror: 0.25}\noptimizer: {lr: 1e-3}\n")
    config = load_config(str(tmp_path / "mine.yaml"))
    assert (config.seed, config.augment.mirror, config.optimizer.lr) == (4, 0.25, 1e-3)
    assert config.encoder == PretrainConfig().encoder


def test_every_method_has_the_budget_and_the_views_of_its_data_set() -> None:
    """But for what was tuned, only what a method is tells recipes for a data set apart."""
    for dataset in datasets():
        first, *others = (
            load_config_of(FOLDER / "datasets" / f"{dataset}.yaml", FOLDER / "methods" / f"{method}.yaml")
            for method in methods()
        )
        for other in others:
            for group in ("split", "preprocessing", "augment", "optimizer", "seed"):
                assert getattr(other, group) == getattr(first, group), (dataset, group)
            assert replace(other.encoder, frest=first.encoder.frest) == first.encoder


def load_config_of(*files: Path) -> PretrainConfig:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    add_config(parser)
    return read_config(parser.parse_args([f"--config={file}" for file in files]))


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(InputError, match=r"'nosuch' is neither .*\n  hint: METHOD/DATASET, .*synthetic"):
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
