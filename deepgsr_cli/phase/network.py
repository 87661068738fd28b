"""Phase retrieval of coded diffraction patterns by an unrolled iteration: steps towards the measured
magnitudes, each followed by a DeepGSR network.

A step takes the patterns of the picture to their expectation given the magnitudes, which is the gradient
step of the amplitude loss where the phase is known, and smaller where it is not.

Source:
    Schniter and Rangan, Compressive phase retrieval via generalized approximate message passing, IEEE
    Transactions on Signal Processing 63(4), 2015, for the expectation. Departs in the spread of the error,
    which is learned for each stage where they estimate it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepgsr_cli.models import DeepGSR, DeepGSRConfig
from deepgsr_cli.models.deepgsr import config_with_prior
from deepgsr_cli.phase.diffraction import Diffraction

PRIOR = DeepGSRConfig(
    widths=(20, 28, 40),
    encoder=(1, 1, 1),
    decoder=(1, 1),
    encoder_groups=(0, 1, 0),
    decoder_groups=(0, 0),
    group_channels=8,
)
# A flat picture of this share of the root mean square is the start, as near as one can be without looking.
FLAT = 0.85
# Before training: the step, and the spread of the first stage's error, which halves with each stage.
INITIAL_STEP, INITIAL_SPREAD = 1.5, 0.25


def phase_condition(alpha: float, sigma: float, patterns: int) -> Tensor:
    """What the networks are told of a measurement, (1, 3): alpha, the root of sigma, and one over `patterns`.

    Args:
        alpha: Deviation of the intensities in units of the magnitude, as of `phase.noise.alpha_noise`.
        sigma: Deviation of the intensities that is the same everywhere; both for pictures in [0, 1].
        patterns: Number of patterns.
    """
    return torch.tensor([[alpha, math.sqrt(sigma), 1 / patterns]], dtype=torch.float32)


@dataclass(frozen=True)
class UnrolledPhaseConfig:
    """Shape of an unrolled network for phase retrieval.

    Attributes:
        stages: Steps, each followed by a network of its own.
        prior: Shape of a stage's network, without its channels and conditions.
    """

    stages: int = 5
    prior: DeepGSRConfig = PRIOR

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"stages is {self.stages}; give 1 or more")
        prior = dataclasses.replace(self.prior, channels=2, outputs=1, conditions=3)
        object.__setattr__(self, "prior", prior)


UNROLLED_PHASE_PRESETS = {"small": UnrolledPhaseConfig()}


class UnrolledPhase(nn.Module):
    """Unrolled iteration, x <- x + eta_k r + P_k(x, r) with r = A⁺(E[z | A x, y] - A x), from a flat picture.

    P_k are DeepGSR networks that see the picture and the step's direction; the steps eta_k and the spreads of
    the error in the expectation depend on the condition.
    """

    def __init__(self, config: UnrolledPhaseConfig) -> None:
        super().__init__()
        self.config = config
        self.priors = nn.ModuleList(DeepGSR(config.prior) for _ in range(config.stages))
        self.step = nn.Linear(3, config.stages)
        self.spread = nn.Linear(3, config.stages)
        spreads = INITIAL_SPREAD * 0.5 ** torch.arange(config.stages)
        with torch.no_grad():
            for linear, bias in ((self.step, INITIAL_STEP), (self.spread, spreads.log())):
                linear.weight.zero_()
                linear.bias.copy_(torch.as_tensor(bias))

    @classmethod
    def from_config(cls, fields: dict[str, Any]) -> UnrolledPhase:
        """Network with random weights; fields as `config_dict` returns them, without "model"."""
        return cls(config_with_prior(UnrolledPhaseConfig, fields))

    def config_dict(self) -> dict[str, Any]:
        """Configuration as JSON types, with the model's name under "model"."""
        return {"model": "unrolled-phase", **dataclasses.asdict(self.config)}

    def forward(self, A: Diffraction, y: Tensor, condition: Tensor) -> Tensor:
        """Pictures, (B, 1, H, W), in [0, 1] where there is no error.

        Args:
            A: The operator y was measured with; masks of modulus 1, of pictures in [0, 1].
            y: Measured magnitudes, (B, J, M, N).
            condition: (B, 3), or (1, 3) for all, of `phase_condition`.
        """
        return self.iterates(A, y, condition)[-1]

    def iterates(self, A: Diffraction, y: Tensor, condition: Tensor) -> list[Tensor]:
        """Pictures after each stage, `stages` of (B, 1, H, W); the arguments are those of `forward`."""
        steps = self.step(condition).float()[..., None, None, None]  # (B or 1, stages, 1, 1, 1)
        energy = y.square().sum((1, 2, 3), keepdim=True) / A.gram.sum()  # mean square of the picture
        # Relative to the picture's own brightness, as a flat start is.
        spreads = energy[:, None] * self.spread(condition).float().exp()[..., None, None, None]
        noise = _magnitude_deviation(y, condition)
        x = FLAT * energy.sqrt().expand(-1, 1, *A.domain_shape)
        found = []
        for prior, step, spread in zip(self.priors, steps.unbind(1), spreads.unbind(1)):
            p = A(x)
            r = A.pseudo_inverse(expected_patterns(p, spread, y, noise) - p).real
            assert isinstance(prior, DeepGSR)
            x = x + step * r + prior.residual(torch.cat((x - 0.5, r), dim=1), condition)
            found.append(x)
        return found


# By the name in its configuration.
KINDS = {"unrolled-phase": UnrolledPhase}


def expected_patterns(p: Tensor, variance: Tensor, y: Tensor, deviation: Tensor) -> Tensor:
    """Expectation, (B, J, M, N), complex, of patterns that are CN(p, variance) before their magnitudes are
    measured.

    Approximate: by Laplace's method in the magnitude, and in the phase by a lower bound of I1 / I0, at most
    5 % below it.

    Args:
        p: Patterns, (B, J, M, N), complex.
        variance: Variance of real and imaginary part together, (B, 1, 1, 1).
        y: Measured magnitudes, (B, J, M, N).
        deviation: Their standard deviation, (B, J, M, N).

    Source:
        Amos, Computation of modified Bessel functions and their ratios, Mathematics of Computation 28, 1974,
        for the bound.
    """
    before = p.abs()
    radial, measured = variance / 2, deviation.square()
    magnitude = (before * measured + y * radial) / (measured + radial)
    certainty = 2 * magnitude * before / variance
    # magnitude * sgn(p) * I1(certainty) / I0(certainty), without a division by |p|.
    return p * (magnitude.square() / radial / (0.5 + (certainty.square() + 2.25).sqrt()))


def _magnitude_deviation(y: Tensor, condition: Tensor) -> Tensor:
    """Standard deviation of magnitudes, to first order, by the noise in the condition."""
    alpha, root_sigma = (condition[:, i, None, None, None] for i in (0, 1))
    y = y.clamp(min=1e-3).maximum(root_sigma)
    return (alpha.square() + (root_sigma.square() / y).square()).sqrt() / 2
