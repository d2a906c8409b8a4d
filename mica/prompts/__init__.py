"""Class prompts: several wordings a class, hand-written in the YAML files here or made from templates.

A file maps each class name to its wordings, which describe the movement (body parts, direction, order), since
that is what a skeleton shows. `extends` names a file whose classes are taken over.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from mica.errors import InputError

WORDINGS = 5  # of every class: the hand-written ones, filled up from the templates in their order
TEMPLATES = (
    "a person performing the action: {}",
    "a human body in motion: {}",
    "the movement of someone doing this: {}",
    "a skeleton sequence that shows: {}",
    "{}",
)
FILES = {
    "nw-ucla": "nw-ucla",
    "utd-mhad": "utd-mhad",
    "synthetic": "synthetic",
    "ntu60": "ntu",
    "ntu120": "ntu",
    "pku-mmd-1": "pku-mmd",
    "pku-mmd-2": "pku-mmd",
}


def prompts(dataset: str, class_names: Sequence[str]) -> list[list[str]]:
    """Return `WORDINGS` sentences for each class, in the order of `class_names`.

    A class that the dataset's file does not know, or any class of another dataset, gets the templates alone.

    >>> prompts("nw-ucla", ["sit down"])[0][0]
    'a person bends the knees and lowers the hips backwards onto a seat'
    >>> prompts("my own", ["juggle/spin (two balls)"])[0][0]
    'a person performing the action: juggle or spin, two balls'
    """
    written = read_prompts(Path(__file__).with_name(f"{FILES[dataset]}.yaml")) if dataset in FILES else {}
    return [_fill_up(written.get(key(name), ()), name) for name in class_names]


@cache
def read_prompts(file: Path) -> dict[str, tuple[str, ...]]:
    """Read a file of hand-written wordings, keyed by `key(class name)`.

    Raises `InputError` for a class without wordings or with more than `WORDINGS`, and for a wording that
    occurs twice, which would make two classes alike.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot be read: {error}", file=file) from error
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(classes, dict) or not classes:
        raise InputError("maps no class names to wordings", file=file, field="classes")
    written: dict[str, tuple[str, ...]] = {}
    if parent := content.get("extends"):
        written.update(read_prompts(file.with_name(f"{parent}.yaml")))
    for name, wordings in classes.items():
        written[key(str(name))] = _checked(file, str(name), wordings)
    _refuse_repeats(file, written)
    return written


def key(class_name: str) -> str:
    """Return the form in which class names are compared.

    >>> key("Sit_Down ")
    'sit down'
    """
    return " ".join(class_name.replace("_", " ").casefold().split())


def spoken(class_name: str) -> str:
    """Return a class name as one would say it: no underscores, slashes or brackets.

    >>> spoken("use a fan (with hand or paper)/feeling warm")
    'use a fan, with hand or paper, or feeling warm'
    """
    words = class_name.replace("_", " ").replace(" (", ", ").replace(")/", ", or ").replace("/", " or ")
    return " ".join(words.replace(")", "").replace("(", "").split())


def _fill_up(written: tuple[str, ...], name: str) -> list[str]:
    templates = [template.format(spoken(name)) for template in TEMPLATES]
    return [*written, *templates][:WORDINGS]


def _checked(file: Path, name: str, wordings: object) -> tuple[str, ...]:
    if not isinstance(wordings, list) or not all(isinstance(text, str) and text.strip() for text in wordings):
        raise InputError("wants a list of sentences", file=file, field=name)
    if not 1 <= len(wordings) <= WORDINGS:
        raise InputError(f"has {len(wordings)} wordings, wants 1 to {WORDINGS}", file=file, field=name)
    return tuple(wordings)


def _refuse_repeats(file: Path, written: dict[str, tuple[str, ...]]) -> None:
    owner: dict[str, str] = {}
    for name, wordings in written.items():
        for text in wordings:
            if text in owner:
                raise InputError(f"'{text}' stands under '{owner[text]}' already", file=file, field=name)
            owner[text] = name
