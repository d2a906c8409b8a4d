"""What enters a FreST layer and what it lets pass: energies by joint and frequency, body by body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mica.models.frest import FreST
from mica.models.stgcn import STGCN


@dataclass(frozen=True)
class Spectra:
    """What a layer did to the bodies that are present, one after another; `clip` counts clips from 0.

    entering, passed: energy, the mean over channels, of the layer's input and of what its filter and gate let pass, by
    frequency in cycles a clip and joint; summed over frequencies, it is the signal's sum of squares over its frames.
    kept: in which share of the channels in which a joint has a signal the gate lets it pass.
    """

    clip: Int[np.ndarray, " bodies"]
    entering: Float[np.ndarray, "bodies F V"]
    passed: Float[np.ndarray, "bodies F V"]
    kept: Float[np.ndarray, "bodies V"]
    num_frames: int


class SpectrumRecorder:
    """Records the first and the last FreST layer of an encoder while clips of `persons` bodies each pass in order.

    It counts `clips`, and of their `bodies` those that are present: not zero throughout.
    """

    def __init__(self, persons: int) -> None:
        self.persons, self.clips, self.bodies = persons, 0, 0
        self._found: dict[nn.Module, list[Spectra]] = {}

    @contextmanager
    def watch(self, encoder: STGCN) -> Iterator[None]:
        """Record during the context; counts alone in an encoder without FreST."""
        layers = encoder.frest_layers
        handles = [encoder.register_forward_pre_hook(self._see_bodies)]
        handles += [layer.register_forward_pre_hook(self._see_layer) for layer in {*layers[:1], *layers[-1:]}]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see_bodies(self, encoder: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Later on an absent body is no longer zero: normalisation and biases give it a signal.
        self._present = inputs[0].flatten(1).any(1)
        rows = torch.arange(len(self._present), device=self._present.device)
        self._clip = self.clips + rows[self._present] // self.persons
        self.clips += len(rows) // self.persons
        self.bodies += len(self._clip)

    def _see_layer(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, FreST)
        if not len(self._clip):
            return
        x = inputs[0][self._present]
        numbers = (self._clip, energy(x), energy(layer.filter(x)), layer.gate_map(x)["kept"])
        clip, entering, passed, kept = (number.cpu().numpy() for number in numbers)
        self._found.setdefault(layer, []).append(Spectra(clip, entering, passed, kept, x.shape[2]))

    def spectra(self, layer: FreST) -> Spectra:
        """What was recorded of the first or the last layer."""
        found = self._found[layer]
        return Spectra(
            clip=np.concatenate([part.clip for part in found]),
            entering=np.concatenate([part.entering for part in found]),
            passed=np.concatenate([part.passed for part in found]),
            kept=np.concatenate([part.kept for part in found]),
            num_frames=found[0].num_frames,
        )


def energy(x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N F V"]:
    """The energy of each frequency 0 ... T // 2, the mean over channels; their sum is that of squares over frames.

    >>> wave = torch.cos(torch.arange(8) * 2 * torch.pi * 3 / 8)
    >>> energy(wave.view(1, 1, 8, 1)).flatten().abs().round(decimals=4).tolist()
    [0.0, 0.0, 0.0, 4.0, 0.0]
    """
    num_frames = x.shape[2]
    both_sides = torch.full((num_frames // 2 + 1, 1), 2.0, dtype=x.dtype, device=x.device)
    both_sides[0] = 1
    if num_frames % 2 == 0:
        both_sides[-1] = 1
    return torch.fft.rfft(x, dim=2, norm="ortho").abs().square().mean(1) * both_sides
