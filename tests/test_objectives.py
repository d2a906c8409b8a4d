"""The three terms against float64 loops, and what is left when some are switched off."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mica.errors import InputError
from mica.objectives import Keys, ObjectiveConfig, Objectives, cross_correlation_loss
from mica.transforms.draws import Draws
from mica_kernels.nn import INITIAL_SCALE

LABELS = torch.tensor([0, 3, 3, 1, 0, 4])


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=Generator().manual_seed(seed)), dim=-1)


TEXTS = unit(5, 3, 8, seed=0)  # 5 classes, 3 wordings
SKELETON = unit(6, 8, seed=1)
VIEWS = torch.randn(2, 6, 7, generator=Generator().manual_seed(2))


def run(objectives: Objectives, skeleton: Tensor | None = SKELETON, seed: int = 5) -> dict[str, Tensor]:
    return objectives(VIEWS[0], VIEWS[1], skeleton, LABELS, Draws(seed, 0, range(6)))


def loop_intra(view1: Tensor, view2: Tensor, off_diagonal: float) -> float:
    one, two = view1.double().numpy(), view2.double().numpy()
    width, total = one.shape[1], 0.0
    for i in range(width):
        for j in range(width):
            correlation = np.corrcoef(one[:, i], two[:, j])[0, 1]
            total += (correlation - 1) ** 2 if i == j else off_diagonal * correlation**2
    return total / width


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def loop_modulation(skeleton: Tensor, text: Tensor, texts: Tensor, temperature: float) -> float:
    concepts = texts.double().mean(1).numpy()
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    total = 0.0
    for s, t in zip(skeleton.double().numpy(), text.double().numpy(), strict=True):
        truth, guess = softmax(concepts @ t / temperature), softmax(INITIAL_SCALE * concepts @ s)
        total += np.sum(truth * np.log(truth / guess))
    return total / len(skeleton)


def loop_inter(skeleton: Tensor, text: Tensor, labels: Tensor) -> float:
    logits = INITIAL_SCALE * skeleton.double().numpy() @ text.double().numpy().T
    total = 0.0
    for matrix in (logits, logits.T):
        for i in range(len(labels)):
            positives = [j for j in range(len(labels)) if labels[j] == labels[i]]
            log_sum = math.log(sum(math.exp(logit) for logit in matrix[i]))
            total += sum(log_sum - matrix[i, j] for j in positives) / len(positives)
    return total / (2 * len(labels))


def loop_instance(view: Tensor, keys: Keys, temperature: float) -> float:
    """The key of the same clip among those of the batch and of the queue."""
    queries = F.normalize(view.double(), dim=1)
    logits = (queries @ torch.cat([keys.batch, keys.queue]).double().T / temperature).numpy()
    return float(np.mean([-math.log(softmax(row)[place]) for place, row in enumerate(logits)]))


@pytest.mark.parametrize("queue", [0, 9])
def test_instance_is_its_definition(queue: int) -> None:
    objectives = Objectives(ObjectiveConfig(intra=0, instance=2, instance_temperature=0.3), None)
    keys = Keys(unit(6, 7, seed=6), unit(9, 7, seed=7)[:queue])
    terms = objectives(VIEWS[0], VIEWS[1], None, LABELS, Draws(5, 0, range(6)), keys)
    expected = loop_instance(VIEWS[0], keys, 0.3)
    assert terms["instance"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(2 * expected, rel=1e-5)


def test_words_of_unseen_classes_teach_nothing() -> None:
    """Those of class 2, which no clip is of, are no concept."""
    renamed = TEXTS.clone()
    renamed[2] = unit(3, 8, seed=9)
    seen = (0, 1, 3, 4)
    one, other = (run(Objectives(ObjectiveConfig(), texts, seen)) for texts in (TEXTS, renamed))
    assert one == other
    draws = Draws(5, 0, range(6))
    text = Objectives(ObjectiveConfig(), TEXTS, seen).draw_texts(LABELS, draws)
    expected = loop_modulation(SKELETON, text, TEXTS[list(seen)], 0.05)
    assert one["modulation"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("off_diagonal", [0.0, 5e-3, 1.0])
@pytest.mark.parametrize("shape", [(6, 7), (2, 3), (40, 1)])
def test_cross_correlation(shape: tuple[int, int], off_diagonal: float) -> None:
    one, two = torch.randn(2, *shape, generator=Generator().manual_seed(3))
    loss = cross_correlation_loss(one * 3 + 1, two, off_diagonal=off_diagonal)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loop_intra(one, two, off_diagonal), rel=1e-3, abs=1e-5)


def test_cross_correlation_is_least_where_views_agree_and_features_do_not() -> None:
    view = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert cross_correlation_loss(view, view).item() == pytest.approx(0, abs=1e-6)
    assert cross_correlation_loss(view, -view).item() == pytest.approx(4, rel=1e-4)
    same = view[:, :1].expand(-1, 2)
    assert cross_correlation_loss(same, same, off_diagonal=0.1).item() == pytest.approx(0.1, rel=1e-4)


def test_cross_correlation_survives_a_feature_that_never_varies() -> None:
    view = torch.randn(8, 3, generator=Generator().manual_seed(4))
    view[:, 1] = 5
    view.requires_grad_()
    loss = cross_correlation_loss(view, view.detach())
    loss.backward()
    assert loss.isfinite()
    assert view.grad.isfinite().all()


def test_cross_correlation_of_half_precision_is_float32() -> None:
    one, two = VIEWS.bfloat16()
    torch.testing.assert_close(
        cross_correlation_loss(one, two), cross_correlation_loss(one.float(), two.float())
    )


def test_one_clip_has_no_correlation() -> None:
    with pytest.raises(ValueError, match="at least two clips"):
        cross_correlation_loss(VIEWS[0, :1], VIEWS[1, :1])


def test_terms_are_their_definitions() -> None:
    config = ObjectiveConfig(0.5, 2.0, 3.0, teacher_temperature=0.1, off_diagonal=0.02)
    objectives = Objectives(config, TEXTS)
    text = objectives.draw_texts(LABELS, Draws(5, 0, range(6)))
    terms = run(objectives)
    expected = {
        "intra": loop_intra(VIEWS[0], VIEWS[1], 0.02),
        "modulation": loop_modulation(SKELETON, text, TEXTS, 0.1),
        "inter": loop_inter(SKELETON, text, LABELS),
    }
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    total = 0.5 * expected["modulation"] + 2 * expected["inter"] + 3 * expected["intra"]
    assert terms["loss"].item() == pytest.approx(total, rel=1e-4)


def test_wordings_do_not_depend_on_who_shares_the_batch() -> None:
    objectives, labels = Objectives(ObjectiveConfig(), TEXTS), torch.arange(5).repeat(8)
    whole = objectives.draw_texts(labels.repeat(2), Draws(3, 7, range(40))).unflatten(0, (2, 40))
    assert not torch.equal(whole[0], whole[1])
    for part in (range(10), range(10, 20), range(20, 40)):
        mine = labels[part.start : part.stop].repeat(2)
        drawn = objectives.draw_texts(mine, Draws(3, 7, part)).unflatten(0, (2, len(part)))
        assert torch.equal(drawn, whole[:, part.start : part.stop])


def test_wordings_are_drawn_from_the_class() -> None:
    objectives = Objectives(ObjectiveConfig(), TEXTS)
    labels = torch.arange(5).repeat(60)
    drawn = objectives.draw_texts(labels, Draws(0, 0, range(300)))
    again = objectives.draw_texts(labels, Draws(0, 0, range(300)))
    assert torch.equal(drawn, again)
    which = (drawn[:, None] == TEXTS[labels]).all(-1)
    assert (which.sum(1) == 1).all()
    for label in range(5):
        assert which[labels == label].any(0).all()


@pytest.mark.parametrize("active", ["modulation", "inter", "intra"])
def test_one_term_alone(active: str) -> None:
    weights = dict.fromkeys(("modulation", "inter", "intra"), 0.0) | {active: 2.0}
    terms = run(Objectives(ObjectiveConfig(**weights), TEXTS))
    assert sorted(terms) == sorted((active, "loss"))
    assert terms["loss"].item() == pytest.approx(2 * terms[active].item())


def test_without_text_only_intra_is_left() -> None:
    objectives = Objectives(ObjectiveConfig(), None)
    terms = run(objectives, skeleton=None)
    assert sorted(terms) == ["intra", "loss"]
    assert list(objectives.parameters()) == []


@pytest.mark.parametrize(
    ("config", "texts"),
    [(ObjectiveConfig(0, 0, 0), TEXTS), (ObjectiveConfig(intra=0), None)],
    ids=["all off", "intra off without text"],
)
def test_nothing_to_learn_from_is_refused(config: ObjectiveConfig, texts: Tensor | None) -> None:
    with pytest.raises(
        InputError, match="field 'objectives': no term is left to learn from\n  hint: give intra or instance"
    ):
        Objectives(config, texts)


def test_instance_alone_needs_keys() -> None:
    objectives = Objectives(ObjectiveConfig(intra=0, instance=1), None)
    with pytest.raises(ValueError, match="instance is the only term, and needs keys"):
        run(objectives, skeleton=None)


def test_gradients_reach_skeleton_views_and_scales_but_no_text() -> None:
    texts = TEXTS.clone().requires_grad_()
    objectives = Objectives(ObjectiveConfig(), texts.detach())
    skeleton, views = SKELETON.clone().requires_grad_(), VIEWS.clone().requires_grad_()
    objectives(views[0], views[1], skeleton, LABELS, Draws(0, 0, range(6)))["loss"].backward()
    assert skeleton.grad.any(1).all()
    assert views.grad.flatten(0, 1).any(1).all()
    assert [name for name, p in objectives.named_parameters() if p.grad is None or p.grad == 0] == []
    assert sorted(dict(objectives.named_parameters())) == ["inter.logit_scale", "modulation.logit_scale"]


def test_texts_are_no_part_of_a_checkpoint() -> None:
    assert sorted(Objectives(ObjectiveConfig(), TEXTS).state_dict()) == [
        "inter.logit_scale",
        "modulation.logit_scale",
    ]
