"""The Radon transform of parallel and fan beams, its adjoint, and filtered backprojection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.errors import DeviceError, OptionError, ShapeError
from deepgsr_cli.tomography.fbp import FILTERS, fbp_geometry, fbp_weights, ramp_spectrum
from deepgsr_cli.tomography.geometry import Geometry
from deepgsr_cli.tomography.projectors import (
    Interpolation,
    Map,
    PixelSamples,
    RaySamples,
    SmearKernel,
    SparseMatrix,
    WalkKernel,
    check_matrix_bytes,
)

ENGINES = ("auto", "numba", "csr", "torch")


class Radon:
    """X-ray projection of a slice, `A(x)`, its exact adjoint, and filtered backprojection.

    All three are differentiable, with the exact adjoint as the derivative. Tensors must have the operator's
    dtype. What an engine prepares is made on first use, for each device, and kept.

    Args:
        geometry: Scan that says where the rays run.
        engine: One of `ENGINES`; see the module.
        dtype: float32 or float64.

    Raises:
        OptionError: An unknown engine or dtype, or a matrix of more than `MAX_MATRIX_BYTES`.
    """

    def __init__(
        self, geometry: Geometry, *, engine: str = "auto", dtype: torch.dtype = torch.float32
    ) -> None:
        if engine not in ENGINES:
            raise OptionError("engine", engine, f"give one of {', '.join(ENGINES)}")
        if dtype not in (torch.float32, torch.float64):
            raise OptionError("dtype", dtype, "give torch.float32 or torch.float64")
        self.geometry, self.engine, self.dtype = geometry, engine, dtype
        self.domain_shape = geometry.shape
        self.range_shape = (geometry.num_views, geometry.num_bins)
        self._fbp_geometry = fbp_geometry(geometry)
        tables = zip(("rows", "columns"), geometry.rays())
        self._rays = {name: rays for name, rays in tables if len(rays.index)}
        self._maps: dict[tuple[str, torch.device], Map] = {}
        self._indices: dict[tuple[str, torch.device], Tensor] = {}
        self._filters: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}
        self._norm: float | None = None
        self._other: Radon | None = None
        if engine == "csr":
            check_matrix_bytes([self._samples(name) for name in self._rays], dtype)

    def __call__(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """Sinogram, (B, 1, V, N), dimensionless, of attenuation in 1/mm, (B, 1, H, W).

        Args:
            x: Attenuation.
            where: Rays that are wanted, bool, (B, 1, V, N); the others are 0, and take no time by compiled
                loops. None for all.

        Raises:
            ShapeError: Another shape or dtype.
            DeviceError: The engine does not run where x is.
        """
        self._check("image", x, self.domain_shape)
        if where is None:
            return _LinearMap.apply(x, self._project, self._project_adjoint)
        return _LinearMap.apply(
            x, lambda x: self._project(x, where), lambda y: self._project_adjoint(y * where)
        )

    def adjoint(self, y: Tensor) -> Tensor:
        """Unfiltered backprojection, (B, 1, H, W), in mm, of a sinogram, (B, 1, V, N): the transpose of `A`.

        Raises:
            ShapeError: Another shape or dtype.
            DeviceError: The engine does not run where y is.
        """
        self._check("sinogram", y, self.range_shape)
        return _LinearMap.apply(y, self._project_adjoint, self._project)

    def fbp(self, y: Tensor, filter: str = "ram-lak") -> Tensor:
        """Image reconstructed from a sinogram by ramp filtering and weighted backprojection.

        The band-limited ramp is sampled in space and padded to at least twice the bins, so the mean is right.
        Each view counts with half the angle to both its neighbours; fans over less than a turn are weighted
        after Parker, shifted detectors over a turn after Wang. Pixel-driven, linear in the detector; rays
        that miss the detector count as zero.

        Args:
            y: Sinogram, (B, 1, V, N).
            filter: One of `FILTERS`: the window on the ramp, from the sharpest to the smoothest.

        Returns:
            Attenuation in 1/mm, (B, 1, H, W).

        Raises:
            ShapeError: Another shape or dtype.
            DeviceError: The engine does not run where y is.
            OptionError: An unknown filter.
            ShapeError: The views do not suffice: parallel rays over less than half a turn, a fan over less
                than that and the fan's angle, or a shifted detector over less than a full turn.

        Source:
            Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, ch. 3.
        """
        self._check("sinogram", y, self.range_shape)
        weights, response = self._filter(filter, y.device)
        padded = 2 * (len(response) - 1)
        bins = self._fbp_geometry.num_bins
        before = round(self._fbp_geometry.centre_bin - self.geometry.centre_bin)
        weighted = F.pad(y * weights, (before, bins - before - self.range_shape[1]))
        spectrum = torch.fft.rfft(weighted, n=padded) * response
        filtered = torch.fft.irfft(spectrum, n=padded)[..., :bins]
        return _LinearMap.apply(filtered, self._smear, self._smear_adjoint)

    def of(self, geometry: Geometry) -> Radon:
        """The operator of another geometry, of the same engine and dtype; the last one is kept."""
        if self._other is None or self._other.geometry != geometry:
            self._other = Radon(geometry, engine=self.engine, dtype=self.dtype)
        return self._other

    def norm(self) -> float:
        """Largest singular value, by the power method; computed on the CPU once and kept.

        A has no negative entry, so the iteration converges from a constant image. It does so from below:
        allow a percent where a step size depends on it.
        """
        if self._norm is None:
            x = torch.ones(1, 1, *self.domain_shape, dtype=self.dtype)
            previous, estimate = 0.0, 1.0
            while abs(estimate - previous) > 1e-5 * estimate:
                x = self._project_adjoint(self._project(x / x.norm()))
                previous, estimate = estimate, float(x.norm())
            self._norm = math.sqrt(estimate)
        return self._norm

    def _check(self, name: str, values: Tensor, shape: tuple[int, int]) -> None:
        if values.ndim != 4 or values.shape[1:] != (1, *shape):
            raise ShapeError(
                f"the {name} has shape {tuple(values.shape)}, but this geometry takes"
                f" (B, 1, {shape[0]}, {shape[1]}); reshape it or give its own geometry"
            )
        if values.dtype != self.dtype:
            raise ShapeError(
                f"the {name} is {values.dtype}, but the operator {self.dtype}; convert one of them"
            )
        if self.engine == "numba" and values.device.type != "cpu":
            raise DeviceError(
                f"the {name} is on {values.device}, where engine numba does not run; give engine auto"
            )

    def _project(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        y = x.new_zeros(len(x), math.prod(self.range_shape))
        wanted = None if where is None else where.flatten(1).any(0)
        for name in self._rays:
            lines = x[:, 0] if name == "rows" else x[:, 0].mT
            map, index = self._map(name, x.device), self._index(name, x.device)
            if wanted is not None and isinstance(map, WalkKernel):
                chosen = wanted[index]
                y[:, index[chosen]] = map.forward(lines, chosen.numpy())
            else:
                y[:, index] = map.forward(lines)
        y = y.view(len(x), 1, *self.range_shape)
        return y if where is None else torch.where(where, y, 0)

    def _project_adjoint(self, y: Tensor) -> Tensor:
        x, y = y.new_zeros(len(y), *self.domain_shape), y.flatten(1)
        for name in self._rays:
            values = y[:, self._index(name, y.device)]
            lines = self._map(name, y.device).adjoint(values)
            x += lines if name == "rows" else lines.mT
        return x[:, None]

    def _index(self, name: str, device: torch.device) -> Tensor:
        """Places of the rays along "rows" or "columns" in a sinogram, (T,), on a device."""
        if (name, device) not in self._indices:
            self._indices[name, device] = torch.from_numpy(self._rays[name].index).to(device)
        return self._indices[name, device]

    def _smear(self, y: Tensor) -> Tensor:
        x = self._map("pixels", y.device).forward(y[:, 0])
        return x.view(len(y), 1, *self.domain_shape)

    def _smear_adjoint(self, x: Tensor) -> Tensor:
        return self._map("pixels", x.device).adjoint(x.flatten(1))[:, None]

    def _map(self, name: str, device: torch.device) -> Map:
        """One of the maps "rows", "columns" (of rays) and "pixels" (of backprojection), made on first use."""
        if (name, device) not in self._maps:
            self._maps[name, device] = self._make_map(name, device)
        return self._maps[name, device]

    def _make_map(self, name: str, device: torch.device) -> Map:
        samples = self._samples(name)
        if self.engine == "numba" or (self.engine == "auto" and device.type == "cpu"):
            return WalkKernel(samples) if isinstance(samples, RaySamples) else SmearKernel(samples)
        interpolation = Interpolation(samples, device, self.dtype)
        if self.engine != "csr":
            return interpolation
        check_matrix_bytes([samples], self.dtype)
        return SparseMatrix(interpolation)

    def _samples(self, name: str) -> RaySamples | PixelSamples:
        height, width = self.domain_shape
        if name == "pixels":
            return PixelSamples(self._fbp_geometry)
        return RaySamples(self._rays[name], *((height, width) if name == "rows" else (width, height)))

    def _filter(self, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Weights, (V, N), before the ramp, and the ramp's windowed spectrum, (M / 2 + 1)."""
        if name not in FILTERS:
            raise OptionError("filter", name, f"give one of {', '.join(FILTERS)}")
        if (name, device) not in self._filters:
            arrays = fbp_weights(self.geometry), ramp_spectrum(self._fbp_geometry, name)
            weights, response = (torch.from_numpy(a).to(self.dtype).to(device) for a in arrays)
            self._filters[name, device] = weights, response
        return self._filters[name, device]


_Function = Callable[[Tensor], Tensor]


class _LinearMap(torch.autograd.Function):
    """A linear map whose derivative is its adjoint, and the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: _Function, adjoint: _Function) -> Tensor:
        ctx.forward_map, ctx.adjoint_map = forward, adjoint
        return forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _LinearMap.apply(gradient, ctx.adjoint_map, ctx.forward_map), None, None
