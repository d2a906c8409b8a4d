"""Batch norms over the clips of all processes: PyTorch's on a GPU, and for CPUs, which it leaves out, one of ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mica_kernels import distributed


class CPUSyncBatchNorm(_BatchNorm):
    """A batch norm whose mean and variance in training are those of all processes; each has as many clips.

    >>> norm = CPUSyncBatchNorm(3)  # no process group: as nn.BatchNorm2d
    >>> x = torch.randn(4, 3, 5, 2)
    >>> torch.allclose(norm(x), nn.BatchNorm2d(3)(x), atol=1e-6)
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        others = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        exact = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        mean = distributed.mean(exact.mean(others))
        centred = exact - mean.view(shape)
        variance = distributed.mean(centred.square().mean(others))
        if self.track_running_stats:
            count = x.numel() // x.shape[1] * distributed.processes()
            self._follow(mean.detach(), variance.detach() * count / max(count - 1, 1))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        return (out * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = self.momentum or 0.0
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of axes will do."""


def synchronise_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Give `module` batch norms over all processes, with the parameters and buffers that its own have."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                norm = CPUSyncBatchNorm(child.num_features, child.eps, child.momentum)
                norm._parameters, norm._buffers = child._parameters, child._buffers
                setattr(parent, name, norm)
    return module
