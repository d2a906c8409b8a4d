"""Where the tests of the kernels run: on a GPU if there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Results = dict[str, Tensor]
Poisoned = Callable[[], AbstractContextManager[None]]

dtypes = pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(DEVICE.type == "cpu", reason="the interpreter multiplies no bfloat16"),
        ),
    ],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
