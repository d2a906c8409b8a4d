"""Everything a pretraining run can be told, typed: the YAML recipes, the command line and the code read this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mica.models.baselines import BaselineConfig
from mica.models.description import MethodName
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
    """Optimiser, schedule and batch: linear warm-up, then a cosine to zero or steps down.

    Args:
        name: "adamw", or "sgd" with Nesterov's momentum of 0.9 (the peers' is plain).
        epochs: passes over the clips.
        batch_size: clips a step, of all processes together; each gives two views. Losses compare all of them.
        micro_batch: clips that go through the encoder at a time on one process, or null for all of its share: a large
            batch in little memory, for one more forward pass. The encoder's batch norms then see as many clips.
        lr: peak learning rate.
        weight_decay: for weights of two and more dimensions; filters, thresholds, biases and norms are spared.
        warmup_epochs: epochs over which the rate rises from zero.
        schedule: "cosine" to zero, or "step": a tenth of the rate from each of `milestones` on.
        milestones: epochs at which "step" lowers the rate.
        clip_norm: largest gradient norm.
        sync_norm: batch norms see the clips of all processes, so that a run does not depend on their number.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    epochs: int = 100
    batch_size: int = 64
    micro_batch: int | None = None
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 5.0
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: list[int] = field(default_factory=list)
    clip_norm: float = 1.0
    sync_norm: bool = True


@dataclass
class MomentumConfig:
    """A second model that follows the first slowly, as in MoCo: weights and buffers.

    Args:
        decay: what it keeps of itself each step (0.99 for small sets, 0.999 for large), or null for no such model.
        queue: keys of earlier batches that `objectives.instance` takes as further negatives; only real ones.
        evaluated: the second model, not the first, is what the running kNN measures and the run leaves.
    """

    decay: float | None = None
    queue: int = 0
    evaluated: bool = False


@dataclass
class EngineConfig:
    """How a run goes, not what it computes: a run may be resumed with other entries.

    Args:
        workers: processes that read clips, for each GPU; null for 4 with a GPU, and none, which is faster, on a CPU.
        compile: compile the encoder with torch.compile.
        save_minutes: time between two saves of all that a resume needs; 0 saves after every step.
        skip_broken: steps that may be left out because a loss or gradient is not finite; one more stops the run.
        stuck_seconds: report a step for whose clips this long was waited.
        trackers: further trackers of Accelerate beside metrics.jsonl, such as "tensorboard".
    """

    workers: int | None = None
    compile: bool = False
    save_minutes: float = 5.0
    skip_broken: int = 0
    stuck_seconds: float = 60.0
    trackers: list[str] = field(default_factory=list)


@dataclass
class PretrainConfig:
    """One pretraining run.

    Args:
        method: "mica", or a classic to compare it with: "skeletonclr", "aimclr", "crossclr", or "supervised".
        split: which clips are pretrained on.
        preprocessing: how a clip becomes the encoder's input.
        encoder: the skeleton encoder.
        heads: pooling and projections.
        objectives: weights of MICA's losses.
        baseline: what the classics can be told.
        augment: how the views of a clip are drawn.
        optimizer: optimiser, schedule and batch.
        momentum: the momentum encoder.
        engine: how the run goes: saving, loading, tracking.
        text: the frozen text encoder: "minilm", "clip", or "none" for self-supervision without any text.
        text_path: a local directory with the text encoder's weights.
        precision: "auto" takes bfloat16 where the hardware multiplies it (CUDA, CPUs with AMX or AVX-512 BF16).
        knn_every: epochs between two measurements of the running kNN accuracy; 0 for none.
        seed: of weights, order, augmentation and wordings.
    """

    method: MethodName = "mica"
    split: SplitConfig = field(default_factory=SplitConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    text: Literal["none", "minilm", "clip"] = "minilm"
    text_path: str | None = None
    objectives: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    momentum: MomentumConfig = field(default_factory=MomentumConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    precision: Precision = "auto"
    knn_every: int = 5
    seed: int = 0
