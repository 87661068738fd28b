"""Promises of deepgsr_cli.tomography.solvers, on problems small enough to write down."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch

from deepgsr_cli.tomography.solvers import TotalVariation, cgls, primal_dual, sirt

H, W = 4, 3
ROWS = 20


class Dense:
    """A matrix, (M, H W), as an operator to (B, 1, 1, M)."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.matrix.T)[:, None, None]

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return (y.flatten(1) @ self.matrix).view(-1, 1, H, W)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture
def A() -> Dense:
    return Dense(torch.rand(ROWS, H * W, generator=generator(), dtype=torch.float64))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(1, 1, H, W, generator=generator(), dtype=torch.float64)


@pytest.fixture
def noisy(A: Dense, x: torch.Tensor) -> torch.Tensor:
    """Measurements that no image explains."""
    y = A(x)
    return y + 0.3 * torch.randn(y.shape, generator=generator(), dtype=y.dtype)


def test_cgls_finds_the_least_squares_solution(A, noisy):
    expected = torch.linalg.lstsq(A.matrix, noisy.flatten()).solution
    found = cgls(A, noisy, iterations=40, tolerance=1e-12)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-7, atol=1e-7)


def test_cgls_never_raises_the_residual(A, noisy):
    residuals = [float((noisy - A(cgls(A, noisy, iterations=k, tolerance=0))).norm()) for k in range(1, 13)]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(residuals))
    assert residuals[-1] < 0.9 * residuals[0]


def test_sirt_finds_the_non_negative_solution_weighted_by_the_rays_lengths(A, noisy):
    # The constraint must bind for the test to see it.
    y = noisy - 0.4 * A(torch.eye(H * W, dtype=torch.float64)[:1].view(1, 1, H, W) * 3)
    root = A.matrix.sum(1).rsqrt().numpy()
    expected, _ = scipy.optimize.nnls(root[:, None] * A.matrix.numpy(), root * y.flatten().numpy())
    assert (expected == 0).any()
    found = sirt(A, y, iterations=4000, tolerance=1e-12)
    np.testing.assert_allclose(found.flatten(), expected, atol=1e-5)


def test_sirt_stays_where_the_data_are_explained(A, x):
    columns, rows = A.matrix.sum(0), A.matrix.sum(1)
    found = sirt(A, A(x), iterations=4000, tolerance=1e-14)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-6)
    update = (A.adjoint((A(x) - A(found)) / rows) / columns.view(H, W)).abs().max()
    assert float(update) < 1e-8


def test_rays_that_miss_the_image_and_pixels_never_seen_do_no_harm(A, x):
    A.matrix[3] = 0
    A.matrix[:, 5] = 0
    for found in (
        sirt(A, A(x), iterations=50),
        primal_dual(A, A(x), TotalVariation(0.01), iterations=50),
        cgls(A, A(x)),
    ):
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("solve", [sirt, cgls])
def test_the_discrepancy_principle_stops_at_the_noise(A, noisy, solve):
    noise = torch.tensor([2.0], dtype=torch.float64)
    counts: list[int] = []
    found = solve(A, noisy, iterations=500, tolerance=0, noise=noise, progress=lambda i, n: counts.append(i))
    assert float((A(found) - noisy).norm()) <= 2.0
    before = solve(A, noisy, iterations=len(counts) - 2, tolerance=0)
    assert float((A(before) - noisy).norm()) > 2.0
    assert counts[-1] == 500


def test_total_variation_is_the_sum_of_the_gradients_lengths():
    x = torch.zeros(1, 1, 5, 7, dtype=torch.float64)
    x[..., 1:3, 2:5] = 2.0
    # A box of 2 x 3: its edges, but the corner's pixel has both differences in one length.
    expected = 2 * (2 + 3 + 3 + 2 - 2 + 2**0.5)
    torch.testing.assert_close(
        TotalVariation(1.0).value(x), torch.tensor([expected], dtype=torch.float64), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("shape", [(37, 53), (1, 5), (5, 1)])
def test_total_variations_adjoint_is_the_transpose_of_its_map(shape):
    prior = TotalVariation(1.0)
    x = torch.randn(2, 1, *shape, generator=generator(), dtype=torch.float64)
    p = torch.randn(2, 2, *shape, generator=generator(), dtype=torch.float64)
    left, right = float((prior.map(x) * p).sum()), float((x * prior.adjoint(p)).sum())
    assert abs(left - right) <= 1e-10 * float(prior.map(x).norm() * p.norm())


def test_total_variations_conjugate_is_a_projection():
    prior = TotalVariation(0.7)
    p = torch.randn(1, 2, 6, 5, generator=generator(), dtype=torch.float64)
    projected = prior.proximal_conjugate(p, 3.0)
    assert float(projected.norm(dim=1).max()) <= 0.7 * (1 + 1e-12)
    torch.testing.assert_close(prior.proximal_conjugate(projected, 3.0), projected)
    inside = p.norm(dim=1, keepdim=True) < 0.7
    assert inside.any()
    torch.testing.assert_close(projected[inside.expand_as(p)], p[inside.expand_as(p)])


def objective(A, y, weight, z, weights=1.0):
    return float((0.5 * weights * (A(z) - y) ** 2).sum() + TotalVariation(weight).value(z).sum())


@pytest.mark.parametrize("weighted", [False, True])
def test_primal_dual_finds_the_minimum_that_another_method_finds(A, noisy, weighted):
    weights = torch.rand(noisy.shape, generator=generator(), dtype=torch.float64) + 0.1
    weights = weights if weighted else torch.ones_like(noisy)

    def smooth(values: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.from_numpy(values).view(1, 1, H, W).requires_grad_()
        length = (TotalVariation(1.0).map(z).square().sum(1) + 1e-12).sqrt()
        value = 0.5 * (weights * (A(z) - noisy) ** 2).sum() + 0.5 * length.sum()
        (gradient,) = torch.autograd.grad(value, z)
        return value.item(), gradient.flatten().numpy()

    expected = scipy.optimize.minimize(
        smooth, np.full(H * W, 0.5), jac=True, method="L-BFGS-B", bounds=[(0, None)] * (H * W),
        options={"maxiter": 20000, "ftol": 1e-15, "gtol": 1e-10},
    )  # fmt: skip
    found = primal_dual(A, noisy, TotalVariation(0.5), weights=weights, iterations=4000, tolerance=1e-12)
    assert objective(A, noisy, 0.5, found, weights) <= expected.fun * (1 + 1e-6)
    np.testing.assert_allclose(found.flatten(), expected.x, atol=2e-3)


def test_primal_dual_lowers_the_objective_and_the_balance_only_changes_the_speed(A, noisy):
    values = [
        objective(A, noisy, 0.5, primal_dual(A, noisy, TotalVariation(0.5), iterations=k, tolerance=0))
        for k in (10, 40, 160, 640)
    ]
    assert values == sorted(values, reverse=True)
    for balance in (0.1, 10.0):
        found = primal_dual(A, noisy, TotalVariation(0.5, balance), iterations=4000, tolerance=1e-12)
        assert objective(A, noisy, 0.5, found) == pytest.approx(values[-1], rel=1e-3)


def test_sirt_and_primal_dual_are_not_negative(A, x):
    y = A(x - 0.5)
    assert float(sirt(A, y).min()) == 0
    assert float(primal_dual(A, y, TotalVariation(0.01)).min()) == 0


@pytest.mark.parametrize("solve", ["sirt", "cgls", "primal_dual"])
def test_a_batch_gives_what_its_images_give_alone(A, x, noisy, solve):
    y = torch.cat((A(x), 3 * noisy))
    noise = torch.tensor([0.5, 5.0], dtype=torch.float64)

    def run(y, noise):
        if solve == "primal_dual":
            return primal_dual(A, y, TotalVariation(0.2), iterations=300, tolerance=1e-4)
        return {"sirt": sirt, "cgls": cgls}[solve](A, y, iterations=300, tolerance=1e-4, noise=noise)

    both = run(y, noise)
    for i in range(2):
        torch.testing.assert_close(
            both[i : i + 1], run(y[i : i + 1], noise[i : i + 1]), rtol=1e-9, atol=1e-12
        )


def test_progress_ends_with_all_iterations_even_when_they_stop_early(A, x):
    seen: list[tuple[int, int]] = []
    primal_dual(A, A(x), TotalVariation(0.01), tolerance=0.1, progress=lambda i, n: seen.append((i, n)))
    assert 1 < len(seen) < 300
    assert seen[0] == (1, 300)
    assert seen[-1] == (300, 300)
