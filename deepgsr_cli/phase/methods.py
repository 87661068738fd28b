"""Phase retrieval: pictures from the magnitudes of their diffraction patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deepgsr_cli.compute.arrays import settle_whole
from deepgsr_cli.errors import OptionError, UsageError
from deepgsr_cli.phase.diffraction import Diffraction
from deepgsr_cli.phase.message_passing import MAX_SIGMA, Denoiser, message_passing
from deepgsr_cli.phase.network import UnrolledPhase, phase_condition
from deepgsr_cli.phase.noise import Noise
from deepgsr_cli.phase.plug_and_play import falling, plug_and_play
from deepgsr_cli.phase.projections import PEAK, STEPS, Constraints, Progress, Retrieval, alternate

METHODS = ("red", "unrolled", "er", "hio", "raar")
PRIORS = ("deepgsr", "tv", "bm3d")


def align(x: Tensor, reference: Tensor, *, shifts: bool = True) -> Tensor:
    """Picture x without the ambiguities of phase retrieval, as near to the reference as they allow.

    Global phase or sign is resolved always; circular shift and half-turn (conjugated for complex x) only of
    Fourier patterns, which do not tell them.

    Args:
        x: Picture, (1, 1, H, W), real or complex.
        reference: The same shape.
        shifts: Whether shift and half-turn are ambiguous too.
    """
    candidates = [x, x.flip(-2, -1).conj().resolve_conj()] if shifts else [x]
    best, aligned = -1.0, x
    for candidate in candidates:
        spectrum = torch.fft.fft2(reference.to(torch.complex128))
        correlation = torch.fft.ifft2(spectrum * torch.fft.fft2(candidate.to(torch.complex128)).conj())
        at = int(correlation.abs().argmax()) if shifts else 0
        value = correlation.flatten()[at]
        if value.abs() > best:
            best = float(value.abs())
            phase = torch.sgn(value if x.is_complex() else value.real)
            row, column = divmod(at, x.shape[-1])
            aligned = phase.to(x.dtype) * candidate.roll((row, column), (-2, -1))
    return aligned


@dataclass(frozen=True)
class Settings:
    """A method and its settings; None for the default of the model.

    Attributes:
        method: Name of the method, one of `METHODS`.
        prior: Name of the denoiser of "red", one of `PRIORS`.
        restarts: Number of random starts, of the projections alone; see `starts_at_random`.
        iterations: Iterations of the projections from the best start, of them alone likewise.
    """

    method: str = "red"
    prior: str = "deepgsr"
    restarts: int | None = None
    iterations: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError("method", self.method, f"known are {', '.join(METHODS)}")
        if self.prior not in PRIORS:
            raise OptionError("prior", self.prior, f"known are {', '.join(PRIORS)}")
        if self.method != "red" and self.prior != PRIORS[0]:
            raise OptionError("prior", self.prior, f"the method {self.method} has none; give --method red")
        for name in ("restarts", "iterations"):
            settle_whole(self, name, 1)
        if self.method == "unrolled":
            self.refuse_starts("unrolled")

    def refuse_starts(self, methods: str) -> None:
        """Refuse what is said of random starts where there are none.

        Args:
            methods: What has none, in words.

        Raises:
            OptionError: Restarts or iterations are given.
        """
        for name in ("restarts", "iterations"):
            value = getattr(self, name)
            if value is not None:
                ours = "is of --method er, hio or raar, and of red for fourier"
                raise OptionError(name, value, f"{ours}, not of {methods}; leave it out")


def starts_at_random(method: str, *, mixing: bool) -> bool:
    """Whether a method has projections from random starts, for masks that mix the pixels or not."""
    return method in STEPS or (method == "red" and not mixing)


def retrieve(
    A: Diffraction,
    intensity: Tensor,
    settings: Settings,
    generator: torch.Generator,
    *,
    noise: Noise | None = None,
    denoiser: Denoiser | None = None,
    network: UnrolledPhase | None = None,
    progress: Progress | None = None,
) -> Retrieval:
    """Retrieve a picture, in [0, 255], from the intensities of its diffraction patterns.

    "red" is message passing with the denoiser for coded patterns, from a flat picture; for Fourier patterns
    it is HIO, whose best trial the denoiser then refines. "unrolled" is the trained network, for coded
    patterns.

    Args:
        A: The operator.
        intensity: Measured, (J, M, N), of a picture in [0, 255].
        settings: The method.
        generator: Random generator of the starts, on the CPU.
        noise: Noise of the intensities; needed by "red" and "unrolled".
        denoiser: The prior; needed by "red".
        network: Trained network; needed by "unrolled".
        progress: Called with finished and all iterations.

    Raises:
        UsageError: There is no noise level and the method needs it, it is not for such patterns, or it has no
            restarts or iterations for them, and such are given.
    """
    if not A.masks.imag.any():
        # Patterns of real pictures behind real masks are the same at k and -k: two measurements of each.
        intensity = (intensity + intensity.flip(-2, -1).roll((1, 1), (-2, -1))) / 2
        noise = noise and Noise(noise.alpha / math.sqrt(2), noise.sigma / math.sqrt(2))
    constraints = Constraints(A, intensity.sqrt())
    if settings.method in STEPS:
        return _classical(constraints, settings.method, settings, generator, progress)
    if noise is None:
        raise UsageError(
            f"the method {settings.method} needs the noise level; give --alpha or --snr, or --method hio"
        )
    if settings.method == "unrolled":
        assert network is not None
        return _unrolled(constraints, noise, network)
    assert denoiser is not None
    if not starts_at_random("red", mixing=A.mixes):
        settings.refuse_starts("red for cdp")
        several = len(A.masks) > 2
        return message_passing(
            A,
            intensity,
            noise,
            denoiser,
            iterations=12 if several else 30,
            damping=0.8 if several else 0.5,
            progress=progress,
        )
    # The denoiser leads farther than more iterations from the best start would; more starts help it.
    short = replace(settings, restarts=settings.restarts or 20, iterations=settings.iterations or 100)
    start = _classical(constraints, "hio", short, generator, progress)
    deviation = noise.magnitude_deviation(constraints.y)
    # From what leaves the coarse structure of a picture of that brightness to just above the noise.
    brightness = math.sqrt(float(intensity.sum() / A.gram.sum()))
    first = min(0.6 * brightness, MAX_SIGMA)
    last = min(max(1.0, 1.2 * float(deviation.median()) / A.scale), first)
    refined = plug_and_play(
        A,
        constraints.y,
        start.picture,
        denoiser,
        sigmas=falling(first, last, 56),
        deviation=deviation,
        progress=progress,
    )
    before = start.curve[-1][0]
    refined.curve = start.curve + [(before + i, value) for i, value in refined.curve]
    refined.restarts = start.restarts
    return refined


def _unrolled(constraints: Constraints, noise: Noise, network: UnrolledPhase) -> Retrieval:
    """The network's picture, with the residuals of its stages as the curve."""
    A = constraints.A
    if not A.mixes:
        raise UsageError(
            "the method unrolled is for coded patterns, of masks of modulus 1 with several phases; "
            "give --method red"
        )
    condition = phase_condition(noise.alpha / PEAK, noise.sigma / PEAK**2, len(A.masks))
    pictures = network.iterates(A, constraints.y[None] / PEAK, condition.to(constraints.y.device))
    pictures = [(PEAK * x).clamp(0, PEAK) for x in pictures]
    curve = [(i + 1, float(constraints.residual(x))) for i, x in enumerate(pictures)]
    return Retrieval(pictures[-1], curve)


def _classical(
    constraints: Constraints,
    method: str,
    settings: Settings,
    generator: torch.Generator,
    progress: Progress | None,
) -> Retrieval:
    """`alternate` by the settings, or what suits the model."""
    coded = constraints.A.mixes
    return alternate(
        constraints,
        method,
        restarts=settings.restarts or (3 if coded else 50),
        iterations=settings.iterations or (300 if coded else 1000),
        generator=generator,
        progress=progress,
    )
