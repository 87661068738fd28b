"""Phase retrieval by regularisation with a denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepgsr_cli.phase.diffraction import Diffraction
from deepgsr_cli.phase.message_passing import Denoiser
from deepgsr_cli.phase.projections import PEAK, Constraints, Progress, Retrieval


def plug_and_play(
    A: Diffraction,
    y: Tensor,
    start: Tensor,
    denoiser: Denoiser,
    *,
    sigmas: Sequence[float],
    deviation: Tensor,
    progress: Progress | None = None,
) -> Retrieval:
    """Picture by the alternating direction method of multipliers with the amplitude loss and a denoiser.

    The loss (|z| − y)² / 2 deviation² has a closed proximal operator, and AᴴA is diagonal: an iteration
    is two transforms and one denoiser call. Falling noise levels lead from coarse structure to fine.

    Args:
        A: The operator.
        y: Measured magnitudes, (J, M, N).
        start: Picture, (1, 1, H, W).
        denoiser: The prior.
        sigmas: The denoiser's level in each iteration, falling.
        deviation: Standard deviation of the magnitudes, (J, M, N).
        progress: Called with finished and all iterations.

    Source:
        Metzler et al., prDeep, ICML 2018, for the loss and the falling levels; Venkatakrishnan, Bouman,
        Wohlberg, Plug-and-play priors for model based reconstruction, GlobalSIP 2013, for the scheme.
    """
    constraints = Constraints(A, y)
    x, dual = start, torch.zeros_like(A(start))
    result = Retrieval(x)
    for i, sigma in enumerate(sigmas):
        trust = sigma**2 * A.scale**2
        p = A(x) + dual
        z = torch.sgn(p) * ((p.abs() * deviation**2 + y * trust) / (deviation**2 + trust))
        x = denoiser(A.pseudo_inverse(z - dual).real, sigma).clamp(0, PEAK)
        dual = dual + A(x) - z
        result.curve.append((i + 1, float(constraints.residual(x))))
        if progress is not None:
            progress(i + 1, len(sigmas))
    result.picture = x
    return result


def falling(first: float, last: float, count: int) -> list[float]:
    """Geometric sequence of noise levels."""
    return [first * (last / first) ** (i / (count - 1)) for i in range(count)]
