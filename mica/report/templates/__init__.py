"""The pages' templates, which lie in this folder; whatever is put into them is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

_HERE = Path(__file__).parent


def style() -> str:
    """Return what all pages look like."""
    return (_HERE / "style.css").read_text(encoding="utf-8")


@cache
def template(name: str) -> Template:
    """Return the template of a file."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
