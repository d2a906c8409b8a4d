"""Who takes part in a comparison: a method, or one of its ablations, by a name that says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

import yaml

from mica.configs import FOLDER, load_config, methods
from mica.errors import InputError
from mica.training.config import PretrainConfig

GRIDS = FOLDER / "grids.yaml"


@dataclass(frozen=True)
class Contestant:
    """A method with changes to its recipe, and settings that were chosen for the method.

    Args:
        name: "mica", or with changes behind it "mica+encoder.frest=false".
        chosen: settings of the method that tuning chose, for all who bear its name.

    >>> one = Contestant("mica+encoder.frest=false+objectives.inter=0")
    >>> one.method, one.changes
    ('mica', ('encoder.frest=false', 'objectives.inter=0'))
    >>> one.config("synthetic", seed=1).encoder.frest
    False
    """

    name: str
    chosen: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name as that of one folder, though a change may hold a path.

        >>> Contestant("mica+text_path=../weights").folder
        'mica+text_path=..%2Fweights'
        """
        return quote(self.name, safe="+=[], ")

    @property
    def method(self) -> str:
        return self.name.partition("+")[0]

    @property
    def changes(self) -> tuple[str, ...]:
        return tuple(self.name.split("+")[1:])

    def config(self, dataset: str, seed: int, *shared: str) -> PretrainConfig:
        """Its settings on a data set: the recipe, what all share, what was chosen, and its own changes."""
        return load_config(f"{self.method}/{dataset}", (*shared, *self.chosen, *self.changes, f"seed={seed}"))


def read_contestants(names: Sequence[str]) -> list[Contestant]:
    """The contestants of these names; raises InputError for one twice, one without a recipe, or one of other clips."""
    if len(set(names)) < len(names):
        raise InputError("the same method twice", field="methods", hint="name each once")
    contestants = [Contestant(name) for name in names]
    for one in contestants:
        if one.method not in methods():
            hint = f"methods: {', '.join(methods())}; one may be changed: mica+encoder.frest=false"
            raise InputError(f"no method is called '{one.method}'", field="methods", hint=hint)
        for change in one.changes:
            if change.startswith("split."):
                hint = f"--set {change} changes it for all"
                raise InputError(
                    f"{one.name} would be of other clips than the others", field="methods", hint=hint
                )
    return contestants


def grid(method: str, rate: float) -> tuple[tuple[str, ...], ...]:
    """The settings among which tuning chooses for a method, the recipe as it is first.

    rate: the recipe's learning rate, of which others are parts.

    >>> grid("mica", rate=0.003)[:2], len({len(grid(method, 0.1)) for method in methods()})
    (((), ('optimizer.lr=0.001',)), 1)
    """
    return ((), *(tuple(_of_rate(setting, rate) for setting in settings) for settings in _grids()[method]))


@cache
def _grids() -> dict[str, list[list[str]]]:
    grids: dict[str, list[list[str]]] = yaml.safe_load(Path(GRIDS).read_text(encoding="utf-8"))
    return grids


def _of_rate(setting: str, rate: float) -> str:
    name, _, value = setting.partition("=")
    return f"{name}={rate / float(value[1:]):g}" if value.startswith("/") else setting
