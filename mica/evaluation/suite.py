"""All protocols that apply to a run, one after another, over features that they share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from mica.data.store import Store
from mica.evaluation.evaluate import Evaluation, check_target, transfer
from mica.evaluation.results import PROTOCOLS, ProtocolName, Result


def evaluate_all(
    evaluation: Evaluation,
    *,
    transfer_to: Store | None = None,
    others: Sequence[str | os.PathLike[str]] = (),
) -> Iterator[Result]:
    """Yield the result of every protocol but those that `left_out` names, each kept beside the run when it is there.

    transfer_to: another data set to transfer to. others: runs to fuse with this one. Raises InputError, before the
    first protocol, where one of these does not fit the run.
    """
    skipped = left_out(evaluation, transfer_to=transfer_to, others=others)
    if transfer_to is not None:
        check_target(evaluation.run, evaluation.card, transfer_to)
    if others:
        evaluation.with_others(others)
    for protocol in PROTOCOLS:
        if protocol in skipped:
            continue
        if protocol == "transfer":
            assert transfer_to is not None
            yield transfer(evaluation.run, transfer_to, effort=evaluation.effort)
        elif protocol == "ensemble":
            yield evaluation.ensemble(others)
        else:
            yield evaluation.evaluate(protocol)


def left_out(
    evaluation: Evaluation,
    *,
    transfer_to: Store | None = None,
    others: Sequence[str | os.PathLike[str]] = (),
) -> dict[ProtocolName, str]:
    """The protocols that do not apply, each with the reason."""
    reasons: dict[ProtocolName, str] = {}
    if evaluation.card.text == "none":
        reasons["zero-shot"] = "the run was pretrained without text"
    if transfer_to is None:
        reasons["transfer"] = "no other data set was given (--transfer-to)"
    if not others:
        reasons["ensemble"] = "no other runs were given (--with)"
    return reasons
