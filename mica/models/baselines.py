"""The classics that MICA is measured against, on its encoder, data, augmentations and evaluation.

SkeletonCLR, AimCLR and CrosSCLR are written anew from their papers' definitions; a supervised ST-GCN is the reference
from above. What differs from what was published stands in docs/comparison.md: among it a queue that starts empty and
fills with real keys (random vectors stall small sets), and batch norms that see the clips of all processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mica.models.baseline_losses import contrast, divergence, energy_drop, nearest
from mica.models.encoding import Features, Views, encode, in_full, statistics_kept
from mica.models.method import Around, Method
from mica.models.mica import MICA
from mica.models.momentum import KeyQueue, MomentumEncoder
from mica.transforms.augment import VIEWS, AugmentConfig
from mica.transforms.streams import Stream, to_stream
from mica_kernels import distributed

STREAMS: tuple[Stream, ...] = ("joint", "motion", "bone")
"""The views of CrosSCLR, each with an encoder of its own."""


@dataclass
class BaselineConfig:
    """What the classics can be told; MICA reads none of it.

    Args:
        temperature: of the softmax over the queue.
        mine_after: share of the training after which AimCLR and CrosSCLR mine neighbours; published 150 of 300 epochs.
        neighbours: how many of them count as positives, of each query.
        drop_above: attention from which AimCLR drops a joint or a cell (a joint in a frame) of the feature map.
        extreme: AimCLR's third view.
    """

    temperature: float = 0.07
    mine_after: float = 0.5
    neighbours: int = 1
    drop_above: float = 0.7
    extreme: AugmentConfig = field(default_factory=lambda: replace(VIEWS["strong"]))


@dataclass(frozen=True)
class Setup:
    """How a contrastive classic is trained.

    Args:
        decay: of the momentum encoder.
        queue: how many keys are kept.
        config: what else it can be told.
        augment: how ordinary views are drawn.
        precision: of the encoder.
    """

    decay: float
    queue: int
    config: BaselineConfig
    augment: AugmentConfig
    precision: torch.dtype


class Supervised(Method):
    """An encoder and a linear classifier, trained with the labels: the reference from above.

    Args:
        model: the encoder; its projection stays untrained.
        num_classes: K.
        augment: how the one view of a clip is drawn.
        precision: of the encoder.

    Source: ST-GCN, Yan et al., AAAI 2018 (arXiv 1801.07455).
    """

    def __init__(self, model: MICA, num_classes: int, augment: AugmentConfig, precision: torch.dtype) -> None:
        super().__init__(model, (augment,))
        model.projector.requires_grad_(False)
        self.precision = precision
        self.classifier = nn.Sequential(
            nn.BatchNorm1d(model.num_features), nn.Linear(model.num_features, num_classes)
        )

    def forward(self, views: Views, earlier: Sequence[Features], around: Around) -> dict[str, Tensor]:
        with self.phase("encoder"):
            features = encode(self.model, views, self.precision)[0]
        with self.phase("losses"):
            loss = distributed.mean(F.cross_entropy(self.classifier(features), around.labels))
        return {"classes": loss, "loss": loss}


class Memory(nn.Module):
    """What MoCo v2 keeps of a model: a momentum encoder, and the queue of its keys.

    Source: He et al., CVPR 2020 (arXiv 1911.05722).
    """

    def __init__(self, model: MICA, decay: float, queue: int) -> None:
        super().__init__()
        self.encoder = MomentumEncoder(model, decay)
        self.queue = KeyQueue(queue, model.projector.out_features)

    def key(self, view: Views, precision: torch.dtype) -> Float[Tensor, "N P"]:
        """What the momentum encoder says of a view; its running statistics follow those of the model."""
        model = self.encoder.model
        with torch.no_grad(), statistics_kept(model):
            return F.normalize(model.project(encode(model, view, precision)[0]), dim=-1)

    def similarities(
        self, query: Float[Tensor, "N P"], key: Float[Tensor, "N P"]
    ) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N Q"]]:
        """Cosines of each query with its own key, and with the queue."""
        return (query * key).sum(1, keepdim=True), query @ self.queue.real.T

    def follow(self, model: MICA, key: Float[Tensor, "N P"], good: Bool[Tensor, ""]) -> None:
        """Go a step towards the model, and take the batch's keys in."""
        self.encoder.follow(model)
        self.queue.push(distributed.gather(key), good)


class SkeletonCLR(Method):
    """MoCo v2 on skeletons: a view is to be told apart from a queue of other clips by the other view of its clip.

    Source: Li et al., CVPR 2021 (arXiv 2104.14466), section 3.1.
    """

    def __init__(self, model: MICA, setup: Setup) -> None:
        super().__init__(model, (setup.augment, setup.augment))
        self.config, self.precision = setup.config, setup.precision
        self.memory = Memory(model, setup.decay, setup.queue)

    def begin(self, parts: Sequence[Views], around: Around) -> None:
        around.fix_dropout(-1)
        with self.phase("momentum"):
            around.keys["joint"] = self.memory.key(parts[0][1:2], self.precision)

    def forward(self, views: Views, earlier: Sequence[Features], around: Around) -> dict[str, Tensor]:
        with self.phase("encoder"):
            features = encode(self.model, views[:1], self.precision)[0]
        with self.phase("losses"):
            own, others = self.memory.similarities(self.query(features), around.keys["joint"])
            loss = distributed.mean(contrast(self.logits(own, others)))
        return {"instance": loss, "loss": loss}

    def query(self, features: Float[Tensor, "N features"]) -> Float[Tensor, "N P"]:
        """The projection as a unit vector."""
        return F.normalize(self.model.project(features), dim=-1)

    def logits(self, own: Float[Tensor, "N 1"], others: Float[Tensor, "N Q"]) -> Float[Tensor, "N 1+Q"]:
        """Over the key of the same clip, which comes first, and the queue."""
        return torch.cat([own, others], dim=1) / self.config.temperature

    def follow(self, around: Around, good: Bool[Tensor, ""]) -> None:
        self.memory.follow(self.model, around.keys["joint"], good)


class AimCLR(SkeletonCLR):
    """SkeletonCLR with extremely augmented views, whose similarities are drawn to those of the ordinary ones.

    The extreme view counts twice, the second time with what attention finds most telling dropped from its feature map
    (`energy_drop`). Later the nearest keys in the queue, of each of the three queries, become positives, too.

    Source: Guo et al., AAAI 2022 (arXiv 2112.03590), equations 4 to 11.
    """

    def __init__(self, model: MICA, setup: Setup) -> None:
        super().__init__(model, setup)
        self.augmentations = (*self.augmentations, setup.config.extreme)

    def forward(self, views: Views, earlier: Sequence[Features], around: Around) -> dict[str, Tensor]:
        with self.phase("encoder"):
            basic = encode(self.model, views[:1], self.precision)[0]
            extreme = self._extreme_features(views[2])
        with self.phase("losses"):
            key = around.keys["joint"]
            found = [self.memory.similarities(self.query(features), key) for features in (basic, *extreme)]
            logits, *extreme_logits = (self.logits(own, others) for own, others in found)
            positives = None
            if around.progress >= self.config.mine_after:
                positives = nearest([others for _, others in found], self.config.neighbours)
            terms = {
                "instance": distributed.mean(contrast(logits, positives)),
                "divergence": distributed.mean(divergence(logits, extreme_logits)),
            }
        return {**terms, "loss": terms["instance"] + terms["divergence"]}

    def _extreme_features(self, view: Float[Tensor, "N C T V M"]) -> list[Float[Tensor, "N features"]]:
        """As they are, and from the feature map that `energy_drop` leaves."""
        with torch.autocast(view.device.type, self.precision, enabled=self.precision != torch.float32):
            maps = self.model.feature_map(view)
            kept = energy_drop(maps, self.config.drop_above)
        return [in_full(self.model.pooled(each, len(view), view.shape[4])) for each in (maps, kept)]


class CrosSCLR(Method):
    """SkeletonCLR on joints, motion and bones at once, which later lend each other their nearest neighbours.

    Where one stream finds its nearest keys in the queue, another takes them as positives. The joint stream's encoder is
    what the training leaves.

    Args:
        models: one a stream, in the order of `STREAMS`.
        setup: the same for all of them.

    Source: Li et al., CVPR 2021 (arXiv 2104.14466), section 3.2, with the context that its code adds: the products of
    two streams' similarities are logits, too.
    """

    def __init__(self, models: Sequence[MICA], setup: Setup) -> None:
        super().__init__(models[0], (setup.augment, setup.augment))
        self.config, self.precision = setup.config, setup.precision
        self.others = nn.ModuleDict(dict(zip(STREAMS[1:], models[1:], strict=True)))
        self.memories = nn.ModuleDict(
            {
                stream: Memory(model, setup.decay, setup.queue)
                for stream, model in zip(STREAMS, models, strict=True)
            }
        )

    def model_of(self, stream: Stream) -> MICA:
        return self.model if stream == STREAMS[0] else self.others[stream]  # type: ignore[return-value]

    def begin(self, parts: Sequence[Views], around: Around) -> None:
        layout = self.model.encoder.layout
        around.fix_dropout(-1)
        with self.phase("momentum"):
            for stream, memory in self._memories():
                view = to_stream(parts[0][1], stream, layout)[None]
                around.keys[stream] = memory.key(view, self.precision)

    def forward(self, views: Views, earlier: Sequence[Features], around: Around) -> dict[str, Tensor]:
        found = {}
        for stream, memory in self._memories():
            with self.phase("encoder"):
                view = to_stream(views[0], stream, self.model.encoder.layout)[None]
                features = encode(self.model_of(stream), view, self.precision)[0]
            with self.phase("losses"):
                query = F.normalize(self.model_of(stream).project(features), dim=-1)
                found[stream] = memory.similarities(query, around.keys[stream])
        mining = around.progress >= self.config.mine_after
        losses = self._mined(found) if mining else self._alone(found)
        terms = {stream: distributed.mean(loss) for stream, loss in losses.items()}
        return {
            "loss": torch.stack(list(terms.values())).sum(),
            **{str(name): term for name, term in terms.items()},
        }

    def _alone(self, found: dict[Stream, tuple[Tensor, Tensor]]) -> dict[Stream, Tensor]:
        return {
            stream: contrast(torch.cat(similarities, dim=1) / self.config.temperature)
            for stream, similarities in found.items()
        }

    def _mined(self, found: dict[Stream, tuple[Tensor, Tensor]]) -> dict[Stream, Tensor]:
        losses: dict[Stream, list[Tensor]] = {stream: [] for stream in found}
        for stream, other in permutations(found, 2):
            own, others = found[stream]
            theirs = found[other][1]
            logits = torch.cat([own, others, others * theirs], dim=1) / self.config.temperature
            positives = nearest([theirs], self.config.neighbours).repeat(1, 2)
            losses[stream].append(contrast(logits, positives))
        return {stream: torch.stack(each).mean(0) for stream, each in losses.items()}

    def follow(self, around: Around, good: Bool[Tensor, ""]) -> None:
        for stream, memory in self._memories():
            memory.follow(self.model_of(stream), around.keys[stream], good)

    def _memories(self) -> Iterable[tuple[Stream, Memory]]:
        return self.memories.items()  # type: ignore[return-value]
