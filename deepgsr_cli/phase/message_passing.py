"""Phase retrieval by message passing: the posterior of each magnitude, and a denoiser in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deepgsr_cli.phase.diffraction import Diffraction
from deepgsr_cli.phase.network import FLAT
from deepgsr_cli.phase.noise import Noise
from deepgsr_cli.phase.projections import PEAK, Constraints, Progress, Retrieval

# Restored picture, (1, 1, H, W), of a noisy one with a standard deviation, both in [0, 255].
Denoiser = Callable[[Tensor, float], Tensor]


def posterior(p: Tensor, variance: float, intensity: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Mean, complex, and variance of patterns z that are CN(p, variance) before, and measured with `noise`.

    The phase is integrated in closed form, the magnitude by sums over nodes where it is likely. Where it is
    uncertain, the mean is smaller than the magnitude: what is not known does not speak.

    Args:
        p: Patterns, (B, J, M, N), complex.
        variance: Variance of real and imaginary part together.
        intensity: Measured, (J, M, N) or (M, N).
        noise: Its noise.

    Source:
        Schniter and Rangan, Compressive phase retrieval via generalized approximate message passing, IEEE
        Transactions on Signal Processing 63(4), 2015, for the phase.
    """
    before = p.abs()
    measured = intensity.sqrt()
    # Of the magnitude given the measurement alone; a clipped one says little.
    error = noise.deviation(measured) / (2 * measured).clamp(min=1e-6)
    spread = torch.where(intensity > 0, error.square().clamp(max=1e8), 1e8)
    radial = spread + variance / 2
    centre = (before * spread + measured * (variance / 2)) / radial
    reach = _REACH * (spread * (variance / 2) / radial).sqrt() + 1e-3
    low = (centre - reach).clamp(min=0)
    steps = (torch.arange(_NODES, dtype=before.dtype, device=p.device) + 0.5) / _NODES
    # The nodes come first: sums over the first axis are the fast ones.
    magnitude = low + (centre + reach - low) * steps.view(-1, 1, 1, 1, 1)  # (nodes, B, J, M, N)

    squared = magnitude.square()
    deviation = noise.deviation(magnitude).clamp(min=1e-3)
    likelihood = -((intensity - squared) / deviation).square() / 2 - deviation.log()
    clipped = (intensity <= 0).expand(p.shape)
    likelihood[:, clipped] = torch.special.log_ndtr((-squared / deviation)[:, clipped])
    certainty = 2 * magnitude * before / variance
    scale = _i0e(certainty)
    prior = (magnitude * scale).log() - (magnitude - before).square() / variance
    weight = torch.softmax(prior + likelihood, 0)
    mean = (weight * magnitude * torch.special.i1e(certainty) / scale).sum(0)
    return mean * torch.sgn(p), (weight * squared).sum(0) - mean.square()


def _i0e(x: Tensor) -> Tensor:
    """exp(-x) I0(x) of x, 0 or more, to 1e-6 of its value; torch.special.i0e is twenty times slower.

    Source:
        Abramowitz and Stegun, Handbook of mathematical functions, 1964, eqs. 9.8.1 and 9.8.2.
    """
    near = _polynomial(_I0_NEAR, (x.clamp(max=3.75) / 3.75).square()) * (-x).exp()
    far = _polynomial(_I0_FAR, 3.75 / x.clamp(min=3.75)) * x.clamp(min=3.75).rsqrt()
    return torch.where(x < 3.75, near, far)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Polynomial with its coefficients from the constant on, by Horner's scheme."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value.mul_(x).add_(coefficient)
    return value


_I0_NEAR = (1.0, 3.5156229, 3.0899424, 1.2067492, 0.2659732, 0.0360768, 0.0045813)
_I0_FAR = (
    *(0.39894228, 0.01328592, 0.00225319, -0.00157565, 0.00916281),
    *(-0.02057706, 0.02635537, -0.01647633, 0.00392377),
)

# Nodes of the integral over the magnitude, and how many standard deviations they reach to each side.
_NODES = 11
_REACH = 4.0


def message_passing(
    A: Diffraction,
    intensity: Tensor,
    noise: Noise,
    denoiser: Denoiser,
    *,
    iterations: int,
    damping: float,
    progress: Progress | None = None,
) -> Retrieval:
    """Picture from coded diffraction patterns by generalized approximate message passing with a denoiser.

    What reaches the denoiser is the picture in nearly white Gaussian noise of a known level, for which it was
    trained. For random masks only: the Fourier transform alone mixes too little. Starts from a flat picture.

    Args:
        A: The operator, with masks of modulus 1.
        intensity: Measured, (J, M, N).
        noise: Its noise.
        denoiser: The prior.
        iterations: Denoiser calls.
        damping: Share of each update that is taken, 0 to 1; fewer patterns need a smaller one.
        progress: Called with finished and all iterations.

    Source:
        Metzler, Maleki, Baraniuk, BM3D-PRGAMP: compressive phase retrieval based on BM3D denoising, ICIP
        2016; Schniter and Rangan 2015 for the algorithm. Departs in the likelihood, `posterior`, and in the
        denoiser's remaining error, taken as a fixed share of the noise.
    """
    constraints = Constraints(A, intensity.sqrt())
    energy = float(intensity.sum() / A.gram.sum())  # mean square of the picture
    x = torch.full((1, 1, *A.domain_shape), FLAT * math.sqrt(energy), dtype=intensity.dtype)
    x = x.to(intensity.device)
    patterns = len(A.masks)
    error = (1 - FLAT**2) * energy
    score, precision = torch.zeros_like(A(x)), 0.0
    result = Retrieval(x)
    for i in range(iterations):
        share = damping if i else 1.0
        p = A(x) - error * score
        # One pattern at a time: the nodes of the integral take the memory of as many patterns.
        parts = [posterior(p[:, j : j + 1], error, intensity[j], noise) for j in range(patterns)]
        mean, variance = (torch.cat(values, 1) for values in zip(*parts))
        score = torch.lerp(score, (mean - p) / error, share)
        precision += share * (float(((1 - variance / error) / error).mean()) - precision)
        level = 1 / (patterns * max(precision, 1e-9))
        sigma = min(math.sqrt(level / 2), MAX_SIGMA)
        restored = denoiser(x + level * A.adjoint(score).real, sigma).clamp(0, PEAK)
        x = torch.lerp(x, restored, share)
        error += share * (_LEFT * sigma**2 + 0.5 - error)
        result.picture = restored
        result.curve.append((i + 1, float(constraints.residual(restored))))
        if progress is not None:
            progress(i + 1, iterations)
    return result


# Share of the noise's variance that is left after denoising, as measured on photographs of 128 x 128.
_LEFT = 0.12
# Highest noise level the denoiser is asked for.
MAX_SIGMA = 75.0
