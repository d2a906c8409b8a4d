"""The recipes that come with the package, and how a recipe becomes a `PretrainConfig`."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from mica.errors import InputError
from mica.training.config import PretrainConfig

GROUPS = tuple(name for name, value in asdict(PretrainConfig()).items() if isinstance(value, dict))


def recipes() -> dict[str, Path]:
    """Every shipped recipe by name."""
    return {file.stem: file for file in sorted(Path(__file__).parent.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe: the name of a shipped one, or a path. Raises InputError listing the shipped ones."""
    if name in recipes():
        return recipes()[name]
    if Path(name).is_file():
        return Path(name)
    hint = f"shipped recipes: {', '.join(recipes())}"
    raise InputError(f"'{name}' is neither a shipped recipe nor a file", field="config", hint=hint)


def load_config(name: str) -> PretrainConfig:
    """Read a recipe by name or path, every entry checked; raises InputError naming the file and the entry.

    >>> load_config("synthetic").encoder.preset
    'stgcn-small'
    """
    file = find_recipe(name)
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot be read as YAML: {error}", file=file) from error
    if not isinstance(entries, dict):
        raise InputError("holds no settings, expected a mapping such as 'seed: 1'", file=file)
    for group in GROUPS:
        if not isinstance(entries.get(group, {}), dict):
            raise InputError(
                f"expected a mapping of settings, got {entries[group]!r}", file=file, field=group
            )
    parser = ArgumentParser(exit_on_error=False)
    add_config(parser)
    try:
        return read_config(parser.parse_object(entries))
    except ArgumentError as error:
        hint = "`mica pretrain --help` lists the settings and their types"
        raise InputError(" ".join(str(error).split()), file=file, hint=hint) from error


def add_config(parser: ArgumentParser) -> None:
    """Give a parser an option for every entry of `PretrainConfig`."""
    parser.add_class_arguments(PretrainConfig)


def read_config(options: Namespace) -> PretrainConfig:
    """The configuration among parsed options, built and type-checked."""
    parser = ArgumentParser()
    add_config(parser)
    entries = Namespace({field.name: options[field.name] for field in fields(PretrainConfig)})
    return PretrainConfig(**parser.instantiate(entries).as_dict())
