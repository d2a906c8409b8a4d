"""The columns of a store, and what its header says of it."""

from __future__ import annotations

import json
from dataclasses import asdict

import pyarrow as pa

from mica.data.clip import StoreInfo

FORMAT_VERSION = 2
VERSION_KEY, INFO_KEY = b"mica.format_version", b"mica.info"

NUMBERS = ("frames", "persons", "label", "subject", "camera", "setup", "replication")
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("keypoints", pa.list_(pa.field("item", pa.float32(), nullable=False)), nullable=False),
        *(pa.field(number, pa.int32(), nullable=False) for number in NUMBERS),
        pa.field("text", pa.string(), nullable=False),
        pa.field("parts", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)


def described(info: StoreInfo) -> pa.Schema:
    """Return the schema with `info` in its metadata."""
    return SCHEMA.with_metadata({VERSION_KEY: str(FORMAT_VERSION), INFO_KEY: json.dumps(asdict(info))})
