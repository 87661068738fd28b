"""Iterative solvers of linear inverse problems: the operator and the prior are arguments.

Each takes a batch and treats its images one by one: what stops for one image leaves the others running, and
a batch gives what its images give alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Progress = Callable[[int, int], None]

# Of `primal_dual`: it converges below 2.
_RELAXATION = 1.9


class Operator(Protocol):
    """A linear map from images, (B, 1, H, W), to measurements, such as `radon.Radon`."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def adjoint(self, y: Tensor) -> Tensor: ...


class Prior(Protocol):
    """A convex function g(D x) of an image, by its linear map D and the conjugate of g.

    Attributes:
        balance: Factor on the dual steps, and one over that on the primal: only the speed depends on it.
    """

    @property
    def balance(self) -> float: ...

    def map(self, x: Tensor) -> Tensor:
        """D x."""
        ...

    def adjoint(self, p: Tensor) -> Tensor:
        """The transpose of D."""
        ...

    def sums(self) -> tuple[float, float]:
        """Bounds of the absolute entries' sum in each row and in each column of D."""
        ...

    def proximal_conjugate(self, p: Tensor, step: float) -> Tensor:
        """Proximal operator of `step` times the conjugate of g."""
        ...


@dataclass(frozen=True)
class TotalVariation:
    """Isotropic total variation times a weight: the sum of the gradient's lengths, differences of neighbours.

    Attributes:
        weight: The weight.
        balance: As of `Prior`; best near the weight over an edge's height.

    Source:
        Rudin, Osher, Fatemi, Nonlinear total variation based noise removal algorithms, Physica D 60, 1992.
    """

    weight: float
    balance: float = 1.0

    def map(self, x: Tensor) -> Tensor:
        """Differences to the next row and the next column, (B, 2, H, W), of x, (B, 1, H, W); 0 at the end."""
        down = F.pad(x[:, :, 1:] - x[:, :, :-1], (0, 0, 0, 1))
        right = F.pad(x[..., 1:] - x[..., :-1], (0, 1))
        return torch.cat((down, right), dim=1)

    def adjoint(self, p: Tensor) -> Tensor:
        """Transpose of `map`: minus the divergence, (B, 1, H, W)."""
        down, right = p[:, :1, :-1], p[:, 1:, :, :-1]
        along_rows = F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))
        return along_rows + F.pad(right, (1, 0)) - F.pad(right, (0, 1))

    def sums(self) -> tuple[float, float]:
        return 2.0, 4.0

    def proximal_conjugate(self, p: Tensor, step: float) -> Tensor:
        """Projection of each pixel's vector onto the disk of radius `weight`; the step does not matter."""
        # Not norm(dim=1), which takes as long as the rest of an iteration.
        return p * (self.weight / torch.hypot(p[:, :1], p[:, 1:]).clamp(min=self.weight))

    def value(self, x: Tensor) -> Tensor:
        """The prior of each image, (B,)."""
        return self.weight * self.map(x).norm(dim=1).sum((1, 2))


def sirt(
    A: Operator,
    y: Tensor,
    *,
    iterations: int = 200,
    tolerance: float = 1e-3,
    noise: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Non-negative image, (B, 1, H, W), by the simultaneous iterative reconstruction technique.

    x <- max(0, x + C Aᵀ R (y - A x)) from zero, with R and C one over the sums of A's rows and columns; it
    converges to a least-squares solution weighted by R. A has no negative entry.

    Args:
        A: The operator.
        y: Measurements.
        iterations: At most so many.
        tolerance: Stop when an iteration changes the image by less, relative to its norm.
        noise: Norm of each measurement's noise, (B,): stop when the residual's is no larger (the discrepancy
            principle). None where it is not known.
        progress: Called with finished and all iterations.

    Source:
        Gregor and Benson, Computational analysis and improvement of SIRT, IEEE Transactions on Medical
        Imaging 27(7), 2008. The discrepancy principle: Morozov, 1966.
    """
    columns = _inverse(A.adjoint(torch.ones_like(y)))
    rows = _inverse(A(torch.ones_like(columns)))
    x = torch.zeros_like(columns)
    running = torch.ones(len(y), 1, 1, 1, dtype=torch.bool, device=y.device)
    for i in range(iterations):
        residual = y - A(x)
        if noise is not None:
            running = running & (_norm(residual) > noise.view(-1, 1, 1, 1))
        update = (x + columns * A.adjoint(rows * residual)).clamp(min=0)
        new = torch.where(running, update, x)
        running = running & (_norm(new - x) > tolerance * _norm(new))
        x = new
        if _finished(i, iterations, running, progress):
            break
    return x


def cgls(
    A: Operator,
    y: Tensor,
    *,
    iterations: int = 20,
    tolerance: float = 1e-4,
    noise: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Image, (B, 1, H, W), by conjugate gradients on the least-squares problem, started from zero.

    On an ill-posed problem the iterates first approach the image and then its noise: the number of
    iterations regularises. Values may be negative.

    Args:
        A: The operator.
        y: Measurements.
        iterations: At most so many.
        tolerance: Stop when the gradient Aᵀ(y - A x) is that much smaller than at the start.
        noise: Norm of each measurement's noise, (B,): stop when the residual's is no larger.
        progress: Called with finished and all iterations.

    Source:
        Björck, Numerical methods for least squares problems, 1996, alg. 7.4.1.
    """
    residual = y.clone()
    direction = gradient = A.adjoint(residual)
    x = torch.zeros_like(gradient)
    start = squared = _norm(gradient) ** 2
    running = start > 0
    for i in range(iterations):
        if noise is not None:
            running = running & (_norm(residual) > noise.view(-1, 1, 1, 1))
        image = A(direction)
        # An image that has stopped keeps its state: a step of 0, then a direction of no use.
        step = torch.where(running, squared / _norm(image) ** 2, 0.0)
        x, residual = x + step * direction, residual - step * image
        gradient = A.adjoint(residual)
        previous, squared = squared, _norm(gradient) ** 2
        running = running & (squared > tolerance**2 * start)
        direction = torch.where(running, gradient + squared / previous * direction, 0.0)
        if _finished(i, iterations, running, progress):
            break
    return x


def primal_dual(
    A: Operator,
    y: Tensor,
    prior: Prior,
    *,
    weights: Tensor | None = None,
    start: Tensor | None = None,
    iterations: int = 300,
    tolerance: float = 1e-4,
    progress: Progress | None = None,
) -> Tensor:
    """Minimiser, (B, 1, H, W), of ½ Σ w (A x - y)² + g(D x) over images that are not negative.

    The primal-dual algorithm with a step for each row and column, 1 over the sum of its absolute entries, so
    that no norm is needed, and with over-relaxation, which saves iterations. A has no negative entry.

    Args:
        A: The operator.
        y: Measurements.
        prior: g and D.
        weights: w, of the shape of y, positive; None for ones.
        start: Image to start from, None for zero.
        iterations: At most so many.
        tolerance: Stop when an iteration changes the image by less, relative to its norm.
        progress: Called with finished and all iterations.

    Source:
        Chambolle and Pock, A first-order primal-dual algorithm for convex problems, Journal of Mathematical
        Imaging and Vision 40, 2011; the steps: Pock and Chambolle, ICCV 2011, lemma 2 with alpha 1; the
        relaxation: Condat, Journal of Optimization Theory and Applications 158, 2013, algorithm 3.2.
    """
    weights = torch.ones_like(y) if weights is None else weights
    prior_rows, prior_columns = prior.sums()
    columns = 1 / (prior.balance * (A.adjoint(torch.ones_like(y)) + prior_columns))
    rows = prior.balance * _inverse(A(torch.ones_like(columns)))
    x = found = torch.zeros_like(columns) if start is None else start
    data, edges = torch.zeros_like(y), torch.zeros_like(prior.map(x))
    shrink = weights / (weights + rows)
    running = torch.ones(len(y), 1, 1, 1, dtype=torch.bool, device=y.device)
    for i in range(iterations):
        data_change = shrink * (data + rows * (A(x) - y)) - data
        step = prior.balance / prior_rows
        edges_change = prior.proximal_conjugate(edges + step * prior.map(x), step) - edges
        descent = A.adjoint(data + 2 * data_change) + prior.adjoint(edges + 2 * edges_change)
        new = (x - columns * descent).clamp(min=0)
        change = new - x
        # Between two such images x may be negative; what is returned is not.
        found = torch.where(running, new, found)
        running = running & (_norm(change) > tolerance * _norm(new))
        x, data, edges = (
            value + _RELAXATION * step
            for value, step in ((x, change), (data, data_change), (edges, edges_change))
        )
        if _finished(i, iterations, running, progress):
            break
    return found


def _finished(i: int, iterations: int, running: Tensor, progress: Progress | None) -> bool:
    """Whether no image of the batch goes on after iteration i, told to `progress`."""
    finished = not bool(running.any())
    if progress is not None:
        progress(iterations if finished else i + 1, iterations)
    return finished


def _norm(x: Tensor) -> Tensor:
    """Euclidean norm of each image or measurement, (B, 1, 1, 1)."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


def _inverse(sums: Tensor) -> Tensor:
    """One over the sums; 0 where a ray misses the image, or a pixel is never seen."""
    return torch.where(sums > 0, 1 / sums, 0.0)
