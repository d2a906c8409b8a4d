"""A small model of which the tests of saving, sharing and exporting change what they are about."""

from __future__ import annotations

from mica.models.heads import HeadConfig
from mica.models.mica import ModelCard
from mica.models.stgcn import EncoderConfig
from mica.transforms.sampling import Preprocessing

CARD = ModelCard(
    layout="kinect-20",
    preprocessing=Preprocessing(8, "bone", True, "clip"),
    encoder=EncoderConfig("stgcn-small", groups=2),
    heads=HeadConfig(segments=2, hidden=16, projection=10),
    text="minilm",
    text_path=None,
    text_width=12,
    dataset="nw-ucla",
    protocol="cross-view",
    part="fit",
    class_names=("pick up", "wave \u2013 both hands", "throw"),
    seen_classes=(0, 1),
    seed=3,
)
