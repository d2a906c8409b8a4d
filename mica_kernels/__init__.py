"""Operators for frequency-domain skeleton models: a spectral gate and two contrastive losses.

They know tensors and nothing of skeletons, data or training. Each has a definition in plain PyTorch that
runs on every device and differentiates twice, and Triton kernels; the gate has a faster form for CPUs, too.
`mica_kernels.backend` says which implementation runs, and why; `mica_kernels.distributed` has the losses over many
processes; `mica_kernels.build` compiles kernels ahead of time, `mica_kernels.tune` tunes them.
"""

from mica_kernels.contrastive.op import info_nce, similarity_kl
from mica_kernels.spectral.op import spectral_gate

__all__ = ["info_nce", "similarity_kl", "spectral_gate"]
