"""What the parsers of all commands share."""

from __future__ import annotations

from jsonargparse import ArgumentParser

UP = "the axis that points up: y, z, or of pixels -y (write --up=-y)"


def make(description: str, prog: str | None = None) -> ArgumentParser:
    """A parser that raises ArgumentError, so that an error is one line and not a page of usage."""
    return ArgumentParser(description=description, exit_on_error=False, prog=prog)


def add_overwrite(parser: ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")


def add_data(parser: ArgumentParser, what: str = "store that `mica prepare` wrote") -> None:
    parser.add_argument("--data", type=str, required=True, help=what)


def add_run(parser: ArgumentParser) -> None:
    parser.add_argument("--run", type=str, required=True, help="run directory that `mica pretrain` wrote")
