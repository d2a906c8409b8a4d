"""`python -m mica_kernels`: what is done to kernels before they run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mica_kernels import build


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mica_kernels", description="Compile kernels ahead of time."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    builder = commands.add_parser("build", help="compile the shipped kernels, with or without a GPU")
    build.add_arguments(builder)
    builder.set_defaults(run=build.run)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
