"""Whether a retrieved picture can be: where the zero frequency is, brightness, misfit against noise."""

from __future__ import annotations

import math

import numpy as np

from deepgsr_cli.phase.diffraction import Diffraction
from deepgsr_cli.phase.noise import Noise
from deepgsr_cli.phase.projections import PEAK, Constraints, Retrieval

# Residuals that a picture may leave besides twice what the noise does, and where the noise is not known.
_LEAST_RESIDUAL, _RESIDUAL = 0.1, 0.3
# A mean square above the peak's is of no picture; below this part of the peak, nothing would be seen.
_ROUNDING, _DARKEST = 1.02, 1e-3


def has_centred_zero(A: Diffraction, intensity: np.ndarray) -> bool:
    """Whether the largest of intensities, (1, M, N), of a Fourier pattern is in the middle, not at [0, 0].

    The zero frequency of a picture that is not negative is larger than all others. Masks move it.
    """
    if len(intensity) != 1 or A.mixes:
        return False
    height, width = intensity[0].shape
    at = divmod(int(intensity[0].argmax()), width)
    return at != (0, 0) and at == (height // 2, width // 2)


def with_zero_first(intensity: np.ndarray) -> np.ndarray:
    """Intensities, (J, M, N), with the zero frequency from the middle of each pattern at [0, 0]."""
    return np.fft.ifftshift(intensity, axes=(-2, -1))


def explained_residual(constraints: Constraints, noise: Noise | None) -> float:
    """The largest residual that noise accounts for in a right picture."""
    if noise is None:
        return _RESIDUAL
    deviation = noise.magnitude_deviation(constraints.y)
    return _LEAST_RESIDUAL + 2 * float(deviation.norm() / constraints.y.norm())


def doubt_picture(constraints: Constraints, retrieval: Retrieval, noise: Noise | None) -> list[str]:
    """Say what cannot be right in a picture in [0, 255], a sentence each with the likely cause."""
    doubts = []
    # What is seen of the picture has this root mean square.
    rms = math.sqrt(float(constraints.y.square().sum() / constraints.A.gram.sum()))
    if rms > _ROUNDING * PEAK or rms < _DARKEST * PEAK:
        doubts.append(
            f"the intensities are those of a picture of {rms / PEAK:.3g} times the peak, root mean square:"
            " are --peak and --scaling right, and are the values intensities, no magnitudes?"
        )
    explained = explained_residual(constraints, noise)
    if retrieval.residual > explained:
        doubts.append(
            f"the picture does not explain the measurement, residual {retrieval.residual:.2f} where"
            f" {explained:.2f} is the most that noise accounts for: is the zero frequency at [0, 0], are the"
            " masks in the order of the patterns, are --scaling, --peak and --oversampling right, and are the"
            " iterations enough?"
        )
    return doubts
