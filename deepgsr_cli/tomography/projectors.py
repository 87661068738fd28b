"""Engines of the Radon transform: interpolation along rays, sparse matrices, compiled loops."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.compute.kernels import compiled, in_threads
from deepgsr_cli.errors import OptionError
from deepgsr_cli.tomography.geometry import KINDS, Geometry, Rays

# A pair of matrices, forward and transposed, may take this much: 512 x 512 pixels by 120 views.
MAX_MATRIX_BYTES = 2**30
# Samples the torch engine holds at once, over the batch.
_MAX_SAMPLES = 2**21
# Rays the kernels walk side by side: few enough that they leave the slice together.
_BLOCK = 32

Array = np.ndarray


class Map(Protocol):
    """A map from lines, (B, L, K), to targets, (B, T), and its transpose."""

    def forward(self, lines: Tensor) -> Tensor: ...

    def adjoint(self, values: Tensor) -> Tensor: ...


class RaySamples:
    """Where rays, the targets, meet the lines of pixels they cross."""

    def __init__(self, rays: Rays, num_lines: int, length: int) -> None:
        self.rays, self.num_lines, self.length = rays, num_lines, length
        self.num_targets = len(rays.index)
        # A ray meets lines first to last - 1 within a pixel of their ends; with slope 0 all or none.
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = (np.array([[-1.0], [length]]) - rays.start) / rays.slope
        self.first = np.clip(np.floor(np.fmin(*ends)), 0, num_lines).astype(np.int64)
        self.last = np.clip(np.ceil(np.fmax(*ends)) + 1, self.first, num_lines).astype(np.int64)
        self._tables: dict[torch.device, list[Tensor]] = {}  # copied once, as a copy makes the host wait

    @property
    def num_samples(self) -> int:
        """Samples within the slice."""
        return int((self.last - self.first).sum())

    def locate(self, part: slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions, (L, T), on the lines and weights, (1, T), of some of the targets."""
        dtype = _finest(device)
        if device not in self._tables:
            arrays = self.rays.start, self.rays.slope, self.rays.step_mm
            self._tables[device] = [torch.from_numpy(array).to(dtype).to(device) for array in arrays]
        start, slope, step_mm = (table[part] for table in self._tables[device])
        line = torch.arange(self.num_lines, device=device, dtype=dtype)[:, None]
        return start + slope * line, step_mm[None]


class PixelSamples:
    """Where the rays through the pixels' centres, the targets, meet the detector in each view, a line.

    The weight is that of fan-beam backprojection: the squared ratio of the source's distances from the
    isocentre and from the pixel, the latter along the central ray if the detector is flat.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.num_lines, self.length = geometry.num_views, geometry.num_bins
        self.num_targets = math.prod(geometry.shape)
        self.num_samples = self.num_lines * self.num_targets
        self._turns: dict[torch.device, list[Tensor]] = {}  # cosines and sines, copied once

    def locate(self, part: slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions, (V, T), on the views and weights, (V, T), of some of the targets."""
        g, dtype = self.geometry, _finest(device)
        (height, width), (spacing_y, spacing_x) = g.shape, g.pixel_mm
        pixel = torch.arange(self.num_targets, device=device)[part]
        x = (pixel % width - (width - 1) / 2).to(dtype) * spacing_x
        y = ((height - 1) / 2 - pixel // width).to(dtype) * spacing_y
        if device not in self._turns:
            theta = torch.tensor(g.angles_rad, dtype=torch.float64)[:, None]
            self._turns[device] = [turn.to(dtype).to(device) for turn in (theta.cos(), theta.sin())]
        cos, sin = self._turns[device]
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


class Interpolation:
    """Map that sums, for each target, all lines' values at a position of the line, with weights.

    Linear interpolation; beyond its ends a line falls to zero within one sample.
    """

    def __init__(self, samples: RaySamples | PixelSamples, device: torch.device, dtype: torch.dtype) -> None:
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


class SparseMatrix:
    """The entries of an interpolation, and of its transpose, as compressed rows with 32-bit indices."""

    def __init__(self, interpolation: Interpolation) -> None:
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


def check_matrix_bytes(maps: list[RaySamples | PixelSamples], dtype: torch.dtype) -> None:
    """Raise unless the matrices of these samples, and their transposes, are within the bound."""
    num_bytes = sum(4 * samples.num_samples for samples in maps) * (4 + dtype.itemsize)
    if num_bytes > MAX_MATRIX_BYTES:
        raise OptionError(
            "engine",
            "csr",
            f"its matrices would need {num_bytes / 2**30:.1f} GiB for this geometry, at most"
            f" {MAX_MATRIX_BYTES / 2**30:.0f} GiB are allowed; give engine auto",
        )


class WalkKernel:
    """Map from lines of pixels to rays, compiled, and its transpose."""

    def __init__(self, samples: RaySamples) -> None:
        self.samples = samples
        starts = np.arange(0, samples.num_targets, _BLOCK)
        self.first = np.minimum.reduceat(samples.first, starts)
        self.last = np.maximum.reduceat(samples.last, starts)

    def forward(self, lines: Tensor, chosen: Array | slice = slice(None)) -> Tensor:
        """Sums, (B, t), over lines (B, L, K), in the arithmetic of their dtype, of chosen rays."""
        walk, samples = compiled(_walk, reordered=True), self.samples
        padded = F.pad(lines, (1, 2)).contiguous().numpy()
        start, slope, step_mm = (
            a[chosen] for a in (samples.rays.start, samples.rays.slope, samples.rays.step_mm)
        )
        # Lines of zeros, as those around metal, add nothing.
        filled = np.flatnonzero(padded.any((0, 2)))
        low, high = (filled[0], filled[-1] + 1) if len(filled) else (0, 0)
        first, last = (ends[chosen].clip(low, high) for ends in (samples.first, samples.last))
        sums = np.empty((len(lines), len(start)), padded.dtype)

        def work(first_ray: int, last_ray: int) -> None:
            walk(padded, start, slope, first, last, sums, first_ray, last_ray)

        in_threads(work, len(start))
        return torch.from_numpy(sums * step_mm.astype(sums.dtype))

    def adjoint(self, values: Tensor) -> Tensor:
        """Lines, (B, L, K), onto which the values of the targets, (B, T), are spread."""
        spread, samples, rays = compiled(_spread), self.samples, self.samples.rays
        padded = np.zeros((len(values), samples.num_lines, samples.length + 3))
        weighted = values.double().numpy() * rays.step_mm

        def work(first: int, last: int) -> None:
            spread(padded, rays.start, rays.slope, self.first, self.last, weighted, first, last)

        in_threads(work, samples.num_lines)
        return torch.from_numpy(padded[..., 1:-2]).to(values.dtype)


class Views(NamedTuple):
    """A geometry as compiled code takes it.

    Attributes:
        kind: Index in `geometry.KINDS`.
        cos: Cosines of the views' angles, (V,), float64.
        sin: Sines of the views' angles, (V,), float64.
        pixel_mm: Height and width of a pixel.
        source_mm: Distance of the source from the isocentre.
        bins: Bins a millimetre of a parallel beam's detector, a unit of slope of a flat one, or a radian.
        centre: Position of the central ray among the bins, one of which is padding before the first.
    """

    kind: int
    cos: Array
    sin: Array
    pixel_mm: tuple[float, float]
    source_mm: float
    bins: float
    centre: float


class SmearKernel:
    """Map from views to pixels, compiled; its transpose runs through the same code."""

    def __init__(self, samples: PixelSamples) -> None:
        g = self.geometry = samples.geometry
        theta = np.array(g.angles_rad)
        bins = (g.source_mm + g.detector_mm or 1.0) / g.bin_mm
        self.views = Views(
            KINDS.index(g.kind), np.cos(theta), np.sin(theta), g.pixel_mm, g.source_mm, bins, g.centre_bin + 1
        )

    def forward(self, lines: Tensor) -> Tensor:
        """Sums, (B, T), over views (B, V, N), in the arithmetic of their dtype."""
        padded = F.pad(lines, (1, 2)).contiguous().numpy()
        image = np.zeros((len(lines), *self.geometry.shape), padded.dtype)
        self._run(padded, image, adjoint=False)
        return torch.from_numpy(image).flatten(1)

    def adjoint(self, values: Tensor) -> Tensor:
        """Views, (B, V, N), onto which the values of the pixels, (B, T), are spread."""
        padded = np.zeros((len(values), self.geometry.num_views, self.geometry.num_bins + 3))
        image = values.double().contiguous().unflatten(1, self.geometry.shape)
        self._run(padded, image.numpy(), adjoint=True)
        return torch.from_numpy(padded[..., 1:-2]).to(values.dtype)

    def _run(self, padded: Array, image: Array, *, adjoint: bool) -> None:
        num_views, height = self.geometry.num_views, self.geometry.shape[0]
        smear = compiled(_smear)

        def work(first: int, last: int) -> None:
            parts = ((first, last), (0, height)) if adjoint else ((0, num_views), (first, last))
            smear(padded, self.views, image, *parts, adjoint)

        in_threads(work, num_views if adjoint else height)


# A loop is computed several numbers at a time only where the compiler knows that what it writes is nothing it
# reads, which it cannot know of two arrays that are indexed by a third. So a loop sums into one number, or
# fills a short array for the next one.


def _walk(
    lines: Array, start: Array, slope: Array, first: Array, last: Array, sums: Array,
    first_ray: int, last_ray: int,
) -> None:  # fmt: skip
    """Sum the samples of lines, (B, L, K + 3), along rays, into sums, (B, R)."""
    padded_length = lines.shape[2]
    scalar, top = lines.dtype.type, float(padded_length - 2)
    for b in range(len(lines)):
        pixels = lines[b].ravel()
        for ray in range(first_ray, last_ray):
            total, ray_start, ray_slope = scalar(0), start[ray] + 1, slope[ray]
            for line in range(first[ray], last[ray]):
                position = min(max(ray_start + ray_slope * line, 0.0), top)
                whole = np.int32(position)
                fraction = scalar(position - whole)
                k = line * padded_length + whole
                total += pixels[k] + fraction * (pixels[k + 1] - pixels[k])
            sums[b, ray] = total


def _spread(
    lines: Array, start: Array, slope: Array, first: Array, last: Array, values: Array,
    first_line: int, last_line: int,
) -> None:  # fmt: skip
    """Spread the values of rays, (B, R), onto lines, (B, L, K + 3); first and last are of blocks of rays."""
    top = float(lines.shape[2] - 2)
    for b in range(len(lines)):
        for block in range(len(first)):
            for line in range(max(first[block], first_line), min(last[block], last_line)):
                pixels = lines[b, line]
                for ray in range(block * _BLOCK, min((block + 1) * _BLOCK, len(start))):
                    position = min(max(start[ray] + slope[ray] * line + 1, 0.0), top)
                    whole = np.int32(position)
                    upper = (position - whole) * values[b, ray]
                    k = np.uintp(whole)
                    pixels[k] += values[b, ray] - upper
                    pixels[k + np.uintp(1)] += upper


def _smear(
    lines: Array,
    views: Views,
    image: Array,
    of_views: tuple[int, int],
    of_rows: tuple[int, int],
    adjoint: bool,
) -> None:
    """Add samples of some views, (B, V, N + 3), to some rows of an image, (B, H, W), or spread these onto
    those."""
    kind, cos, sin, (spacing_y, spacing_x), source_mm, bins, centre = views
    height, width = image.shape[1:]
    top = float(lines.shape[2] - 2)
    # Of a row of pixels: the bin before each, how far it is beyond it, its weight, and what is read there.
    index = np.empty(width, np.int32)
    fraction, read = np.empty(width, lines.dtype), np.empty(width, lines.dtype)
    weight = np.ones(width, lines.dtype)
    for view in range(*of_views):
        for row in range(*of_rows):
            x, y = -(width - 1) / 2 * spacing_x, ((height - 1) / 2 - row) * spacing_y
            across_left = x * cos[view] + y * sin[view]
            distance_left = source_mm + y * cos[view] - x * sin[view]
            across_step, distance_step = spacing_x * cos[view], -spacing_x * sin[view]
            if kind == 0:
                for column in range(width):
                    position = across_left + across_step * column
                    position = min(max(position * bins + centre, 0.0), top)
                    index[column] = np.int32(position)
                    fraction[column] = position - np.int32(position)
            elif kind == 1:
                for column in range(width):
                    inverse = 1 / (distance_left + distance_step * column)
                    position = (across_left + across_step * column) * inverse
                    weight[column] = (source_mm * inverse) ** 2
                    position = min(max(position * bins + centre, 0.0), top)
                    index[column] = np.int32(position)
                    fraction[column] = position - np.int32(position)
            else:
                for column in range(width):
                    inverse = 1 / (distance_left + distance_step * column)
                    position = (across_left + across_step * column) * inverse
                    weight[column] = (source_mm * inverse) ** 2 / (1 + position**2)
                    position = min(max(math.atan(position) * bins + centre, 0.0), top)
                    index[column] = np.int32(position)
                    fraction[column] = position - np.int32(position)
            for b in range(len(lines)):
                samples, pixels = lines[b, view], image[b, row]
                if adjoint:
                    for column in range(width):
                        k, value = np.uintp(index[column]), weight[column] * pixels[column]
                        samples[k] += (1 - fraction[column]) * value
                        samples[k + np.uintp(1)] += fraction[column] * value
                else:
                    for column in range(width):
                        k = np.uintp(index[column])
                        change = fraction[column] * (samples[k + np.uintp(1)] - samples[k])
                        read[column] = weight[column] * (samples[k] + change)
                    for column in range(width):
                        pixels[column] += read[column]
