"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of the public data sets, which do not come with the project."""
    folder = Path(os.environ.get("MICA_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MICA_DATA to a directory with nw_ucla/ and utd_mhad/")
    return folder
