"""Metadata and dependencies stand in pyproject.toml; here, MICA_KERNELS_BUILD compiles kernels at installation.

What it may say: `python -m mica_kernels build --help`. Where it is unset, installing needs no compiler and no Triton.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.build_py import build_py

VARIABLE = "MICA_KERNELS_BUILD"
WANTED = os.environ.get(VARIABLE, "")
SOURCE = Path(__file__).resolve().parent / "mica_kernels"


class BuildWithKernels(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            if WANTED:
                sys.exit(
                    f"{VARIABLE} is for packages; after an editable installation: python -m mica_kernels build"
                )
            return
        folder = Path(self.build_lib, "mica_kernels", "prebuilt_kernels")
        shutil.rmtree(folder, ignore_errors=True)  # build/ may be left from an earlier installation
        if WANTED:
            _build(folder)


def _build(folder: Path) -> None:
    # As a module that imports nothing by itself: what the package imports is not installed yet.
    package = sys.modules["mica_kernels"] = ModuleType("mica_kernels")
    package.__path__ = [str(SOURCE)]
    build = importlib.import_module("mica_kernels.build")
    prebuilt = importlib.import_module("mica_kernels.prebuilt")
    parser = argparse.ArgumentParser(prog=VARIABLE)
    build.add_arguments(parser)
    if status := build.run(parser.parse_args(["--arch", *shlex.split(WANTED)]), folder):
        sys.exit(status)
    prebuilt.pack(folder)


def _requirements() -> list[str]:
    """Triton as it is where pip installs to, which pip hides from this process by PYTHONPATH; else the newest."""
    code = "from importlib.metadata import version; print(version('triton'))"
    found = subprocess.run([sys.executable, "-E", "-P", "-c", code], capture_output=True, text=True)
    return [f"triton=={found.stdout.strip()}" if found.returncode == 0 else "triton>=3.6", "tqdm>=4.66"]


setup(cmdclass={"build_py": BuildWithKernels}, setup_requires=_requirements() if WANTED else [])
