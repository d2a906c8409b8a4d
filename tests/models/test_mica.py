"""The model as a whole: shapes, persons, the text space."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mica.models.encoding import encode
from mica.models.heads import HeadConfig
from mica.models.mica import MICA
from mica.models.stgcn import STGCN
from mica.skeleton import get_layout

LAYOUT = get_layout("kinect-20")


def model(text_width: int | None = 12, pooling: str = "parts") -> MICA:
    torch.manual_seed(0)
    heads = HeadConfig(pooling, segments=2, hidden=16, projection=10)
    return MICA(STGCN(LAYOUT, "stgcn-small", num_frames=8), heads, text_width).eval()


def clips(persons: int = 2, n: int = 3) -> Tensor:
    return torch.randn(n, 3, 8, 20, persons, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("pooling", "features"), [("parts", 128 * 2 * 5), ("mean", 128)])
@pytest.mark.parametrize("persons", [1, 2])
def test_shapes(pooling: str, features: int, persons: int) -> None:
    mica = model(pooling=pooling)
    out = mica.features(clips(persons))
    assert out.shape == (3, features) == (3, mica.num_features)
    assert mica.embed(out).shape == (3, 12)
    assert mica.project(out).shape == (3, 10)


def test_persons_are_averaged() -> None:
    mica, x = model(), clips()
    first, second = mica.features(x[..., :1]), mica.features(x[..., 1:])
    torch.testing.assert_close(mica.features(x), (first + second) / 2, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mica.features(x.flip(-1)), mica.features(x), atol=1e-6, rtol=1e-5)


def test_clips_do_not_mix() -> None:
    mica, x = model(), clips()
    torch.testing.assert_close(mica.features(x)[1:2], mica.features(x[1:2]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["parts", "mean"])
@pytest.mark.parametrize("persons", [1, 2])
def test_no_clips(persons: int, pooling: str) -> None:
    mica = model(pooling=pooling)
    features = mica.features(clips(persons, n=0))
    assert features.shape == (0, mica.num_features)
    assert mica.embed(features).shape == (0, 12)
    assert mica.project(features).shape == (0, 10)


def test_embeddings_have_unit_length_and_projections_do_not() -> None:
    mica = model()
    features = mica.features(clips())
    torch.testing.assert_close(mica.embed(features).norm(dim=1), torch.ones(3))
    assert (mica.project(features).norm(dim=1) - 1).abs().min() > 1e-3


def test_without_text_there_is_no_text_space() -> None:
    mica = model(text_width=None)
    features = mica.features(clips())
    assert mica.project(features).shape == (3, 10)
    assert not [name for name in mica.state_dict() if "semantic" in name]
    with pytest.raises(RuntimeError, match="trained without text"):
        mica.embed(features)


def test_what_the_encoder_says_in_bfloat16_is_averaged_in_float32() -> None:
    mica, views = model(), torch.stack([clips(), clips().neg()])
    with torch.no_grad():
        found = encode(mica, views, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            maps = mica.feature_map(views.flatten(0, 1))
    assert maps.dtype == torch.bfloat16
    assert torch.equal(found, mica.pooled(maps.float(), 6, 2).unflatten(0, (2, 3)))
