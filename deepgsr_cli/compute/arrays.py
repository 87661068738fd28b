"""Arrays of whatever callers of Python have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def as_numpy(values: ArrayLike | Tensor) -> np.ndarray:
    """Values in their own dtype; those of bfloat16, which numpy does not have, in float32.

    A tensor may be on any device, and may require its gradient, which is not followed.
    """
    if not isinstance(values, Tensor):
        return np.asarray(values)
    there = values.detach().cpu().resolve_conj().resolve_neg()
    return (there.float() if there.dtype == torch.bfloat16 else there).numpy()
