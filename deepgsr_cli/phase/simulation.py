"""Measurements of diffraction patterns: the operator of one, and ones simulated from pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from deepgsr_cli.errors import OptionError, ShapeError, UsageError, check_seed
from deepgsr_cli.formats.patterns import MODELS, Measurement
from deepgsr_cli.phase.diffraction import Diffraction, check_oversampling, coded_masks, oversampled_fourier
from deepgsr_cli.phase.noise import alpha_noise, check_alpha, check_snr, photon_noise, snr_noise
from deepgsr_cli.phase.projections import PEAK

NOISES = ("gaussian", "poisson")


@dataclass(frozen=True)
class Simulation:
    """How a measurement is made from a picture.

    Attributes:
        model: "fourier" or "cdp".
        num_masks: Masks of "cdp".
        mask_kind: Of `diffraction.MASK_KINDS`.
        oversampling: Of "fourier".
        alpha: Noise level, 0 for none; not used where there is an SNR.
        snr_db: Noise level in dB, for white noise.
        noise: "gaussian" or "poisson", for alpha.
        seed: Of masks and noise.
    """

    model: str = "cdp"
    num_masks: int = 4
    mask_kind: str = "uniform"
    oversampling: float = 2.0
    alpha: float = 27.0
    snr_db: float | None = None
    noise: str = "gaussian"
    seed: int = 0

    def measure(self, truth: np.ndarray) -> Measurement:
        """Measurement of a picture, (1, H, W), in [0, 1].

        Raises:
            UsageError: A value is out of range.
        """
        check_alpha(self.alpha)
        check_seed(self.seed)
        if self.noise not in NOISES:
            raise UsageError(f"--noise {self.noise}: known are {', '.join(NOISES)}")
        generator = torch.Generator().manual_seed(self.seed)
        shape = (truth.shape[1], truth.shape[2])
        if self.model == "fourier":
            A = oversampled_fourier(shape, self.oversampling)
        elif self.model == "cdp":
            A = Diffraction(coded_masks(self.mask_kind, self.num_masks, shape, generator))
        else:
            raise UsageError(f"--model {self.model}: known are fourier, cdp")
        z = A(torch.from_numpy(truth)[None] * PEAK)
        if self.snr_db is not None:
            check_snr(self.snr_db)
            intensity = snr_noise(z, self.snr_db, generator)
        elif self.alpha == 0:
            intensity = z.abs().square()
        else:
            add = photon_noise if self.noise == "poisson" else alpha_noise
            intensity = add(z, self.alpha, generator)
        return Measurement(
            intensity[0].numpy(),
            self.model,
            masks=A.masks.numpy() if self.model == "cdp" else None,
            oversampling=self.oversampling,
            alpha=self.alpha if self.snr_db is None else None,
            snr_db=self.snr_db,
        )


def operator_of(measurement: Measurement, dtype: torch.dtype = torch.complex64) -> Diffraction:
    """The operator that a measurement has the intensities of.

    Raises:
        UsageError: The model or the masks are missing, or a value is out of range.
        ShapeError: The arrays do not fit each other.
    """
    model, oversampling = measurement.model, measurement.oversampling
    if model is None:
        raise UsageError(f"the measurement's model is missing; give --model: {', '.join(MODELS)}")
    if model not in MODELS:
        raise OptionError("model", model, f"known are {', '.join(MODELS)}")
    patterns, *size = measurement.intensity.shape
    if model == "cdp":
        return _coded(measurement, dtype)
    if patterns != 1:
        raise ShapeError(f"{patterns} patterns, but fourier has one; give --model cdp and --masks")
    check_oversampling(oversampling)
    height, width = (round(length / oversampling) for length in size)
    support = None if measurement.support is None else torch.from_numpy(measurement.support != 0)
    A = oversampled_fourier(
        (height, width), oversampling, support=support, scaling=measurement.scaling, dtype=dtype
    )
    if A.range_shape[1:] != tuple(size):
        raise ShapeError(
            f"{size[0]} x {size[1]} samples are not --oversampling {oversampling:g} times whole "
            "pixels; give the oversampling of the measurement"
        )
    return A


def _coded(measurement: Measurement, dtype: torch.dtype) -> Diffraction:
    masks, shape = measurement.masks, measurement.intensity.shape
    if masks is None:
        raise UsageError("the model cdp needs the masks, and the measurement has none; give --masks")
    if masks.ndim != 3 or masks.shape != shape:
        raise ShapeError(
            f"masks of shape {masks.shape}, but intensities of shape {shape}; "
            "give one mask for each pattern, of its size"
        )
    return Diffraction(torch.from_numpy(masks).to(dtype))
