"""From a selection to rows: what is run, and what every row carries."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import run
from benchmarks.operators import Operator
from benchmarks.results import KEY, MODES, Row
from benchmarks.run import STEP, Selection

CPU = torch.device("cpu")
OPERATORS = ("spectral_gate", "info_nce", "similarity_kl")
OF_THE_SUITE = set(OPERATORS)


def found(**wanted: Any) -> list[Row]:
    return list(run.run(Selection(**wanted), CPU))


def values(rows: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(row[name] for row in rows))


def test_operators_are_chosen(tiny_suite: dict[str, Operator]) -> None:
    rows = found(operators=("similarity_kl", "spectral_gate"), modes=("forward",))
    assert values(rows, "operator") == ["similarity_kl", "spectral_gate"]


def test_cases_are_chosen_over_all_operators(tiny_suite: dict[str, Operator]) -> None:
    """The training step, which has no cases, is not among them."""
    rows = found(cases=("tiny-bin", "tiny-kl"), modes=("both",))
    assert [(row["operator"], row["case"]) for row in rows if row["implementation"] == "eager"] == [
        ("spectral_gate", "tiny-bin"),
        ("similarity_kl", "tiny-kl"),
    ]
    assert set(values(rows, "operator")) <= OF_THE_SUITE


def test_implementations_are_chosen(tiny_suite: dict[str, Operator]) -> None:
    rows = found(implementations=("eager", "copy"), modes=("forward", "both"))
    assert set(values(rows, "implementation")) == {"eager", "copy"}
    assert values(rows, "operator") == list(OPERATORS)
    assert all(row["mode"] == "forward" for row in rows if row["implementation"] == "copy")
    assert "copy" not in values(found(implementations=("eager",)), "implementation")


@pytest.mark.parametrize("modes", [("backward",), ("both", "forward"), MODES])
def test_modes_are_chosen(modes: tuple[str, ...], tiny_suite: dict[str, Operator]) -> None:
    """A copy is of a forward pass, and is timed with it."""
    rows = found(cases=("tiny-joint",), modes=modes)
    assert [row["mode"] for row in rows if row["implementation"] == "eager"] == list(modes)
    assert [row["mode"] for row in rows if row["implementation"] == "fused"] == list(modes)
    assert any(row["implementation"] == "copy" for row in rows) == ("forward" in modes)


def test_a_quick_run(tiny_suite: dict[str, Operator]) -> None:
    rows = found(operators=OPERATORS, modes=("forward",), quick=True)
    assert values(rows, "case") == ["tiny-joint", "tiny", "tiny-kl"]


def test_rows_come_as_soon_as_they_are_measured(
    tiny_suite: dict[str, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them while nothing else has been run."""
    started: list[str] = []
    outcome = run._outcome

    def recorded(operator: Operator, case: Any, *others: Any) -> dict[str, Row]:
        started.append(case.name)
        return outcome(operator, case, *others)

    monkeypatch.setattr(run, "_outcome", recorded)
    rows = run.run(Selection(operators=("info_nce",), implementations=("eager",)), CPU)
    assert next(rows)["case"] == "tiny"
    assert started == ["tiny"]


def test_what_every_row_carries(tiny_suite: dict[str, Operator]) -> None:
    for name, operator in tiny_suite.items():
        case = operator.cpu_cases[0]
        rows = list(run.rows(operator, case, CPU))
        assert len({tuple(row[part] for part in KEY) for row in rows}) == len(rows)
        for row in rows:
            assert row["operator"] == name
            assert row["size"] == asdict(case)
            assert row["torch"] == torch.__version__
            assert row["python"] == ".".join(map(str, sys.version_info[:3]))
            assert row["threads"] == torch.get_num_threads()
            assert row["device"]
            assert {"triton", "commit"} <= row.keys()
            assert row["date"].endswith("+00:00")
        for row in rows:
            if row["implementation"] not in ("eager", operator.fallback):
                continue
            work = operator.work(case, row["mode"])
            seconds = 1e-3 * row["times"]["median"]
            assert (row["bytes"], row["flops"]) == (work.bytes, work.flops)
            assert row["bandwidth_share"] == pytest.approx(work.bytes / seconds / 1e10)
            assert row["rate_share"] == pytest.approx(work.flops / seconds / 1e11)
            assert (row["copy_rate"], row["matrix_rate"]) == (1e10, 1e11)
            assert {"y", *operator.slots(case, CPU)[0].leaves} == set(row["errors"])
            assert 0 <= row["compile_s"] <= row["first_calls_s"]
            assert (row["extra_bytes"] is None) == (row["mode"] == "backward")


def test_what_is_left_out_says_why(tiny_suite: dict[str, Operator]) -> None:
    for row in found(operators=OPERATORS, implementations=("fused",), quick=True):
        assert row["left_out"] == "the kernel needs a GPU"
        assert not {"times", "errors", "failed"} & row.keys()


def test_forward_without_autograd_is_checked_too(tiny_suite: dict[str, Operator]) -> None:
    """It can be another program, and it is timed."""
    operator = tiny_suite["spectral_gate"]
    case = operator.cpu_cases[0]
    right = operator.implementations(case, CPU)["eager"]()

    def wrong(*arguments: Tensor) -> Tensor:
        return right(*arguments) if torch.is_grad_enabled() else -right(*arguments)

    broken = replace(operator, implementations=lambda *_: {"eager": lambda: wrong})
    (row,) = run.rows(broken, case, CPU, ("eager",), ("forward",))
    assert row.get("failed", "").startswith("wrong, and so not timed: y is off by 2")


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.add_selection_arguments(parser)
    return parser.parse_args(arguments)


def test_selections_of_a_command() -> None:
    assert run.selected(parsed()) == Selection()
    assert run.selected(
        parsed(
            "info_nce", STEP, "--case", "n1024", "cpu-n256", "--implementation", "eager", "--mode", "both",
            "--quick",
        )
    ) == Selection(("info_nce", STEP), ("n1024", "cpu-n256"), ("eager",), ("both",), True)  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [("spectral",), ("--case", "headline-joint", "headline-josint"), ("info_nce", "info_ncee")]
)
def test_unknown_names(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^unknown: {arguments[-1]}; `python -m benchmarks list` shows"):
        run.selected(parsed(*arguments))


def test_the_training_step_comes_last_and_may_be_left_out(tiny_suite: dict[str, Operator]) -> None:
    """What it needs is not needed by the operators."""
    rows = found(modes=("forward",), quick=True)
    assert rows[-1]["operator"] == STEP
    assert rows[-1]["left_out"].endswith("is not installed")
    assert {"device", "torch", "commit", "date"} <= rows[-1].keys()
    assert set(values(rows[:-1], "operator")) == OF_THE_SUITE
    assert STEP not in values(found(implementations=("eager",), quick=True), "operator")
