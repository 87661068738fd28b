"""Phase retrieval: pictures from the magnitudes of their diffraction patterns.

The classical methods alternate between the patterns with the measured magnitudes and the patterns of feasible
pictures: real, in [0, peak], 0 where no mask sees them. They run on the patterns z, (B, J, M, N), which for
the zero-padded Fourier transform is the textbook form on the padded plane, and is defined for any masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from deepgsr_cli.diffraction import Diffraction
from deepgsr_cli.errors import UsageError
from deepgsr_cli.models.phase import FLAT, UnrolledPhase, phase_condition

Progress = Callable[[int, int], None]

METHODS = ("red", "unrolled", "er", "hio", "raar")
PRIORS = ("deepgsr", "tv", "bm3d")
PEAK = 255.0


@dataclass
class Projections:
    """The two constraints on patterns z, (B, J, M, N): measured magnitudes, and a feasible picture.

    Args:
        A: The operator.
        y: Measured magnitudes, (J, M, N).
        peak: Largest value of a picture.
    """

    A: Diffraction
    y: Tensor
    peak: float = PEAK

    def magnitudes(self, z: Tensor) -> Tensor:
        """Patterns with the measured magnitudes and the phases of z; the phase of 0 is 0."""
        return torch.where(z == 0, self.y + 0j, self.y * torch.sgn(z))

    def picture(self, z: Tensor) -> Tensor:
        """Feasible picture, (B, 1, H, W), whose patterns are nearest to z."""
        return self.A.pseudo_inverse(z).real.clamp(0, self.peak)

    def feasible(self, z: Tensor) -> Tensor:
        """Patterns of `picture(z)`."""
        return self.A(self.picture(z)).to(z.dtype)

    def residual(self, x: Tensor) -> Tensor:
        """‖|A x| − y‖ / ‖y‖ of each picture, (B,)."""
        difference = self.A(x).abs() - self.y
        return torch.linalg.vector_norm(difference, dim=(1, 2, 3)) / torch.linalg.vector_norm(self.y)


# One iteration from patterns to patterns.
Step = Callable[[Projections, Tensor], Tensor]


def error_reduction(constraints: Projections, z: Tensor) -> Tensor:
    """One iteration of error reduction (Gerchberg-Saxton): both projections in turn.

    Source:
        Gerchberg and Saxton, Optik 35, 1972; Fienup, Applied Optics 21(15), 1982.
    """
    return constraints.feasible(constraints.magnitudes(z))


def hybrid_input_output(constraints: Projections, z: Tensor, beta: float = 0.9) -> Tensor:
    """One iteration of Fienup's HIO: where the picture of the projected patterns is feasible it is taken, and
    elsewhere, outside the support and in the imaginary part too, `beta` times it is taken off.

    Source:
        Fienup, Applied Optics 21(15), 1982, eq. 44.
    """
    A = constraints.A
    projected = constraints.magnitudes(z)
    wanted = A.pseudo_inverse(projected)
    feedback = A.pseudo_inverse(z) - beta * wanted
    feasible = (wanted.real >= 0) & (wanted.real <= constraints.peak)
    change = torch.where(feasible, wanted.real - feedback.real, 0.0)
    return z - beta * projected + A(change)


def relaxed_reflections(constraints: Projections, z: Tensor, beta: float = 0.87) -> Tensor:
    """One iteration of relaxed averaged alternating reflections (RAAR).

    Source:
        Luke, Relaxed averaged alternating reflections for diffraction imaging, Inverse Problems 21, 2005.
    """
    projected = constraints.magnitudes(z)
    reflected = 2 * projected - z
    again = 2 * constraints.feasible(reflected) - reflected
    return beta / 2 * (again + z) + (1 - beta) * projected


STEPS: dict[str, Step] = {"er": error_reduction, "hio": hybrid_input_output, "raar": relaxed_reflections}

# Iterations between two residuals of the curve; one costs as much as an iteration.
_EVERY = 10


@dataclass
class Retrieval:
    """Result of a method.

    Attributes:
        picture: (1, 1, H, W), in [0, peak].
        curve: Iteration and residual ‖|A x| − y‖ / ‖y‖ of the feasible picture, for the run that was kept.
        restarts: Residual of each restart after its trial.
    """

    picture: Tensor
    curve: list[tuple[int, float]] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)

    @property
    def residual(self) -> float:
        """Residual of the picture."""
        return self.curve[-1][1]


def alternate(
    constraints: Projections,
    method: str,
    *,
    restarts: int,
    iterations: int,
    generator: torch.Generator,
    trial: int = 50,
    polish: int = 50,
    progress: Progress | None = None,
) -> Retrieval:
    """Picture by alternating projections: short trials from random pictures, of which the one with the lowest
    residual goes on; its last iterate is projected and polished by error reduction.

    Args:
        constraints: Operator, magnitudes and peak.
        method: Of `STEPS`.
        restarts: Number of random starts, at least 1.
        iterations: After the trial.
        generator: On the CPU, for the starts.
        trial: Iterations of each trial.
        polish: Iterations of error reduction at the end.
        progress: Called with finished and all iterations.

    Source:
        The restarts are prDeep's, Metzler et al., ICML 2018, sec. 5.
    """
    step, A = STEPS[method], constraints.A
    total = restarts * trial + iterations + polish
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    found: list[float] = []
    best = torch.empty(0)
    curve: list[tuple[int, float]] = []
    # One by one: the patterns of several no longer fit into a processor's cache.
    for _ in range(restarts):
        start = torch.rand(1, 1, *A.domain_shape, generator=generator, dtype=constraints.y.dtype)
        z = A(constraints.peak * start.to(constraints.y.device))
        rows = []
        for i in range(trial):
            z = step(constraints, z)
            if (i + 1) % _EVERY == 0 or i + 1 == trial:
                rows.append((i + 1, float(constraints.residual(_picture(constraints, z)))))
            advance()
        if not found or rows[-1][1] < min(found):
            best, curve = z, rows
        found.append(rows[-1][1])
    z = best
    for i in range(iterations + polish):
        z = step(constraints, z) if i < iterations else error_reduction(constraints, z)
        if (i + 1) % _EVERY == 0 or i + 1 == iterations + polish:
            curve.append((trial + i + 1, float(constraints.residual(_picture(constraints, z)))))
        advance()
    return Retrieval(_picture(constraints, z), curve, found)


def _picture(constraints: Projections, z: Tensor) -> Tensor:
    """What a method's iterate z says, (B, 1, H, W): projected onto the magnitudes, then feasible."""
    return constraints.picture(constraints.magnitudes(z))


# Restored picture, (1, 1, H, W), of a noisy one with a standard deviation, both in [0, 255].
Denoiser = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Noise:
    """Noise of measured intensities |z|², Gaussian; what would be negative was measured as 0.

    Attributes:
        alpha: Deviation in units of the magnitude |z|, as `diffraction.alpha_noise` has it.
        sigma: Deviation that is the same everywhere, as of `diffraction.snr_noise`.
    """

    alpha: float = 0.0
    sigma: float = 0.0

    def deviation(self, magnitude: Tensor) -> Tensor:
        """Standard deviation of the intensities for such magnitudes |z|."""
        return (self.alpha**2 * magnitude.square() + self.sigma**2).sqrt()

    def magnitude_deviation(self, y: Tensor) -> Tensor:
        """Standard deviation, to first order, of measured magnitudes y, kept finite near 0."""
        y = y.clamp(min=max(self.sigma**0.5, 1e-6))
        return self.deviation(y) / (2 * y)


def posterior(p: Tensor, variance: float, intensity: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Mean, complex, and variance of patterns z that are CN(p, variance) before, and measured with `noise`.

    The phase is integrated in closed form, the magnitude by sums over nodes where it is likely. Where it is
    uncertain, the mean is smaller than the magnitude: what is not known does not speak.

    Args:
        p: Patterns, (B, J, M, N), complex.
        variance: Of real and imaginary part together.
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
    constraints = Projections(A, intensity.sqrt())
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
    constraints = Projections(A, y)
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
    """How long the projections run; None for the model's default.

    Attributes:
        method: Of `METHODS`.
        prior: Of `PRIORS`, the denoiser of "red".
        restarts: Random starts.
        iterations: From the best start.
    """

    method: str = "red"
    prior: str = "deepgsr"
    restarts: int | None = None
    iterations: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"--method {self.method}: known are {', '.join(METHODS)}")
        if self.prior not in PRIORS:
            raise UsageError(f"--prior {self.prior}: known are {', '.join(PRIORS)}")
        if self.method != "red" and self.prior != PRIORS[0]:
            raise UsageError(f"--prior {self.prior}: the method {self.method} has none; give --method red")
        for name in ("restarts", "iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value}: give 1 or more")


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
    """Picture in [0, 255] of the intensities of its diffraction patterns.

    "red" is message passing with the denoiser for coded patterns, from a flat picture; for Fourier patterns
    it is HIO, whose best trial the denoiser then refines. "unrolled" is the trained network, for coded
    patterns.

    Args:
        A: The operator.
        intensity: Measured, (J, M, N), of a picture in [0, 255].
        settings: The method.
        generator: On the CPU, for the starts.
        noise: Of the intensities; needed by "red" and "unrolled".
        denoiser: The prior; needed by "red".
        network: Needed by "unrolled".
        progress: Called with finished and all iterations.

    Raises:
        UsageError: There is no noise level and the method needs it, or it is not for such patterns.
    """
    if not A.masks.imag.any():
        # Patterns of real pictures behind real masks are the same at k and -k: two measurements of each.
        intensity = (intensity + intensity.flip(-2, -1).roll((1, 1), (-2, -1))) / 2
        noise = noise and Noise(noise.alpha / math.sqrt(2), noise.sigma / math.sqrt(2))
    constraints = Projections(A, intensity.sqrt())
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
    if A.mixes:
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
        sigmas=_falling(first, last, 56),
        deviation=deviation,
        progress=progress,
    )
    before = start.curve[-1][0]
    refined.curve = start.curve + [(before + i, value) for i, value in refined.curve]
    refined.restarts = start.restarts
    return refined


def _unrolled(constraints: Projections, noise: Noise, network: UnrolledPhase) -> Retrieval:
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
    constraints: Projections,
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


def _falling(first: float, last: float, count: int) -> list[float]:
    """Geometric sequence of noise levels."""
    return [first * (last / first) ** (i / (count - 1)) for i in range(count)]
