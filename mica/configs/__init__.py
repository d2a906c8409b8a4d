"""The recipes that come with the package, and how a recipe becomes a `PretrainConfig`.

A recipe METHOD/DATASET is up to three files, the later ones taking precedence::

    datasets/DATASET.yaml          split, encoder, views and budget: the same for every method
    methods/METHOD.yaml            what the method is
    tuned/DATASET/METHOD.yaml      what validation chose for the two, where somebody tried
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from mica.errors import InputError
from mica.training.config import PretrainConfig

FOLDER = Path(__file__).parent
GROUPS = tuple(name for name, value in asdict(PretrainConfig()).items() if isinstance(value, dict))
_HINT = "`mica pretrain --help` lists the settings and their types"


def methods() -> tuple[str, ...]:
    """The methods that there are recipes of, MICA's first.

    >>> methods()
    ('mica', 'mica-self', 'aimclr', 'crossclr', 'skeletonclr', 'supervised')
    """
    return tuple(sorted(_names("methods"), key=lambda name: (not name.startswith("mica"), name)))


def datasets() -> tuple[str, ...]:
    """The data sets that there are recipes for."""
    return tuple(sorted(_names("datasets")))


def recipes() -> dict[str, tuple[Path, ...]]:
    """The files of every shipped recipe, by its name."""
    return {f"{method}/{dataset}": _files(method, dataset) for method in methods() for dataset in datasets()}


def find_recipe(name: str) -> tuple[Path, ...]:
    """The files of a recipe: METHOD/DATASET, METHOD/FILE for data of one's own, or a file that says everything.

    Raises InputError listing the methods and the data sets.
    """
    method, _, dataset = name.partition("/")
    if name in recipes():
        return recipes()[name]
    if method in methods() and Path(dataset).is_file():
        return Path(dataset), FOLDER / "methods" / f"{method}.yaml"
    if Path(name).is_file():
        return (Path(name),)
    hint = (
        f"METHOD/DATASET, METHOD one of {', '.join(methods())}; DATASET one of {', '.join(datasets())}, "
        "or a YAML file"
    )
    raise InputError(f"'{name}' is neither a shipped recipe nor a file", field="config", hint=hint)


def load_config(name: str, changes: Sequence[str] = ()) -> PretrainConfig:
    """Read a recipe by name or path, every entry checked; raises InputError naming the file and the entry.

    changes: further entries, as on the command line.

    >>> load_config("mica/synthetic", ["optimizer.epochs=3"]).optimizer.epochs
    3
    """
    files = find_recipe(name)
    for file in files:
        _check_groups(file)
    parser = _parser()
    parser.add_argument("--config", action="config")
    arguments = [f"--config={file}" for file in files] + [f"--{change}" for change in changes]
    try:
        return read_config(parser.parse_args(arguments))
    except ArgumentError as error:
        for file in files:
            _check_entries(file)
        raise InputError(f"{' '.join(changes)}: {_words(error)}", field="config", hint=_HINT) from error


def add_config(parser: ArgumentParser) -> None:
    """Give a parser an option for every entry of `PretrainConfig`."""
    parser.add_class_arguments(PretrainConfig)


def read_config(options: Namespace) -> PretrainConfig:
    """The configuration among parsed options, built and type-checked."""
    entries = Namespace({field.name: options[field.name] for field in fields(PretrainConfig)})
    return PretrainConfig(**_parser().instantiate(entries).as_dict())


def config_of(entries: dict[str, Any]) -> PretrainConfig:
    """The configuration of entries as `dataclasses.asdict` gives them.

    >>> config_of(asdict(load_config("mica/synthetic"))) == load_config("mica/synthetic")
    True
    """
    return read_config(_parser().parse_object(entries))


def _names(folder: str) -> list[str]:
    return [file.stem for file in (FOLDER / folder).glob("*.yaml")]


def _files(method: str, dataset: str) -> tuple[Path, ...]:
    files = (
        FOLDER / "datasets" / f"{dataset}.yaml",
        FOLDER / "methods" / f"{method}.yaml",
        FOLDER / "tuned" / dataset / f"{method}.yaml",
    )
    return tuple(file for file in files if file.is_file())


def _check_groups(file: Path) -> None:
    """Raise InputError, naming the file, where it is no mapping of settings, or one of their groups is none."""
    entries = _read(file)
    for group in GROUPS:
        if not isinstance(entries.get(group, {}), dict):
            problem = f"expected a mapping of settings, got {entries[group]!r}"
            raise InputError(problem, file=file, field=group)


def _check_entries(file: Path) -> None:
    """Raise InputError, naming the file, where one of its settings is not right."""
    try:
        _parser().parse_object(_read(file))
    except ArgumentError as error:
        raise InputError(_words(error), file=file, hint=_HINT) from error


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    add_config(parser)
    return parser


def _words(error: ArgumentError) -> str:
    return " ".join(str(error).split())


def _read(file: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot be read as YAML: {error}", file=file) from error
    if not isinstance(entries, dict):
        raise InputError("holds no settings, expected a mapping such as 'seed: 1'", file=file)
    return entries
