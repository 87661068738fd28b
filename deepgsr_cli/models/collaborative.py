"""Collaborative filtering: groups of similar patches, matched pixel by pixel, made sparse together.

The first step of BM3D, with groups of fixed size. The reference patches are 8 x 8 pixels, every fourth pixel
along both axes; a group is a reference and the 15 patches nearest to it in a search window. Its three-dimen-
sional transform (DCT of the patches, Haar along the group) is thresholded, and the patches go back to where
they came from, weighted by how sparse their group became.

Two engines compute the same: compiled loops for tensors on the CPU, tensor operations for all others.

Source:
    Dabov, Foi, Katkovnik, Egiazarian, Image denoising by sparse 3-D transform-domain collaborative filtering,
    IEEE Transactions on Image Processing 16(8), 2007, section III.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.compute.kernels import compiled, in_threads

PATCH = 8
STRIDE = 4
MEMBERS = 16
# Coefficients below this many standard deviations of the noise are set to zero (the paper's lambda_3D).
THRESHOLD = 2.7

# Side, in references, of the blocks that the compiled loops work on: what these hold then fits into a core's
# cache. Fixed, so that sums do not depend on the number of threads.
_BLOCK = 24
# Blocks whose sums are held before they are added up, for each thread: so many that none waits long for the
# last.
_BLOCKS_A_THREAD = 4
# References whose groups, and distances, that the tensor engine holds at once.
_MAX_GROUPS = 2**14
_MAX_DISTANCES = 2**27

Array = np.ndarray


def collaborative_filter(x: Tensor, sigma: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Estimates of images from their own repetitions, and how much noise is left in these.

    No gradient passes.

    Args:
        x: Noisy images, (B, C, H, W); any H and W. C is 1 or 3; colours are filtered as mean and differences,
            with the mean's matches.
        sigma: Standard deviation of the noise on the scale of x, (B,) or (1,).
        radius: Distance along each axis, in pixels, up to which matches are sought; 2 to 100.

    Returns:
        Estimates of the clean images, (B, C, H, W), and for the mean and the differences the share of the
        noise's variance that is left, (B, C, H, W), roughly: the share of coefficients that were kept.
    """
    estimates, shares = filtered_and_share(x, sigma, radius).split(x.shape[1], dim=1)
    return estimates, shares


def filtered_and_share(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """What `collaborative_filter` returns, as channels of one tensor, (B, 2C, H, W)."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return _filtered(x.float(), THRESHOLD * sigma.float(), radius).to(x.dtype)


def filter_margin(radius: int) -> int:
    """Distance in pixels beyond which nothing counts for an estimate: twice that of a match, as a multiple of
    the stride, so that references in a part of an image are where they are in the whole."""
    return STRIDE * math.ceil(2 * (radius + PATCH) / STRIDE)


def _filtered(x: Tensor, thresholds: Tensor, radius: int) -> Tensor:
    batch, channels, height, width = x.shape
    # Orthonormal transform of the channels, the mean first.
    mixing = _mixing(channels, x.device)
    maps = torch.einsum("cd,bdhw->bchw", mixing, x) if channels > 1 else x
    for dim, size in ((-2, height), (-1, width)):
        references = max(0, math.ceil((size - PATCH) / STRIDE)) + 1
        maps = _mirrored(maps, dim, radius, radius + (references - 1) * STRIDE + PATCH - size)
    thresholds = thresholds.expand(batch)
    if x.device.type == "cpu":
        pairs = zip(maps, thresholds.tolist())
        images = [_compiled_engine(image, radius, threshold) for image, threshold in pairs]
        sums = torch.stack(images) if batch > 1 else images[0][None]
    else:
        # As many images at once as the differences of a row of displacements have room for.
        most = max(1, _MAX_DISTANCES // ((2 * radius + 1) * maps.shape[-2] * maps.shape[-1]))
        parts = zip(maps.split(most), thresholds.split(most))
        sums = torch.cat([_tensor_engine(images, radius, levels) for images, levels in parts])
    del maps  # sums are more than all else
    sums = sums[..., radius : radius + height, radius : radius + width]
    estimates, weights, count = sums.split((channels, channels, 1), dim=1)
    estimates.div_(weights)
    if channels > 1:
        for rows in estimates.split(64, dim=-2):
            rows.copy_(torch.einsum("cd,bchw->bdhw", mixing, rows))
    torch.div(count, weights, out=weights).div_(MEMBERS * PATCH**2)
    return sums[:, : 2 * channels]


def _dct(size: int) -> Array:
    """Orthonormal DCT-II, (size, size), a row a frequency."""
    k, n = np.arange(size)[:, None], np.arange(size)
    dct: Array = math.sqrt(2 / size) * np.cos(math.pi * k * (2 * n + 1) / (2 * size))
    dct[0] = math.sqrt(1 / size)
    return dct


@functools.cache
def _mixing(channels: int, device: torch.device) -> Tensor:
    """`_dct` of the channels on a device; to copy it there at every call would make the host wait."""
    return torch.from_numpy(_dct(channels)).float().to(device)


@functools.cache
def _transforms(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of a patch the DCT, (64, 64), of a group's members the Haar transform, (16, 16), and the window, (64,),
    on a device."""
    arrays = np.kron(_dct(PATCH), _dct(PATCH)), _haar_matrix(), np.outer(_window(), _window()).ravel()
    dct, haar, window = (torch.from_numpy(array).float().to(device) for array in arrays)
    return dct, haar, window


def _mirrored(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """x continued along a dimension by reflection that repeats the edge, as far as one likes."""
    size = x.shape[dim]
    if max(before, after) <= size:
        first, last = x.narrow(dim, 0, before), x.narrow(dim, size - after, after)
        return torch.cat((first.flip(dim), x, last.flip(dim)), dim)
    index = torch.arange(-before, size + after, device=x.device) % (2 * size)
    return x.index_select(dim, torch.minimum(index, 2 * size - 1 - index))


def _window() -> Array:
    """Kaiser window along a side of a patch, (8,), beta 2, as in the paper."""
    return np.kaiser(PATCH, 2.0).astype(np.float32)


def _tensor_engine(maps: Tensor, radius: int, thresholds: Tensor) -> Tensor:
    """Sums of weighted estimates, (B, C, H, W), and, by the window, of weights, (B, C, H, W), and of patches,
    (B, 1, H, W): together (B, 2C + 1, H, W).

    Args:
        maps: (B, C, H, W), continued by the radius on all sides, the first of which is matched.
        radius: Radius of the search, in pixels.
        thresholds: Thresholds of the coefficients, (B,).
    """
    batch, channels, height, width = maps.shape
    # Images are filtered as one long map, in which no group leaves its image.
    corners = _matches(maps[:, 0], radius).flatten(1, 2)  # (B, N, 16)
    images = torch.arange(batch, device=maps.device)[:, None, None]
    levels = thresholds[:, None].expand(-1, corners.shape[1]).flatten()
    corners = (corners + images * (height * width)).flatten(0, 1)  # (B * N, 16)
    pixels = torch.arange(PATCH, device=maps.device)
    pixels = (pixels[:, None] * width + pixels).flatten()  # (64,)
    dct, haar, window = _transforms(maps.device)
    flat_maps = maps.transpose(0, 1).flatten(1)
    sums = maps.new_zeros(2 * channels + 1, flat_maps.shape[1])
    for corner, level in zip(corners.split(_MAX_GROUPS), levels.split(_MAX_GROUPS)):
        places = corner[..., None] + pixels  # (n, 16, 64)
        for c, flat in enumerate(flat_maps):
            coefficients = haar @ flat[places] @ dct.mT
            keep = coefficients.abs() >= level[:, None, None]
            keep[:, 0, 0] = True
            weights = 1 / keep.sum((1, 2), dtype=maps.dtype)[:, None]  # (n, 1)
            groups = haar.mT @ (coefficients * keep) @ dct * window * weights[..., None]
            sums[c].index_add_(0, places.flatten(), groups.flatten())
            sums[channels + c].index_add_(0, corner.flatten(), weights.expand_as(corner).flatten())
        sums[-1].index_add_(0, corner.flatten(), torch.ones_like(corner, dtype=maps.dtype).flatten())
    sums = sums.view(2 * channels + 1, batch, height, width).transpose(0, 1)
    # Every patch has the same window, so that weights are added at its corner only and spread here.
    spread = sums[:, channels:]
    for dim in (-2, -1):
        corners, spread = spread, torch.zeros_like(spread)
        size = corners.shape[dim]
        for i, share in enumerate(_window().tolist()):
            spread.narrow(dim, i, size - i).add_(corners.narrow(dim, 0, size - i), alpha=share)
    return torch.cat((sums[:, :channels], spread), dim=1)


def _haar_matrix() -> Array:
    """Orthonormal Haar transform of the members, (16, 16), the mean first."""
    haar = np.ones((1, 1))
    while len(haar) < MEMBERS:
        haar = np.concatenate((np.kron(haar, [1, 1]), np.kron(np.eye(len(haar)), [1, -1]))) / math.sqrt(2)
    return haar


def _matches(maps: Tensor, radius: int) -> Tensor:
    """Place of the upper left pixel of each group's members in the flattened map, (B, rows, columns, 16)."""
    width, side = maps.shape[2], 2 * radius + 1
    inner = maps[:, radius:-radius, radius:-radius]
    rows, columns = ((size - PATCH) // STRIDE + 1 for size in inner.shape[1:])
    offsets = torch.arange(side, device=maps.device)
    best = maps.new_empty(len(maps), rows, columns, 0)
    places = best.long()
    together = max(1, _MAX_DISTANCES // (side * best.shape[:3].numel()))
    for first in range(0, side, together):
        rows_down = range(first, min(first + together, side))
        distances = torch.cat([_distances(inner, maps[:, dy:]) for dy in rows_down], dim=1)
        if radius in rows_down:
            distances[:, (radius - first) * side + radius] = -1  # the reference itself comes first
        moves = (offsets[first : rows_down.stop, None] * width + offsets).flatten()
        kept = best.shape[-1]
        candidates = torch.cat((best, distances.permute(0, 2, 3, 1)), dim=-1)
        best, chosen = candidates.topk(MEMBERS, largest=False)
        found = moves[(chosen - kept).clamp(min=0)]
        if kept:
            found = torch.where(chosen < kept, places.gather(-1, chosen.clamp(max=kept - 1)), found)
        places = found
    own = torch.arange(rows, device=maps.device)[:, None] * width + torch.arange(columns, device=maps.device)
    return places + STRIDE * own[..., None]


def _distances(inner: Tensor, below: Tensor) -> Tensor:
    """Mean squared differences of all references from the patches of one row of displacements.

    Args:
        inner: Maps without the margin of the search, (B, H, W).
        below: Maps from the row's displacement on, (B, H + more, W + 2 * radius).

    Returns:
        (B, 2 * radius + 1, rows, columns).
    """
    height, width = inner.shape[1:]
    moved = below[:, :height].unfold(2, width, 1).transpose(1, 2)
    cells = F.avg_pool2d((inner[:, None] - moved).square_(), STRIDE)  # patches are 2 x 2 of them
    halves = cells[..., :-1, :] + cells[..., 1:, :]
    return halves[..., :-1] + halves[..., 1:]


def _compiled_engine(maps: Tensor, radius: int, threshold: float) -> Tensor:
    """What `_tensor_engine` returns of one image, (2C + 1, H, W)."""
    pixels = np.ascontiguousarray(maps.numpy())
    channels, height, width = pixels.shape
    ranges = []
    for size in (height, width):
        count = (size - 2 * radius - PATCH) // STRIDE + 1
        stops = [min(first + _BLOCK, count) for first in range(0, count, _BLOCK)]
        ends = [(stop - 1) * STRIDE + PATCH + 2 * radius for stop in stops]
        ranges.append([slice(STRIDE * _BLOCK * i, end) for i, end in enumerate(ends)])
    blocks = list(itertools.product(*ranges))
    # From near to far: good matches are near, and once they are found few others have to be put in order.
    displacements = np.indices((2 * radius + 1, 2 * radius + 1)).reshape(2, -1).T - radius
    displacements = displacements[np.argsort((displacements**2).sum(1), kind="stable")]
    window = _window()
    sums = np.zeros((2 * channels + 1, height, width), np.float32)
    # Blocks overlap, so they are added one after another, in the same order for any number of threads.
    together = _BLOCKS_A_THREAD * torch.get_num_threads()
    for start in range(0, len(blocks), together):
        held = blocks[start : start + together]
        parts: list[Array] = [np.empty(0)] * len(held)

        def work(
            first: int, last: int, held: list[tuple[slice, ...]] = held, parts: list[Array] = parts
        ) -> None:
            for i in range(first, last):
                rows, columns = held[i]
                part = pixels[:, rows, columns].copy()
                parts[i] = np.zeros((2 * channels + 1, *part.shape[1:]), np.float32)
                flat = (x.reshape(len(x), -1) for x in (part, parts[i]))
                _filter(part[0], *flat, displacements, np.float32(threshold), window)
                _spread(parts[i][channels:], window)

        in_threads(work, len(held))
        for (rows, columns), part in zip(held, parts):
            sums[:, rows, columns] += part
    return torch.from_numpy(sums)


# Groups are kept as (8, 16 * 8): a row of the patches, and in it member by member; or with columns for rows.
# Inner loops then run over neighbouring numbers, and indices are unsigned, which spares numba the test for
# negative ones: without either they are many times slower.
_U = np.uintp
# Of the DCT: cosines of k pi / 16, halved. Of the Haar transform: the root of a half, and a half.
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(math.cos(k * math.pi / 16) / 2) for k in range(1, 8))
_ROOT, _HALF = np.float32(math.sqrt(0.5)), np.float32(0.5)


@compiled
def _filter(
    pixels: Array, maps: Array, sums: Array, displacements: Array, threshold: float, window: Array
) -> None:
    """Add all groups of maps, (C, H * W), continued by the radius, to sums, (2C + 1, H * W).

    Arrays are flat before they come here, as to have them flattened here takes a second of compiling.

    Args:
        pixels: The first map, (H, W), which is matched.
        maps: The maps.
        sums: Sums of what `_tensor_engine` returns, with weights and patches at the upper left corner of
            a patch, as all patches have the same window; `_spread` spreads them.
        displacements: Displacements of the candidates, (D, 2), the reference itself first, a corner last.
        threshold: Threshold of the coefficients.
        window: Window along a side of a patch, (8,).
    """
    height, width = pixels.shape
    channels, radius = len(maps), abs(displacements[-1, 0])
    rows, cells = (height - 2 * radius) // 4, (width - 2 * radius) // 4
    halves = np.empty((2, len(displacements), cells), np.float32)
    members = np.empty((cells - 1, 16), np.int64)
    corners = np.empty(16, np.uintp)
    lines, other = np.empty((8, 128), np.float32), np.empty((8, 128), np.float32)
    counts = sums[2 * channels]
    for row in range(rows):
        # A distance is the sum over the upper and the lower half of a patch; neighbours share halves.
        upper, lower = halves[(row + 1) & 1], halves[row & 1]
        _half_distances(pixels, 4 * row + radius, radius, displacements, lower)
        if row == 0:
            continue
        _nearest(upper, lower, members)
        for column in range(cells - 1):
            first = (4 * (row - 1) + radius) * width + 4 * column + radius
            for k in range(_U(16)):
                member = members[column, k]
                corners[k] = first + displacements[member, 0] * width + displacements[member, 1]
                counts[corners[k]] += 1
            for c in range(channels):
                _gather(maps[c], corners, _U(width), lines)
                _dct_of(lines, other)
                _swap(other, lines)
                _dct_of(lines, other)
                _haar(other)
                weight = np.float32(1 / _threshold(other, threshold))
                _inverse_haar(other)
                _windowed_inverse(other, window, lines)
                _swap(lines, other)
                _windowed_inverse(other, window, lines)
                _scatter(lines, corners, _U(width), weight, sums[c])
                weights = sums[channels + c]
                for k in range(_U(16)):
                    weights[corners[k]] += weight


@compiled
def _half_distances(pixels: Array, top: int, radius: int, displacements: Array, out: Array) -> None:
    """Squared differences over cells of 4 x 4 pixels, (displacements, cells), of the cells at a row."""
    cells = _U(out.shape[1])
    columns = np.empty(4 * out.shape[1], np.float32)
    first, start = _U(top), _U(radius)
    for i in range(_U(len(displacements))):
        row, left = _U(top + displacements[i, 0]), _U(radius + displacements[i, 1])
        for x in range(_U(4) * cells):
            a = pixels[first, start + x] - pixels[row, left + x]
            b = pixels[first + _U(1), start + x] - pixels[row + _U(1), left + x]
            c = pixels[first + _U(2), start + x] - pixels[row + _U(2), left + x]
            d = pixels[first + _U(3), start + x] - pixels[row + _U(3), left + x]
            columns[x] = a * a + b * b + c * c + d * d
        for j in range(cells):
            k = _U(4) * j
            out[i, j] = columns[k] + columns[k + _U(1)] + columns[k + _U(2)] + columns[k + _U(3)]


@compiled
def _nearest(upper: Array, lower: Array, members: Array) -> None:
    """Numbers of the displacements to the nearest patches, (columns, 16), in order."""
    columns = _U(len(members))
    candidates, farthest = np.empty(len(members), np.float32), np.empty(len(members), np.int32)
    distances = candidates.view(np.int32)  # bits of positive numbers are in the order of the numbers
    keys, spare = np.empty(members.shape, np.int64), np.empty(16, np.int64)
    farthest[:], keys[:] = 2**31 - 1, (2**31 - 1) << 16
    for i in range(_U(len(upper))):
        for j in range(columns):
            candidates[j] = upper[i, j] + upper[i, j + _U(1)] + lower[i, j] + lower[i, j + _U(1)]
        # Most displacements are near enough for no reference, which is seen of all of them together.
        nearer = np.int32(0)
        for j in range(columns):
            nearer |= np.int32(distances[j] < farthest[j])
        if nearer == 0:
            continue
        for j in range(columns):
            if distances[j] < farthest[j]:
                # Each place in the order takes the larger of its left neighbour and the new key, unless its
                # own is less: no branch for the processor to guess.
                key = np.int64(distances[j]) << 16 | np.int64(i)
                spare[0] = min(keys[j, 0], key)
                for k in range(_U(15)):
                    spare[k + _U(1)] = min(max(keys[j, k], key), keys[j, k + _U(1)])
                for k in range(_U(16)):
                    keys[j, k] = spare[k]
                farthest[j] = spare[15] >> 16
    for j in range(columns):
        for k in range(_U(16)):
            members[j, k] = keys[j, k] & 0xFFFF


@compiled
def _gather(pixels: Array, corners: Array, width: int, lines: Array) -> None:
    """Rows of a group, (8, 128), from a map, (H * W)."""
    for k in range(_U(16)):
        place = corners[k]
        for y in range(_U(8)):
            for x in range(_U(8)):
                lines[y, _U(8) * k + x] = pixels[place + x]
            place += width


@compiled
def _scatter(lines: Array, corners: Array, width: int, weight: float, sums: Array) -> None:
    """Add rows of a group, (8, 128), to a map, (H * W)."""
    for k in range(_U(16)):
        place = corners[k]
        for y in range(_U(8)):
            for x in range(_U(8)):
                sums[place + x] += weight * lines[y, _U(8) * k + x]
            place += width


@compiled
def _swap(lines: Array, out: Array) -> None:
    """From rows to columns of the patches, or back."""
    for x in range(_U(8)):
        for k in range(_U(0), _U(128), _U(8)):
            for y in range(_U(8)):
                out[x, k + y] = lines[y, k + x]


@compiled
def _dct_of(lines: Array, out: Array) -> None:
    """DCT of the columns of lines, (8, 128), by even and odd frequencies."""
    for i in range(_U(128)):
        a, b, c, d = lines[0, i], lines[1, i], lines[2, i], lines[3, i]
        e, f, g, h = lines[4, i], lines[5, i], lines[6, i], lines[7, i]
        p, q, r, s = a + h, b + g, c + f, d + e
        t, u, v, w = a - h, b - g, c - f, d - e
        out[0, i] = _C4 * ((p + s) + (q + r))
        out[4, i] = _C4 * ((p + s) - (q + r))
        out[2, i] = _C2 * (p - s) + _C6 * (q - r)
        out[6, i] = _C6 * (p - s) - _C2 * (q - r)
        out[1, i] = _C1 * t + _C3 * u + (_C5 * v + _C7 * w)
        out[3, i] = _C3 * t - _C7 * u - (_C1 * v + _C5 * w)
        out[5, i] = _C5 * t - _C1 * u + (_C7 * v + _C3 * w)
        out[7, i] = _C7 * t - _C5 * u + (_C3 * v - _C1 * w)


@compiled
def _windowed_inverse(lines: Array, window: Array, out: Array) -> None:
    """Inverse of `_dct_of`, times a symmetric window, (8,)."""
    # Read once: where an array is read beside one that is written, nothing is computed several at a time.
    first, second, third, fourth = window[0], window[1], window[2], window[3]
    for i in range(_U(128)):
        a, b, c, d = lines[0, i], lines[1, i], lines[2, i], lines[3, i]
        e, f, g, h = lines[4, i], lines[5, i], lines[6, i], lines[7, i]
        m, n = _C4 * (a + e), _C4 * (a - e)
        k, j = _C2 * c + _C6 * g, _C6 * c - _C2 * g
        p, q, r, s = first * (m + k), second * (n + j), third * (n - j), fourth * (m - k)
        t = first * (_C1 * b + _C3 * d + (_C5 * f + _C7 * h))
        u = second * (_C3 * b - _C7 * d - (_C1 * f + _C5 * h))
        v = third * (_C5 * b - _C1 * d + (_C7 * f + _C3 * h))
        w = fourth * (_C7 * b - _C5 * d + (_C3 * f - _C1 * h))
        out[0, i], out[7, i] = p + t, p - t
        out[1, i], out[6, i] = q + u, q - u
        out[2, i], out[5, i] = r + v, r - v
        out[3, i], out[4, i] = s + w, s - w


@compiled
def _haar(lines: Array) -> None:
    """Haar transform along the members, in place: two levels of each four members, then of the four means.

    All at once, as one loop over neighbouring numbers: by parts it takes seven times as long.
    """
    for y in range(_U(8)):
        for x in range(_U(8)):
            i, j, k, m = x, x + _U(32), x + _U(64), x + _U(96)
            a, b, c, d = lines[y, i], lines[y, i + _U(8)], lines[y, i + _U(16)], lines[y, i + _U(24)]
            e, f, g, h = lines[y, j], lines[y, j + _U(8)], lines[y, j + _U(16)], lines[y, j + _U(24)]
            p, q, r, s = lines[y, k], lines[y, k + _U(8)], lines[y, k + _U(16)], lines[y, k + _U(24)]
            t, u, v, w = lines[y, m], lines[y, m + _U(8)], lines[y, m + _U(16)], lines[y, m + _U(24)]
            lines[y, i + _U(8)] = _HALF * (a + b - c - d)
            lines[y, j + _U(8)] = _HALF * (e + f - g - h)
            lines[y, k + _U(8)] = _HALF * (p + q - r - s)
            lines[y, m + _U(8)] = _HALF * (t + u - v - w)
            lines[y, i + _U(16)], lines[y, i + _U(24)] = _ROOT * (a - b), _ROOT * (c - d)
            lines[y, j + _U(16)], lines[y, j + _U(24)] = _ROOT * (e - f), _ROOT * (g - h)
            lines[y, k + _U(16)], lines[y, k + _U(24)] = _ROOT * (p - q), _ROOT * (r - s)
            lines[y, m + _U(16)], lines[y, m + _U(24)] = _ROOT * (t - u), _ROOT * (v - w)
            a, e = _HALF * (a + b + c + d), _HALF * (e + f + g + h)
            p, t = _HALF * (p + q + r + s), _HALF * (t + u + v + w)
            lines[y, i], lines[y, j] = _HALF * (a + e + p + t), _HALF * (a + e - p - t)
            lines[y, k], lines[y, m] = _ROOT * (a - e), _ROOT * (p - t)


@compiled
def _inverse_haar(lines: Array) -> None:
    """Inverse of `_haar`, in place."""
    for y in range(_U(8)):
        for x in range(_U(8)):
            i, j, k, m = x, x + _U(32), x + _U(64), x + _U(96)
            p, q = _HALF * lines[y, i], _HALF * lines[y, j]
            t, u = _ROOT * lines[y, k], _ROOT * lines[y, m]
            # Means of each four members, halved.
            a, b, c, d = p + q + t, p + q - t, p - q + u, p - q - u
            a, b, c, d = _HALF * a, _HALF * b, _HALF * c, _HALF * d
            e, f = _HALF * lines[y, i + _U(8)], _HALF * lines[y, j + _U(8)]
            g, h = _HALF * lines[y, k + _U(8)], _HALF * lines[y, m + _U(8)]
            p, q = _ROOT * lines[y, i + _U(16)], _ROOT * lines[y, i + _U(24)]
            r, s = _ROOT * lines[y, j + _U(16)], _ROOT * lines[y, j + _U(24)]
            t, u = _ROOT * lines[y, k + _U(16)], _ROOT * lines[y, k + _U(24)]
            v, w = _ROOT * lines[y, m + _U(16)], _ROOT * lines[y, m + _U(24)]
            lines[y, i], lines[y, i + _U(8)] = a + e + p, a + e - p
            lines[y, i + _U(16)], lines[y, i + _U(24)] = a - e + q, a - e - q
            lines[y, j], lines[y, j + _U(8)] = b + f + r, b + f - r
            lines[y, j + _U(16)], lines[y, j + _U(24)] = b - f + s, b - f - s
            lines[y, k], lines[y, k + _U(8)] = c + g + t, c + g - t
            lines[y, k + _U(16)], lines[y, k + _U(24)] = c - g + u, c - g - u
            lines[y, m], lines[y, m + _U(8)] = d + h + v, d + h - v
            lines[y, m + _U(16)], lines[y, m + _U(24)] = d - h + w, d - h - w


@compiled
def _threshold(coefficients: Array, threshold: float) -> int:
    """Set the small coefficients, (8, 128), to zero, the first excepted; how many are left."""
    first = coefficients[0, 0]
    coefficients[0, 0] = np.inf
    kept = 0
    for y in range(_U(8)):
        for i in range(_U(128)):
            keep = abs(coefficients[y, i]) >= threshold
            kept += keep
            coefficients[y, i] = coefficients[y, i] if keep else np.float32(0)
    coefficients[0, 0] = first
    return kept


@compiled
def _spread(maps: Array, window: Array) -> None:
    """Spread what lies at the corners of patches in maps, (N, H, W), over the patches by their window."""
    count, height, width = maps.shape
    a, b, c, d = window[0], window[1], window[2], window[3]
    # The seven pixels before an edge are none of a patch's.
    line, lines = np.zeros(width + 7, np.float32), np.zeros((height + 7, width), np.float32)
    for n in range(count):
        for y in range(_U(height)):
            for x in range(_U(width)):
                line[x + _U(7)] = maps[n, y, x]
            for x in range(_U(width)):
                outer = a * (line[x] + line[x + _U(7)]) + b * (line[x + _U(1)] + line[x + _U(6)])
                inner = c * (line[x + _U(2)] + line[x + _U(5)]) + d * (line[x + _U(3)] + line[x + _U(4)])
                lines[y + _U(7), x] = outer + inner
        for y in range(_U(height)):
            for x in range(_U(width)):
                outer = a * (lines[y, x] + lines[y + _U(7), x])
                outer += b * (lines[y + _U(1), x] + lines[y + _U(6), x])
                inner = c * (lines[y + _U(2), x] + lines[y + _U(5), x])
                maps[n, y, x] = outer + inner + d * (lines[y + _U(3), x] + lines[y + _U(4), x])
