"""Everything a pretraining run can be told, typed: the YAML recipes, the command line and the code read this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mica.models.heads import HeadConfig
from mica.models.precision import Precision
from mica.models.stgcn import EncoderConfig
from mica.objectives import ObjectiveConfig
from mica.transforms.augment import AugmentConfig
from mica.transforms.sampling import Preprocessing


@dataclass
class SplitConfig:
    """Which clips are pretrained on.

    Args:
        protocol: a named protocol of the dataset ("cross-subject", "cross-view"); its training part is used.
        part: "fit" leaves the validation subjects out, so that the running kNN is honest: for every choice. "train"
            takes the whole training part: for the final run, once all is chosen.
        zero_shot: a named zero-shot split; its unseen classes are left out of pretraining.
    """

    protocol: str = "cross-subject"
    part: Literal["fit", "train"] = "fit"
    zero_shot: str | None = None


@dataclass
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine to zero.

    Args:
        epochs: passes over the clips.
        batch_size: clips a step; each gives two views.
        lr: peak learning rate.
        weight_decay: for weights of two and more dimensions; filters, thresholds, biases and norms are spared.
        warmup_epochs: epochs over which the rate rises from zero.
        clip_norm: largest gradient norm.
    """

    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 5.0
    clip_norm: float = 1.0


@dataclass
class PretrainConfig:
    """One pretraining run.

    Args:
        split: which clips are pretrained on.
        preprocessing: how a clip becomes the encoder's input.
        encoder: the skeleton encoder.
        heads: pooling and projections.
        objectives: weights of the losses.
        augment: how the two views of a clip are drawn.
        optimizer: optimiser, schedule and batch.
        text: the frozen text encoder: "minilm", "clip", or "none" for self-supervision without any text.
        text_path: a local directory with the text encoder's weights.
        precision: "auto" takes bfloat16 where the hardware multiplies it (CUDA, CPUs with AMX or AVX-512 BF16).
        knn_every: epochs between two measurements of the running kNN accuracy; 0 for none.
        seed: of weights, order, augmentation and wordings.
    """

    split: SplitConfig = field(default_factory=SplitConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    text: Literal["none", "minilm", "clip"] = "minilm"
    text_path: str | None = None
    objectives: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: Precision = "auto"
    knn_every: int = 5
    seed: int = 0
