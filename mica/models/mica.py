"""MICA: a skeleton encoder tied to the words for what it sees."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import torch.nn.functional as F
from einops import rearrange
from huggingface_hub import ModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from mica.errors import InputError
from mica.models.description import DESCRIPTION, ModelDescription
from mica.models.heads import HeadConfig, PartPool, Projector
from mica.models.hub import README, find_folder, fingerprint, load_weights, write_weights
from mica.models.readme import describe_model, is_generated, write_readme
from mica.models.stgcn import STGCN


class MICA(nn.Module, ModelHubMixin):
    """The skeleton branch with its heads; the text branch is frozen and enters as embeddings.

    Args:
        encoder: (N, 3, T, V) -> (N, width, T', V).
        heads: pooling and projections.
        text_width: D of the text encoder, or None for a model without text.

    Attributes:
        card: what the model is and has seen, where `ModelCard.build` or `from_pretrained` made it.
        readme: the text that is saved beside the weights; None for the description of the card alone. It is what
            `from_pretrained` found, so that results stay with a model; once its weights change, such a text is
            written no more.

    >>> import torch
    >>> from mica.skeleton import get_layout
    >>> model = MICA(STGCN(get_layout("ntu-25"), preset="stgcn-small"), HeadConfig(), text_width=384)
    >>> features = model.features(torch.randn(2, 3, 64, 25, 2))
    >>> features.shape, model.embed(features).shape, model.project(features).shape
    (torch.Size([2, 2560]), torch.Size([2, 384]), torch.Size([2, 256]))
    """

    card: ModelCard
    readme: str | None = None
    _found: tuple[str | None, str] = (None, "")  # the text that was read, and of which weights

    def __init__(self, encoder: STGCN, heads: HeadConfig, text_width: int | None) -> None:
        super().__init__()
        self._hub_mixin_config = None  # or the mixin would write a config.json; ours is model.json
        self.encoder = encoder
        self.pool = PartPool(encoder.layout, heads.segments, heads.pooling)
        self.num_features = encoder.width * self.pool.cells
        self.projector = Projector(self.num_features, heads.hidden, heads.projection)
        self.semantic = None if text_width is None else Projector(self.num_features, heads.hidden, text_width)

    def features(self, x: Float[Tensor, "N C T V M"]) -> Float[Tensor, "N features"]:
        """Pooled features, the mean over the persons: what evaluations use."""
        # len(x) would be a constant of an exported program.
        return self.pooled(self.feature_map(x), x.shape[0], x.shape[4])

    def feature_map(self, x: Float[Tensor, "N C T V M"]) -> Float[Tensor, "NM width T_out V"]:
        """What the encoder says of each person of each clip."""
        return self.encoder(rearrange(x, "n c t v m -> (n m) c t v"))

    def pooled(
        self, feature_map: Float[Tensor, "NM width T_out V"], clips: int, persons: int
    ) -> Float[Tensor, "N features"]:
        """The features that a feature map of so many clips of so many persons gives."""
        return rearrange(self.pool(feature_map), "(n m) d -> n m d", n=clips, m=persons).mean(1)

    def embed(self, features: Float[Tensor, "N features"]) -> Float[Tensor, "N D"]:
        """s: where skeletons meet text, L2-normalised. Raises RuntimeError in a model without text."""
        if self.semantic is None:
            raise RuntimeError("this model was trained without text: it has no text space to embed into")
        return F.normalize(self.semantic(features), dim=-1)

    def project(self, features: Float[Tensor, "N features"]) -> Float[Tensor, "N D"]:
        """z: where two views of a clip are compared; not normalised (`intra` standardises each feature)."""
        return self.projector(features)

    def required_card(self, done: str) -> ModelCard:
        """The card, without which a model cannot be, say, "saved". Raises ValueError where there is none."""
        if "card" not in vars(self):
            raise ValueError(f"a model that ModelCard.build did not make has no card, and cannot be {done}")
        return self.card

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's passes keywords on to __init__
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> MICA:
        """Rebuild a model in evaluation mode from a directory, or from the Hugging Face Hub by its name there.

        revision: branch, tag or commit on the Hub. cache_dir: where what is fetched is kept. token: for private models.
        local_files_only: take it from the cache or not at all. A directory is read without asking the network. Every
        weight must be there and none too many; only safetensors and JSON are read. Raises InputError where the model is
        out of reach, lacks files, is damaged, or its weights do not fit, with all that do not.
        """
        folder = find_folder(
            pretrained_model_name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        card = ModelCard.read(folder)
        try:
            model = card.build()
        except (TypeError, ValueError) as error:
            raise InputError(f"describes no model: {error}", file=folder / DESCRIPTION) from error
        load_weights(folder, model)
        if (folder / README).is_file():
            model.readme = (folder / README).read_text(encoding="utf-8", errors="replace")
            model._found = (model.readme, fingerprint(model))
        return model.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write weights, description and README.md, each whole or not at all: what `save_pretrained` calls."""
        card = self.required_card("saved")
        write_weights(save_directory, self)
        card.write(save_directory)
        write_readme(save_directory / README, self._current_readme())

    def _current_readme(self) -> str:
        text, (found, weights) = self.readme, self._found
        if text is None:
            return describe_model(self.card)
        outdated = text == found and is_generated(text) and fingerprint(self) != weights
        return describe_model(self.card) if outdated else text


class ModelCard(ModelDescription):
    """What it takes to rebuild a model, to feed it, and to know what it has seen; see `ModelDescription`.

    >>> import tempfile
    >>> from mica.models.stgcn import EncoderConfig
    >>> from mica.transforms.sampling import Preprocessing
    >>> card = ModelCard("kinect-20", Preprocessing(), EncoderConfig("stgcn-small"), HeadConfig(), "none", None, None,
    ...                  "nw-ucla", "cross-view", "fit", ("throw", "carry"), (0, 1), seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = card.build().save_pretrained(folder)
    ...     model = MICA.from_pretrained(folder)
    >>> model.card == card, model.training
    (True, False)
    """

    def build(self) -> MICA:
        """Return the model with fresh weights, and with this as its `card`."""
        encoder = STGCN(self.skeleton, num_frames=self.preprocessing.num_frames, **asdict(self.encoder))
        model = MICA(encoder, self.heads, self.text_width)
        model.card = self
        return model
