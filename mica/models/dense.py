"""FreST in matrix products alone: for runtimes that know neither our operators nor the FFT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mica.models.frest import FreST
from mica.models.stgcn import STGCN, STGCNBlock
from mica_kernels.spectral.reference import EPS, complex_bins, fourier_matrices


class DenseFreST(nn.Module):
    """A trained FreST layer at one number of frames, with the Fourier transform as a product with its matrix.

    At T <= 128 that product costs no more than an FFT, and every runtime has it. The filter and what scales the
    spatial frequencies are constants; gradients reach the convolution and the norm only.

    Args:
        layer: whose numbers are taken.
        num_frames: T of every x.

    Shape: (N, C, T, V) -> the same.

    >>> layer = FreST(channels=8, num_frames=9, num_joints=5, spatial="dft").eval()
    >>> _ = nn.init.ones_(layer.norm.weight)
    >>> x = torch.randn(2, 8, 9, 5)
    >>> torch.allclose(DenseFreST(layer, 9)(x), layer(x), atol=1e-5)
    True
    """

    def __init__(self, layer: FreST, num_frames: int) -> None:
        super().__init__()
        self.groups, self.sparsity = layer.groups, layer.gate.sparsity
        self.mix, self.norm = layer.mix, layer.norm
        with torch.no_grad():
            weight, threshold = layer.gate_at(num_frames)
            real, imaginary = weight[:, None].unbind(-1)
            analysis, synthesis = (basis.to(weight) for basis in fourier_matrices(num_frames))
            constants = {
                "mixing": None if layer.spatial_basis is None else layer.joint_mixing()[:, None],
                "analysis": analysis,
                "real": real.clone(),
                "imaginary": imaginary * complex_bins(num_frames, imaginary.device)[:, None],
                "threshold": None if threshold is None else threshold[:, None, None],
                "synthesis": synthesis,
            }
        for name, constant in constants.items():
            self.register_buffer(name, constant)

    mixing: Tensor | None
    analysis: Tensor
    real: Tensor
    imaginary: Tensor
    threshold: Tensor | None
    synthesis: Tensor

    def forward(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C T V"]:
        return x + self.norm(self.mix(self.filter(x)))

    def filter(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C T V"]:
        """What `FreST.filter` gives."""
        grouped = x.unflatten(1, (self.groups, -1))
        if self.mixing is not None:
            grouped = grouped @ self.mixing
        real, imaginary = (self.analysis @ grouped).chunk(2, dim=3)
        real, imaginary = (
            real * self.real - imaginary * self.imaginary,
            real * self.imaginary + imaginary * self.real,
        )
        if self.threshold is not None and self.sparsity == "bin":
            size = (real.square() + imaginary.square()).sqrt().clamp_min(EPS)
            passed = F.relu(1 - self.threshold / size)
            real, imaginary = real * passed, imaginary * passed
        y = self.synthesis @ torch.cat([real, imaginary], dim=3)
        if self.threshold is not None and self.sparsity == "joint":
            rms = (y.square().mean(dim=3, keepdim=True) + EPS).sqrt()
            y = y * F.relu(1 - self.threshold / rms)
        return y.flatten(1, 2)


def densify(encoder: STGCN, num_frames: int) -> None:
    """Put a `DenseFreST` in place of every FreST layer of an encoder that will see clips of `num_frames` alone."""
    frames = num_frames
    for index, block in enumerate(encoder.blocks):
        if isinstance(block, STGCNBlock):
            frames = (frames - 1) // block.stride + 1
        elif isinstance(block, FreST):
            encoder.blocks[index] = DenseFreST(block, frames)
