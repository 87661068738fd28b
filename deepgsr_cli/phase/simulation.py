"""Measurements of diffraction patterns simulated from pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from deepgsr_cli.errors import UsageError
from deepgsr_cli.formats.patterns import Measurement
from deepgsr_cli.phase.diffraction import Diffraction, coded_masks, oversampled_fourier
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
