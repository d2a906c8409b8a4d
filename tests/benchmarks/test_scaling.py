"""What the tables of docs/scaling.md are computed from, against sums by hand and against the code at work."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.accounts import COPY_RATE, MATRIX_RATE
from benchmarks.scaling import __main__ as command
from benchmarks.scaling.breaks import limits
from benchmarks.scaling.corpus import QUEUE, column_bytes, state_bytes
from benchmarks.scaling.counting import Live, as_on_a_gpu, build, saved_bytes, traced, views_of
from benchmarks.scaling.memory import Line, Memory, encoding, largest_micro_batch, memory_of
from benchmarks.scaling.plan import LAYOUT, TEXT_WIDTH, Plan
from benchmarks.scaling.sending import (
    Case,
    Collective,
    Way,
    collectives,
    first_above,
    learned_bytes,
    norms_of,
    of_term,
)
from benchmarks.scaling.training import LAUNCH, Time, card_of, step_time, timed_step
from mica.cli import make_parser
from mica.configs import load_config
from mica.models.heads import HeadConfig
from mica.models.method import Around
from mica.models.mica import ModelCard
from mica.models.stgcn import EncoderConfig
from mica.training.config import OptimizerConfig
from mica.training.optimizer import make_optimizer
from mica.training.state import write_state
from mica.training.step import CachedGradients
from mica.transforms.augment import VIEWS, augment
from mica.transforms.draws import Draws
from mica.transforms.sampling import Preprocessing

PAGE = command.DOCUMENT.read_text()
MICRO, LATENCY = 256, 5e-6


@pytest.fixture(scope="module")
def card() -> ModelCard:
    """Of a run of default settings on NTU RGB+D."""
    texts = ("minilm", None, TEXT_WIDTH)
    data = ("ntu60", "cross-subject", "fit", ("wave",), (0,))
    return ModelCard("ntu-25", Preprocessing(), EncoderConfig("stgcn"), HeadConfig(), *texts, *data, seed=0)


@pytest.fixture(scope="module")
def memory() -> Memory:
    return memory_of("stgcn", Plan().batch)


def test_parameters_are_those_of_the_model(card: ModelCard) -> None:
    """And the inverse temperatures of the two losses against texts."""
    learned = sum(parameter.numel() for parameter in card.build().parameters())
    assert learned_bytes("stgcn") == 4 * (learned + 2)


def test_batch_norms_are_those_of_the_model(card: ModelCard) -> None:
    found = {name: len(t) for name, t in card.build().state_dict().items() if name.endswith("running_mean")}
    inside, heads = norms_of("stgcn")
    assert Counter(inside + heads) == Counter(found.values())
    assert len(heads) == 4
    assert sum(inside) == sum(size for name, size in found.items() if name.startswith("encoder"))


def test_saved_bytes_of_a_few_layers() -> None:
    """The input of the linear layer, what comes out of ReLU, and no storage twice."""
    x, layers = torch.zeros(3, 8), nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    assert saved_bytes(lambda: layers(x)) == 4 * (3 * 8 + 3 * 4)
    assert saved_bytes(lambda: layers(x), own=[x]) == 4 * 3 * 4
    weight = torch.ones(6, requires_grad=True)
    assert saved_bytes(lambda: (weight * weight).view(2, 3).exp()) == 4 * 6 + 4 * 6


def test_live_bytes() -> None:
    with Live() as live:
        first = torch.zeros(1000)
        second = first * 2
        view = second[10:]
        assert live.now == 8000
        del second
        assert live.now == 8000
        view = view.sum()
        del first
    assert (live.now, live.most) == (4, 8004)
    del view
    assert live.now == 0


def test_nothing_without_memory_is_left_behind() -> None:
    with traced():
        augment(views_of(2)[0], VIEWS["strong"], LAYOUT, Draws(0, 0, range(2)))
    views = augment(torch.randn(views_of(2)[0].shape), VIEWS["strong"], LAYOUT, Draws(0, 0, range(2)))
    assert views.isfinite().all()


def test_the_encoder_saves_what_is_computed() -> None:
    """By a real pass in bfloat16 over few clips; the kernel saves its input, and so does the operator without it."""
    counted = memory_of("stgcn", Plan().batch).saved
    with as_on_a_gpu(kernels=False):
        trained = build("stgcn")
        own = [*trained.parameters(), *trained.buffers()]
        for clips in (2, 4):
            views = torch.randn(2, *views_of(clips).shape[1:])
            saved = saved_bytes(lambda views=views: trained.encode(views), own)
            assert saved == pytest.approx(counted(clips), rel=1e-3)


def test_memory_grows_evenly_with_the_micro_batch(memory: Memory) -> None:
    with traced():
        trained = build("stgcn")
        assert encoding(trained, 32) == pytest.approx(memory.encoding(32), rel=1e-3)
    small, middle, large = (memory.step(clips) for clips in (256, 512, 1024))
    assert large - middle == pytest.approx(2 * (middle - small))
    assert memory.on_card(512) > small


def test_a_whole_step_takes_what_its_parts_come_to() -> None:
    """Counted in one: the views of a batch of two parts, their gradients by parts, the optimiser's step."""
    batch = 2 * MICRO
    draws = Draws(0, 0, range(batch))
    with traced(), Live() as live:
        trained = build("stgcn")
        optimizer = make_optimizer(trained, OptimizerConfig())
        for parameter in trained.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        x = views_of(batch)[0].clone()
        strong = VIEWS["strong"]
        views = torch.stack([augment(x, strong, LAYOUT, draws) for _ in range(2)])
        live.most = live.now
        parts, around = views.split(MICRO, dim=1), Around(torch.zeros(batch).long(), draws)
        earlier = CachedGradients(trained).backward(parts, around)
        trained(parts[-1], earlier, around)["loss"].backward()
        optimizer.step()
    predicted = memory_of("stgcn", batch).step(MICRO)
    assert live.most < predicted < 1.06 * live.most


def test_the_batch_of_the_requirement_fits_on_a_card(memory: Memory) -> None:
    plan = Plan()
    largest = largest_micro_batch(memory, plan)
    assert largest >= plan.micro_batch
    assert memory.on_card(largest) <= 80e9 < memory.on_card(2 * largest)
    assert f"micro-batches of up to {largest:,}" in " ".join(PAGE.split())
    assert largest_micro_batch(memory, replace(plan, card_gb=4)) == 0


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
@pytest.mark.parametrize("doubling", [False, True])
def test_one_process_sends_nothing(kind: str, doubling: bool) -> None:
    assert Collective(kind, 1000).sent(1) == 0
    assert Collective(kind, 1000).seconds(1, 400, LATENCY, doubling) == 0


def test_times_of_a_ring_and_of_doubling() -> None:
    """Of a million bytes on eight processes at 8 Gbit/s, a byte a nanosecond."""
    reduced, gathered = Collective("all_reduce", 10**6), Collective("all_gather", 10**6)
    assert reduced.seconds(8, 8, LATENCY) == pytest.approx(14 * LATENCY + 1.75e-3)
    assert gathered.seconds(8, 8, LATENCY) == pytest.approx(7 * LATENCY + 0.875e-3)
    assert reduced.seconds(8, 8, LATENCY, doubling=True) == pytest.approx(6 * LATENCY + 1.75e-3)


def test_what_the_losses_send() -> None:
    share, world = 3, 4
    rows, texts, width = 2 * share, TEXT_WIDTH, HeadConfig().projection
    assert of_term("modulation", share, world) == {Collective("all_reduce", 4): 2}
    moments = {Collective("all_reduce", 4 * width): 8, Collective("all_reduce", 4 * width**2): 2}
    assert of_term("intra", share, world) == moments
    inter = of_term("inter", share, world)
    assert inter[Collective("all_gather", world * rows * texts * 4)] == 1, "texts have no gradient"
    assert inter[Collective("all_gather", world * rows * 8)] == 2, "labels"
    assert inter[Collective("all_to_all", world * rows * 4)] == 4, "two statistics, there and back"


def test_passes_of_batch_norms() -> None:
    """Of three parts each goes through the encoder twice, and once back; the heads see the batch twice, both ways."""
    inside, heads = map(len, norms_of("stgcn"))
    whole, parts = collectives(9, 1, 2), collectives(9, 3, 2)
    assert [whole[f"batch norms, {way}"].total() for way in ("forward", "backward")] == [inside + heads] * 2
    assert parts["batch norms, forward"].total() == 6 * inside + 2 * heads
    assert parts["batch norms, backward"].total() == 3 * inside + 2 * heads
    assert not any("norm" in name for name in collectives(9, 1, 2, sync_norm=False))
    assert whole["gradients"] == parts["gradients"]


def test_cases() -> None:
    plan, way = Plan(gpus=4, batch=1024, micro_batch=128), Way("ring")
    one, share = Case(plan, 2), Case(plan, 2, fixed_share=True)
    assert [(case.share, case.parts) for case in (one, share)] == [(512, 4), (256, 2)]
    assert [case.computing(50.0) for case in (one, share)] == [0.2, 0.1]
    assert Case(plan, 1).sent_share(50.0, 400.0, way) == 0
    slow = replace(plan, latency_us=1e6)
    assert first_above(0.5, slow, 50.0, 400.0, way) == 2


def test_columns_of_a_store() -> None:
    """Four bytes a character; seven numbers, the record batch and the place in it."""
    beside = 7 * 8 + 8 + 4
    assert column_bytes() == 4 * 20 + 4 + beside
    assert column_bytes("x" * 50) == 4 * 20 + 4 * 50 + beside


def test_bytes_of_a_state(tmp_path: Path) -> None:
    """Of tensors: the file that a save writes has little more."""
    trained = build("stgcn")
    optimizer = make_optimizer(trained, OptimizerConfig())
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {"trained": trained.state_dict(), "optimizer": optimizer.state_dict()}
    written = (write_state(tmp_path, 1, state) / "tensors.safetensors").stat().st_size
    assert written == pytest.approx(state_bytes("stgcn", momentum=False), rel=2e-3)
    queue = 4 * QUEUE * HeadConfig().projection
    model = sum(tensor.nbytes for tensor in trained.model.state_dict().values())
    both = state_bytes("stgcn", momentum=True) - state_bytes("stgcn", momentum=False)
    assert both == queue + model


def test_limits_are_sorted_by_how_soon_the_plan_meets_them() -> None:
    found = limits(Plan())
    assert [share for *_, share in found] == sorted(share for *_, share in found)
    at = {what: limit for what, limit, *_ in found}
    features = HeadConfig().segments * 5 * 256  # five parts of the body, the encoder's width
    assert at["features for the running kNN fill a card"] == pytest.approx(80e9 / (0.8 * 4 * features))


def test_line() -> None:
    line = Line.through(lambda clips: 7 + 3 * clips, 2, 4)
    assert (line.fixed, line.each, line(10)) == (7, 3, 37)


def test_the_document_has_what_is_computed() -> None:
    """`python -m benchmarks.scaling --write` makes it so. Counts may be others with another PyTorch."""
    if f"PyTorch {torch.__version__.partition('+')[0]}." not in PAGE:
        pytest.skip("the document is of another version of PyTorch")
    computed = [name for name in command.TABLES if name not in command.MEASURED]
    assert command.filled(PAGE, Plan(), computed) == PAGE


def test_every_table_is_shown_once() -> None:
    assert Counter(m["name"] for m in command.MARKED.finditer(PAGE)) == Counter(list(command.TABLES))
    with pytest.raises(ValueError, match="there is no table other; there are communication, "):
        command.filled("<!-- scaling: other -->\n<!-- end of scaling -->", Plan())


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- scaling: saving -->\n<!-- end of scaling -->\nafter\n")
    monkeypatch.setattr(command, "DOCUMENT", page)
    monkeypatch.setitem(command.TABLES, "saving", lambda plan: f"| {plan.disk_mb:g} |")
    command.main(["--table", "saving", "--disk-mb", "50"])
    assert capsys.readouterr().out == "### saving\n\n| 50 |\n"
    command.main(["--table", "saving", "--write"])
    assert page.read_text() == (
        "before\n<!-- scaling: saving -->\n\n| 200 |\n\n<!-- end of scaling -->\nafter\n"
    )
    with pytest.raises(SystemExit):
        command.main(["--write", "--gpus", "8"])
    assert "--write is for the defaults" in capsys.readouterr().err


def test_options_of_the_document_exist() -> None:
    known = make_parser().format_help() + command.parser().format_help()
    settings = make_parser().parse_args(["pretrain", "--data", "a", "--out", "b"]).pretrain
    entries = {f"--{name}" for name in vars(settings)} | {f"--{name}" for name, _ in settings.items()}
    for option in set(re.findall(r"`(--[a-z_.-]+)[ `]", PAGE)):
        assert option in entries or option in known, option


def test_an_operator_takes_as_long_as_its_bytes_its_products_or_its_call() -> None:
    many, few = torch.zeros(2, 1 << 22), torch.zeros(2)
    with Time() as time:
        many.T + few  # what is broadcast is read once, and a view costs nothing
        assert time.seconds == pytest.approx((2 * many.nbytes + few.nbytes) / COPY_RATE)
        few.exp()
        torch.empty_like(many)
    assert time.seconds == pytest.approx((2 * many.nbytes + few.nbytes) / COPY_RATE + LAUNCH)
    assert time.calls == 2
    with Time() as time:
        many.copy_(many.clone())
    assert time.seconds == pytest.approx(4 * many.nbytes / COPY_RATE)


def test_an_optimiser_reads_and_writes_what_it_keeps() -> None:
    weight = nn.Parameter(torch.zeros(1 << 22))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    with Time() as time:
        optimizer.step()
    # Weight, gradient and two moments are read; weight, gradient (it may be rescaled) and moments written; the
    # steps are counted first.
    assert time.seconds == pytest.approx(8 * weight.nbytes / COPY_RATE + LAUNCH, rel=0.01)


@pytest.mark.parametrize(("dtype", "rate"), [(torch.bfloat16, MATRIX_RATE), (torch.float32, MATRIX_RATE / 2)])
def test_a_product_takes_as_long_as_its_operations(dtype: torch.dtype, rate: float) -> None:
    with traced():
        square = torch.zeros(8192, 8192, dtype=dtype)
        with Time() as time:
            square @ square
    assert time.seconds == pytest.approx(2 * 8192**3 / rate)


def test_a_step_without_memory_makes_the_calls_of_a_real_one() -> None:
    """Keys, mined neighbours and the optimiser's step among them."""
    small = [
        "preprocessing.num_frames=8",
        "encoder.preset=stgcn-small",
        "momentum.queue=16",
        "optimizer.batch_size=8",
    ]
    config = load_config("aimclr/ntu60", small)
    with as_on_a_gpu(kernels=False):
        real = timed_step(config, card_of(config))
    # The strides of a few gradients are others, which are then copied.
    assert step_time(config).calls == pytest.approx(real.calls, rel=0.01)
