"""Forward operators of the measurements, their adjoints, and filtered backprojection.

`Radon` is X-ray projection of a slice by Joseph's method: ray-driven, linear interpolation, no scatter, no
beam hardening. Three engines compute the same sums:

* "numba", compiled on first use: matrix-free, deterministic whatever the number of threads, CPU only.
* "csr", a sparse matrix: for training, where the time to build it pays and a batch costs little more than one
  image.
* "torch", plain tensor operations: any device.

"auto" is numba for tensors on the CPU and torch for all others.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.errors import DeviceError, ShapeError, UserError
from deepgsr_cli.geometry import KINDS, Geometry, Rays
from deepgsr_cli.kernels import compiled, in_threads

ENGINES = ("auto", "numba", "csr", "torch")
FILTERS = ("ram-lak", "shepp-logan", "cosine", "hann")

WATER_ATTENUATION = 0.0192  # 1/mm at 70 keV, the value of the metal artifact literature

# A pair of matrices, forward and transposed, may take this much: 512 x 512 pixels by 120 views.
MAX_MATRIX_BYTES = 2**30
# Samples the torch engine holds at once, over the batch.
_MAX_SAMPLES = 2**21
# Rays the kernels walk side by side: few enough that they leave the slice together.
_BLOCK = 32

Array = np.ndarray
Values = TypeVar("Values", Array, Tensor)


def hu_to_attenuation(hu: Values) -> Values:
    """Attenuation in 1/mm of CT numbers in HU, any shape; nothing is clipped."""
    return (1 + hu / 1000) * WATER_ATTENUATION


def attenuation_to_hu(attenuation: Values) -> Values:
    """CT numbers in HU of attenuation in 1/mm, any shape: the inverse of `hu_to_attenuation`."""
    return (attenuation / WATER_ATTENUATION - 1) * 1000


class Radon:
    """X-ray projection of a slice, `A(x)`, its exact adjoint, and filtered backprojection.

    All three are differentiable, with the exact adjoint as the derivative. Tensors must have the operator's
    dtype. What an engine prepares is made on first use, for each device, and kept.

    Args:
        geometry: Where the rays run.
        engine: One of `ENGINES`; see the module.
        dtype: float32 or float64.

    Raises:
        UserError: An unknown engine or dtype, or a matrix of more than `MAX_MATRIX_BYTES`.
    """

    def __init__(
        self, geometry: Geometry, *, engine: str = "auto", dtype: torch.dtype = torch.float32
    ) -> None:
        if engine not in ENGINES:
            raise UserError(f"engine is {engine!r}; give one of {', '.join(ENGINES)}")
        if dtype not in (torch.float32, torch.float64):
            raise UserError(f"dtype is {dtype}; give torch.float32 or torch.float64")
        self.geometry, self.engine, self.dtype = geometry, engine, dtype
        self.domain_shape = geometry.shape
        self.range_shape = (geometry.num_views, geometry.num_bins)
        tables = zip(("rows", "columns"), geometry.rays())
        self._rays = {name: rays for name, rays in tables if len(rays.index)}
        self._maps: dict[tuple[str, torch.device], _Map] = {}
        self._filters: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}
        self._norm: float | None = None
        if engine == "csr":
            _check_matrix_bytes([self._samples(name) for name in self._rays], dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Sinogram, (B, 1, V, N), dimensionless, of attenuation in 1/mm, (B, 1, H, W).

        Raises:
            ShapeError: Another shape or dtype.
            DeviceError: The engine does not run where x is.
        """
        self._check("image", x, self.domain_shape)
        return _LinearMap.apply(x, self._project, self._project_adjoint)

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
        after Parker. Pixel-driven, linear in the detector; rays that miss the detector count as zero.

        Args:
            y: Sinogram, (B, 1, V, N).
            filter: One of `FILTERS`: the window on the ramp, from the sharpest to the smoothest.

        Returns:
            Attenuation in 1/mm, (B, 1, H, W).

        Raises:
            ShapeError: Another shape or dtype.
            DeviceError: The engine does not run where y is.
            UserError: An unknown filter, or a fan over less than half a turn and the fan's angle.

        Source:
            Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, ch. 3.
        """
        self._check("sinogram", y, self.range_shape)
        weights, response = self._filter(filter, y.device)
        padded = 2 * (len(response) - 1)
        spectrum = torch.fft.rfft(y * weights, n=padded) * response
        filtered = torch.fft.irfft(spectrum, n=padded)[..., : self.range_shape[1]]
        return _LinearMap.apply(filtered, self._smear, self._smear_adjoint)

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

    def _project(self, x: Tensor) -> Tensor:
        y = x.new_empty(len(x), math.prod(self.range_shape))
        for name, rays in self._rays.items():
            lines = x[:, 0] if name == "rows" else x[:, 0].mT
            y[:, torch.from_numpy(rays.index).to(x.device)] = self._map(name, x.device).forward(lines)
        return y.view(len(x), 1, *self.range_shape)

    def _project_adjoint(self, y: Tensor) -> Tensor:
        x, y = y.new_zeros(len(y), *self.domain_shape), y.flatten(1)
        for name, rays in self._rays.items():
            values = y[:, torch.from_numpy(rays.index).to(y.device)]
            lines = self._map(name, y.device).adjoint(values)
            x += lines if name == "rows" else lines.mT
        return x[:, None]

    def _smear(self, y: Tensor) -> Tensor:
        x = self._map("pixels", y.device).forward(y[:, 0])
        return x.view(len(y), 1, *self.domain_shape)

    def _smear_adjoint(self, x: Tensor) -> Tensor:
        return self._map("pixels", x.device).adjoint(x.flatten(1))[:, None]

    def _map(self, name: str, device: torch.device) -> _Map:
        """One of the maps "rows", "columns" (of rays) and "pixels" (of backprojection), made on first use."""
        if (name, device) not in self._maps:
            self._maps[name, device] = self._make_map(name, device)
        return self._maps[name, device]

    def _make_map(self, name: str, device: torch.device) -> _Map:
        samples = self._samples(name)
        if self.engine == "numba" or (self.engine == "auto" and device.type == "cpu"):
            return _WalkKernel(samples) if isinstance(samples, _RaySamples) else _SmearKernel(samples)
        interpolation = _Interpolation(samples, device, self.dtype)
        if self.engine != "csr":
            return interpolation
        _check_matrix_bytes([samples], self.dtype)
        return _SparseMatrix(interpolation)

    def _samples(self, name: str) -> _RaySamples | _PixelSamples:
        height, width = self.domain_shape
        if name == "pixels":
            return _PixelSamples(self.geometry)
        return _RaySamples(self._rays[name], *((height, width) if name == "rows" else (width, height)))

    def _filter(self, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Weights, (V, N), before the ramp, and the ramp's windowed spectrum, (M / 2 + 1)."""
        if name not in FILTERS:
            raise UserError(f"filter is {name!r}; give one of {', '.join(FILTERS)}")
        if (name, device) not in self._filters:
            arrays = _fbp_weights(self.geometry), _ramp_spectrum(self.geometry, name)
            weights, response = (torch.from_numpy(a).to(self.dtype).to(device) for a in arrays)
            self._filters[name, device] = weights, response
        return self._filters[name, device]


_Function = Callable[[Tensor], Tensor]


class _Map(Protocol):
    """A map from lines, (B, L, K), to targets, (B, T), and its transpose."""

    def forward(self, lines: Tensor) -> Tensor: ...

    def adjoint(self, values: Tensor) -> Tensor: ...


class _LinearMap(torch.autograd.Function):
    """A linear map whose derivative is its adjoint, and the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: _Function, adjoint: _Function) -> Tensor:
        ctx.forward_map, ctx.adjoint_map = forward, adjoint
        return forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _LinearMap.apply(gradient, ctx.adjoint_map, ctx.forward_map), None, None


class _RaySamples:
    """Where rays, the targets, meet the lines of pixels they cross."""

    def __init__(self, rays: Rays, num_lines: int, length: int) -> None:
        self.rays, self.num_lines, self.length = rays, num_lines, length
        self.num_targets = len(rays.index)
        # A ray meets lines first to last - 1 within a pixel of their ends; with slope 0 all or none.
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = (np.array([[-1.0], [length]]) - rays.start) / rays.slope
        self.first = np.clip(np.floor(np.fmin(*ends)), 0, num_lines).astype(np.int64)
        self.last = np.clip(np.ceil(np.fmax(*ends)) + 1, self.first, num_lines).astype(np.int64)

    @property
    def num_samples(self) -> int:
        """Samples within the slice."""
        return int((self.last - self.first).sum())

    def locate(self, part: slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions, (L, T), on the lines and weights, (1, T), of some of the targets."""
        dtype, table = _finest(device), (self.rays.start, self.rays.slope, self.rays.step_mm)
        start, slope, step_mm = (torch.from_numpy(a[part]).to(dtype).to(device) for a in table)
        line = torch.arange(self.num_lines, device=device, dtype=dtype)[:, None]
        return start + slope * line, step_mm[None]


class _PixelSamples:
    """Where the rays through the pixels' centres, the targets, meet the detector in each view, a line.

    The weight is that of fan-beam backprojection: the squared ratio of the source's distances from the
    isocentre and from the pixel, the latter along the central ray if the detector is flat.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.num_lines, self.length = geometry.num_views, geometry.num_bins
        self.num_targets = math.prod(geometry.shape)
        self.num_samples = self.num_lines * self.num_targets

    def locate(self, part: slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions, (V, T), on the views and weights, (V, T), of some of the targets."""
        g, dtype = self.geometry, _finest(device)
        (height, width), (spacing_y, spacing_x) = g.shape, g.pixel_mm
        pixel = torch.arange(self.num_targets, device=device)[part]
        x = (pixel % width - (width - 1) / 2).to(dtype) * spacing_x
        y = ((height - 1) / 2 - pixel // width).to(dtype) * spacing_y
        theta = torch.tensor(g.angles_rad, dtype=torch.float64)[:, None]
        cos, sin = theta.cos().to(dtype).to(device), theta.sin().to(dtype).to(device)
        across, along = x * cos + y * sin, y * cos - x * sin
        if g.kind == "parallel":
            return across / g.bin_mm + g.centre_bin, torch.ones_like(across)
        distance = g.source_mm + along
        position, weight = across / distance, (g.source_mm / distance) ** 2
        if g.kind == "fan-arc":
            position, weight = position.atan(), weight / (1 + position**2)
        return position * ((g.source_mm + g.detector_mm) / g.bin_mm) + g.centre_bin, weight


def _finest(device: torch.device) -> torch.dtype:
    """The finest dtype of the device, for positions: float32 leaves 3e-5 of a pixel."""
    return torch.float32 if device.type == "mps" else torch.float64


class _Interpolation:
    """Map that sums, for each target, all lines' values at a position of the line, with weights.

    Linear interpolation; beyond its ends a line falls to zero within one sample.
    """

    def __init__(
        self, samples: _RaySamples | _PixelSamples, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.samples, self.device, self.dtype = samples, device, dtype
        # Zeros around the lines take the samples beyond their ends: one before, two after.
        self.padded_length = samples.length + 3

    def forward(self, lines: Tensor) -> Tensor:
        """Sums, (B, T), over lines (B, L, K)."""
        padded = F.pad(lines, (1, 2)).flatten(1)
        sums = lines.new_empty(len(lines), self.samples.num_targets)
        for part, position, weight in self.parts(len(lines)):
            index, fraction = self.taps(position)
            values = torch.lerp(padded[:, index], padded[:, index + 1], fraction)  # (B, L, t)
            sums[:, part] = (values * weight).sum(1)
        return sums

    def adjoint(self, values: Tensor) -> Tensor:
        """Lines, (B, L, K), onto which the values of the targets, (B, T), are spread."""
        padded = values.new_zeros(len(values), self.samples.num_lines * self.padded_length)
        for part, position, weight in self.parts(len(values)):
            index, fraction = self.taps(position)
            weighted = values[:, None, part] * weight  # (B, L, t)
            upper = weighted * fraction
            padded.index_add_(1, index.flatten(), (weighted - upper).flatten(1))
            padded.index_add_(1, index.flatten() + 1, upper.flatten(1))
        return padded.unflatten(1, (-1, self.padded_length))[..., 1:-2]

    def parts(self, batch: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some targets at a time: their range, positions, (L, t), and weights, (L, t) or (1, t)."""
        count = max(1, _MAX_SAMPLES // (batch * self.samples.num_lines))
        for first in range(0, self.samples.num_targets, count):
            part = slice(first, first + count)
            position, weight = self.samples.locate(part, self.device)
            yield part, position, weight.to(self.dtype)

    def taps(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Indices into the padded, flattened lines and fractions towards the next, (L, t), of positions."""
        position = position.clamp(-1, self.samples.length) + 1
        index = position.long()
        offset = torch.arange(self.samples.num_lines, device=self.device)[:, None] * self.padded_length
        return index + offset, (position - index).to(self.dtype)


class _SparseMatrix:
    """The entries of an interpolation, and of its transpose, as compressed rows with 32-bit indices."""

    def __init__(self, interpolation: _Interpolation) -> None:
        self.padded_length = interpolation.padded_length
        samples = interpolation.samples
        counts, columns, values = [], [], []
        for _, position, weight in interpolation.parts(1):
            # Target by target, in which the columns then ascend.
            inside = ((position > -1) & (position < samples.length)).T
            index, fraction = (a.T[inside] for a in interpolation.taps(position))
            weight = weight.expand_as(position).T[inside]
            counts.append(2 * inside.sum(1))
            columns.append(torch.stack((index, index + 1), dim=-1).flatten().int())
            values.append(torch.stack((weight - fraction * weight, fraction * weight), dim=-1).flatten())
        size = samples.num_targets, samples.num_lines * self.padded_length
        self.matrix = _compressed(torch.cat(counts), torch.cat(columns), torch.cat(values), size)
        self.transpose = _transposed(self.matrix)

    def forward(self, lines: Tensor) -> Tensor:
        """Sums, (B, T), over lines (B, L, K)."""
        return (self.matrix @ F.pad(lines, (1, 2)).flatten(1).T).T

    def adjoint(self, values: Tensor) -> Tensor:
        """Lines, (B, L, K), onto which the values of the targets, (B, T), are spread."""
        return (self.transpose @ values.T).T.unflatten(1, (-1, self.padded_length))[..., 1:-2]


def _compressed(counts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """Matrix whose row i holds the next `counts[i]` of the entries."""
    bounds = F.pad(counts.cumsum(0), (1, 0)).int()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(bounds, columns, values, size, check_invariants=False)


def _transposed(matrix: Tensor) -> Tensor:
    """Transpose of a matrix of compressed rows, in compressed rows."""
    num_rows, num_columns = matrix.shape
    columns, order = matrix.col_indices().sort(stable=True)
    rows = torch.arange(num_rows, dtype=torch.int32, device=matrix.device)
    rows = rows.repeat_interleave(matrix.crow_indices().diff())[order]
    counts = columns.bincount(minlength=num_columns)
    return _compressed(counts, rows, matrix.values()[order], (num_columns, num_rows))


def _check_matrix_bytes(maps: list[_RaySamples | _PixelSamples], dtype: torch.dtype) -> None:
    """Raise unless the matrices of these samples, and their transposes, are within the bound."""
    num_bytes = sum(4 * samples.num_samples for samples in maps) * (4 + dtype.itemsize)
    if num_bytes > MAX_MATRIX_BYTES:
        raise UserError(
            f"engine csr would need {num_bytes / 2**30:.1f} GiB for this geometry, at most"
            f" {MAX_MATRIX_BYTES / 2**30:.0f} GiB are allowed; give engine auto"
        )


class _WalkKernel:
    """Map from lines of pixels to rays, compiled; its transpose runs through the same code."""

    def __init__(self, samples: _RaySamples) -> None:
        self.samples = samples
        starts = np.arange(0, samples.num_targets, _BLOCK)
        self.first = np.minimum.reduceat(samples.first, starts)
        self.last = np.maximum.reduceat(samples.last, starts)

    def forward(self, lines: Tensor) -> Tensor:
        """Sums, (B, T), over lines (B, L, K)."""
        padded = F.pad(lines.double(), (1, 2)).numpy()
        sums = np.zeros((len(lines), self.samples.num_targets))
        self._run(padded, sums, adjoint=False)
        return torch.from_numpy(sums * self.samples.rays.step_mm).to(lines.dtype)

    def adjoint(self, values: Tensor) -> Tensor:
        """Lines, (B, L, K), onto which the values of the targets, (B, T), are spread."""
        padded = np.zeros((len(values), self.samples.num_lines, self.samples.length + 3))
        self._run(padded, values.double().numpy() * self.samples.rays.step_mm, adjoint=True)
        return torch.from_numpy(padded[..., 1:-2]).to(values.dtype)

    def _run(self, padded: Array, values: Array, *, adjoint: bool) -> None:
        walk, rays = compiled(_walk), self.samples.rays

        def work(first: int, last: int) -> None:
            blocks, lines = (0, len(self.first)), (0, self.samples.num_lines)
            # Whatever is summed into belongs to one thread only.
            blocks, lines = (blocks, (first, last)) if adjoint else ((first, last), lines)
            walk(padded, rays.start, rays.slope, self.first, self.last, values, *blocks, *lines, adjoint)

        in_threads(work, self.samples.num_lines if adjoint else len(self.first))


class _SmearKernel:
    """Map from views to pixels, compiled; its transpose runs through the same code."""

    def __init__(self, samples: _PixelSamples) -> None:
        self.geometry = samples.geometry
        theta = np.array(self.geometry.angles_rad)
        self.cos, self.sin = np.cos(theta), np.sin(theta)

    def forward(self, lines: Tensor) -> Tensor:
        """Sums, (B, T), over views (B, V, N)."""
        image = np.zeros((len(lines), *self.geometry.shape))
        self._run(F.pad(lines.double(), (1, 2)).numpy(), image, adjoint=False)
        return torch.from_numpy(image).to(lines.dtype).flatten(1)

    def adjoint(self, values: Tensor) -> Tensor:
        """Views, (B, V, N), onto which the values of the pixels, (B, T), are spread."""
        padded = np.zeros((len(values), self.geometry.num_views, self.geometry.num_bins + 3))
        image = values.double().contiguous().unflatten(1, self.geometry.shape)
        self._run(padded, image.numpy(), adjoint=True)
        return torch.from_numpy(padded[..., 1:-2]).to(values.dtype)

    def _run(self, padded: Array, image: Array, *, adjoint: bool) -> None:
        g = self.geometry
        smear, kind = compiled(_smear), KINDS.index(g.kind)
        bins = (g.source_mm + g.detector_mm or 1.0) / g.bin_mm

        def work(first: int, last: int) -> None:
            views, rows = (0, g.num_views), (0, g.shape[0])
            views, rows = ((first, last), rows) if adjoint else (views, (first, last))
            smear(
                padded, self.cos, self.sin, *g.pixel_mm, kind, g.source_mm, bins, g.centre_bin + 1, image,
                *views, *rows, adjoint,
            )  # fmt: skip

        in_threads(work, g.num_views if adjoint else g.shape[0])


# The kernels index with unsigned numbers, which spares numba the test for negative ones, and calculate in
# float64 whatever the dtype of the tensors.


def _walk(
    lines: Array, start: Array, slope: Array, first: Array, last: Array, values: Array,
    first_block: int, last_block: int, first_line: int, last_line: int, adjoint: bool,
) -> None:  # fmt: skip
    """Add samples of lines, (B, L, K + 3), to the rays' values, (B, R), or spread these onto the lines."""
    top = float(lines.shape[2] - 2)
    for b in range(len(lines)):
        for block in range(first_block, last_block):
            for line in range(max(first[block], first_line), min(last[block], last_line)):
                pixels = lines[b, line]
                for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, len(start))):
                    position = min(max(start[ray] + slope[ray] * line + 1, 0.0), top)
                    whole = np.int32(position)
                    fraction = position - whole
                    k = np.uintp(whole)
                    if adjoint:
                        upper = fraction * values[b, ray]
                        pixels[k] += values[b, ray] - upper
                        pixels[k + np.uintp(1)] += upper
                    else:
                        values[b, ray] += pixels[k] + fraction * (pixels[k + np.uintp(1)] - pixels[k])


def _smear(
    views: Array, cos: Array, sin: Array, spacing_y: float, spacing_x: float, kind: int, source_mm: float,
    bins: float, centre: float, image: Array,
    first_view: int, last_view: int, first_row: int, last_row: int, adjoint: bool,
) -> None:  # fmt: skip
    """Add samples of views, (B, V, N + 3), to an image, (B, H, W), or spread it onto the views."""
    height, width = image.shape[1:]
    top = float(views.shape[2] - 2)
    for b in range(len(views)):
        for view in range(first_view, last_view):
            samples = views[b, view]
            for row in range(first_row, last_row):
                pixels = image[b, row]
                x, y = -(width - 1) / 2 * spacing_x, ((height - 1) / 2 - row) * spacing_y
                across_left = x * cos[view] + y * sin[view]
                distance_left = source_mm + y * cos[view] - x * sin[view]
                across_step, distance_step = spacing_x * cos[view], -spacing_x * sin[view]
                for column in range(width):
                    position, weight = across_left + across_step * column, 1.0
                    if kind > 0:
                        inverse = 1 / (distance_left + distance_step * column)
                        position *= inverse
                        weight = (source_mm * inverse) ** 2
                        if kind > 1:
                            weight /= 1 + position**2
                            position = math.atan(position)
                    position = min(max(position * bins + centre, 0.0), top)
                    whole = np.int32(position)
                    fraction = position - whole
                    k = np.uintp(whole)
                    if adjoint:
                        value = weight * pixels[column]
                        samples[k] += (1 - fraction) * value
                        samples[k + np.uintp(1)] += fraction * value
                    else:
                        value = samples[k] + fraction * (samples[k + np.uintp(1)] - samples[k])
                        pixels[column] += weight * value


def _ramp_spectrum(geometry: Geometry, filter: str) -> Array:
    """Real spectrum, (M / 2 + 1), of the band-limited ramp times the bin width, under the filter's window.

    Source:
        Kak and Slaney, ch. 3, eq. 61 (the ramp in space), 103 (on an arc).
    """
    n = geometry.num_bins
    padded = 2 ** math.ceil(math.log2(2 * n))
    lag = np.minimum(np.arange(padded), padded - np.arange(padded))
    lag[n : padded - n + 1] = 0  # beyond the detector nothing is needed
    if geometry.kind == "fan-arc":
        width = geometry.bin_mm / (geometry.source_mm + geometry.detector_mm)
        distance = np.sin(lag * width)
    else:
        width = geometry.bin_mm / geometry.magnification
        distance = lag * width
    odd = lag % 2 == 1
    ramp = np.zeros(padded)
    ramp[0] = 1 / (4 * width**2)
    ramp[odd] = -1 / (np.pi * distance[odd]) ** 2
    frequency = np.fft.rfftfreq(padded)
    window = {
        "ram-lak": np.ones_like(frequency),
        "shepp-logan": np.sinc(frequency),
        "cosine": np.cos(np.pi * frequency),
        "hann": np.cos(np.pi * frequency) ** 2,
    }[filter]
    return np.fft.rfft(ramp).real * width * window


def _fbp_weights(geometry: Geometry) -> Array:
    """Weights, (V, N), of the sinogram before the ramp: cosine, angle of the view, and share of the ray."""
    if geometry.kind == "parallel":
        angle, _ = _view_angles(geometry.angles_rad, math.pi)
        return np.repeat(angle[:, None], geometry.num_bins, axis=1)
    angle, since_first = _view_angles(geometry.angles_rad, 2 * math.pi)
    fan = geometry.fan_angles_rad()
    # Over a full turn every ray is measured twice.
    share = np.array(0.5) if since_first is None else _parker(since_first, float(angle.sum()), fan)
    arc = geometry.source_mm if geometry.kind == "fan-arc" else 1.0
    return angle[:, None] * share * np.cos(fan) / arc


def _view_angles(angles_rad: tuple[float, ...], period: float) -> tuple[Array, Array | None]:
    """Half the angle, (V,), from each view to both its neighbours, and the angles since the first view, (V,).

    The latter only if the views leave out a range of the period: a gap more than four times as wide as every
    other. The views beside it count as if their missing neighbours were an average gap away.
    """
    angles = np.array(angles_rad) % period
    order = np.argsort(angles)
    gaps = np.diff(angles[order], append=angles[order[0]] + period)
    widest = int(gaps.argmax())
    others = np.delete(gaps, widest)
    since_first = None
    if len(others) and 0 < 4 * others.max() < gaps[widest]:
        gaps[widest] = others.mean()
        since_first = (angles - angles[order[(widest + 1) % len(order)]]) % period
    weights = np.empty_like(gaps)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights, since_first


def _parker(since_first: Array, range_rad: float, fan: Array) -> Array:
    """Weights, (V, N), that share out each ray among the views of a short scan that measure it.

    Args:
        since_first: Angle of each view from the first, (V,).
        range_rad: Angle all views stand for.
        fan: Angle of each bin's ray to the central one, (N,).

    Raises:
        UserError: The range is less than half a turn and the fan.

    Source:
        Parker, Optimal short scan convolution reconstruction for fan beam CT, Medical Physics 9(2), 1982; for
        longer ranges Silver, A method for including redundant data in computed tomography, 27(4), 2000.
    """
    half = (range_rad - math.pi) / 2
    needed = 2 * np.abs(fan).max()
    if 2 * half < needed - 1e-9:
        raise UserError(
            f"the views cover {math.degrees(range_rad):.0f} degrees, but filtered backprojection of this fan"
            f" needs {math.degrees(math.pi + needed):.1f} or more; use an iterative method"
        )
    # A view stands for the angles around it, half of them before the first.
    beta = since_first[:, None] + range_rad / len(since_first) / 2
    rise = beta / np.maximum(half + fan, 1e-9)
    fall = (range_rad - beta) / np.maximum(half - fan, 1e-9)
    return np.sin(np.pi / 4 * np.minimum(np.minimum(rise, fall), 2)) ** 2
