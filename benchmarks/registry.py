"""The operators of the suite, by name."""

from __future__ import annotations

from benchmarks import contrastive, spectral
from benchmarks.operators import Operator

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        spectral.OPERATOR,
        contrastive.INFO_NCE_OPERATOR,
        contrastive.SIMILARITY_KL_OPERATOR,
    )
}
