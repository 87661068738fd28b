"""Phase retrieval by one call: `deepgsr_cli.retrieve_phase`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deepgsr_cli.compute.arrays import as_number, as_numpy, as_whole
from deepgsr_cli.compute.device import select_device
from deepgsr_cli.compute.precision import with_own_defaults
from deepgsr_cli.errors import ShapeError, UsageError, check_seed, check_text, warn_of
from deepgsr_cli.formats.patterns import Measurement
from deepgsr_cli.phase.jobs import checked_operator, load_prior, retrieve_picture
from deepgsr_cli.phase.methods import METHODS, Settings
from deepgsr_cli.phase.priors import DENOISER
from deepgsr_cli.phase.projections import PEAK
from deepgsr_cli.pictures.restorer import Restorer, RunOptions

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


@with_own_defaults
def retrieve_phase(
    measurement: Measurement | ArrayLike | Tensor,
    masks: ArrayLike | Tensor | None = None,
    *,
    oversampling: float = 2.0,
    alpha: float | None = None,
    method: Settings | str = "red",
    weights: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """Make a picture, (H, W), float32 in [0, 1], of the intensities of its diffraction patterns.

    Args:
        measurement: Intensities of a picture in 0-255, |A x|², real and not negative: one Fourier pattern,
            (M, N), or a coded pattern for each mask, (J, H, W). A is the unitary transform, for a Fourier
            pattern divided by the oversampling. Or a `formats.patterns.Measurement`, which also says a
            support, another scaling or peak, or a signal-to-noise ratio; it takes the place of `masks`,
            `oversampling` and `alpha`.
        masks: Of coded patterns, (J, H, W), real or complex; without them the pattern is Fourier's.
        oversampling: Samples a pixel in each direction, of a Fourier pattern.
        alpha: Noise level: the intensities' deviation is alpha times the magnitude. "red" and "unrolled"
            need it.
        method: "red", "unrolled", "er", "hio" or "raar"; or a `phase.methods.Settings`, which has iterations
            too.
        weights: NAME, FILE or hf:// address; None for the shipped denoiser of "red".
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        seed: Of the random starts.

    A picture that does not explain the measurement is returned with a `ResultWarning`.

    Raises:
        ShapeError: The arrays do not fit each other, or are no intensities.
        UsageError: A value is missing or out of range, or the weights do not fit.
        WeightsError: The weights are unknown or damaged.
        DeviceError: The device is not there.
    """
    seed, oversampling = as_whole("seed", seed), as_number("oversampling", oversampling)
    alpha = as_number("alpha", alpha, or_none=True)
    check_seed(seed)
    if not isinstance(method, Settings):
        check_text("method", method, f"known are {', '.join(METHODS)}, or give Settings")
        method = Settings(method)
    settings = method
    if isinstance(measurement, Measurement):
        if masks is not None or alpha is not None:
            raise UsageError("a Measurement says masks and alpha itself; leave them out")
        measured = replace(measurement, intensity=_intensities(measurement.intensity))
    else:
        stack = None if masks is None else as_numpy(masks)
        measured = Measurement(
            _intensities(measurement),
            "fourier" if stack is None else "cdp",
            stack[None] if stack is not None and stack.ndim == 2 else stack,
            oversampling,
            alpha=alpha,
        )
    if settings.method in ("red", "unrolled") and measured.alpha is None and measured.snr_db is None:
        raise UsageError(f'the method {settings.method} needs the noise level; give alpha, or method="hio"')
    if settings.method != "unrolled":
        weights = DENOISER if weights is None else weights
    A = checked_operator(measured).to(select_device(device))
    prior = load_prior(settings, Restorer(weights, RunOptions(device)))
    retrieval = retrieve_picture(A, measured, settings, prior, seed=seed)
    warn_of(retrieval.doubts)
    return retrieval.picture[0, 0].cpu().numpy() / np.float32(PEAK)


def _intensities(values: ArrayLike | Tensor) -> np.ndarray:
    """Intensities, (J, M, N), float64, of one pattern or several.

    Raises:
        ShapeError: Another shape, complex, negative, not finite, or all 0.
    """
    values = as_numpy(values)
    if values.ndim not in (2, 3) or values.size == 0 or values.dtype.kind not in "biuf":
        raise ShapeError(
            f"the intensities are an array of {values.dtype} and shape {values.shape}; give real numbers,"
            " (M, N) or (J, M, N), the squares of the magnitudes"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ShapeError("the intensities have NaN or infinity; replace them first")
    if values.min() < 0:
        raise ShapeError(f"the intensities go down to {values.min():g}; clip what is noise to 0")
    if not values.any():
        raise ShapeError("all intensities are 0; there is nothing to make a picture of")
    return values[None] if values.ndim == 2 else values
