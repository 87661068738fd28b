"""Phase retrieval by alternating projections onto what was measured and what is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deepgsr_cli.phase.diffraction import Diffraction

Progress = Callable[[int, int], None]

# Largest value of a picture: alpha is given for pictures in 0-255.
PEAK = 255.0


@dataclass
class Constraints:
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
Step = Callable[[Constraints, Tensor], Tensor]


def error_reduction(constraints: Constraints, z: Tensor) -> Tensor:
    """One iteration of error reduction (Gerchberg-Saxton): both projections in turn.

    Source:
        Gerchberg and Saxton, Optik 35, 1972; Fienup, Applied Optics 21(15), 1982.
    """
    return constraints.feasible(constraints.magnitudes(z))


def hybrid_input_output(constraints: Constraints, z: Tensor, beta: float = 0.9) -> Tensor:
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


def relaxed_reflections(constraints: Constraints, z: Tensor, beta: float = 0.87) -> Tensor:
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
        note: What was found out about the measurement, in words; empty if nothing.
        doubts: What cannot be right, a sentence each with the likely cause.
    """

    picture: Tensor
    curve: list[tuple[int, float]] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)
    note: str = ""
    doubts: list[str] = field(default_factory=list)

    @property
    def residual(self) -> float:
        """Residual of the picture."""
        return self.curve[-1][1]


def alternate(
    constraints: Constraints,
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
        method: Name of the method, one of `STEPS`.
        restarts: Number of random starts, at least 1.
        iterations: After the trial.
        generator: Random generator of the starts, on the CPU.
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


def _picture(constraints: Constraints, z: Tensor) -> Tensor:
    """What a method's iterate z says, (B, 1, H, W): projected onto the magnitudes, then feasible."""
    return constraints.picture(constraints.magnitudes(z))
