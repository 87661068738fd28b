"""Large images through a model in bounded memory: tiles, and how they are blended."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.levels import to_floats, to_levels
from deepgsr_cli.compute.memory import is_out_of_memory
from deepgsr_cli.compute.precision import AskedPrecision, Precision, autocast, settled
from deepgsr_cli.compute.transfers import Transfers, transfers_of
from deepgsr_cli.errors import OptionError, UserError

_RAMP_PX = 32
# What a row of tiles may take on the CPU, where large tiles have no merit but their few overlaps; what it and
# the picture in floats may take together; and what the row may take beside a large picture. Of 2048 x 2048
# pixels, tiles of 768 compute 1.27 times as many, those of 512 1.56, and those of 1152, for which a process
# takes 240 MB more, 1.13. In colour, pictures of 4, 12 and 24 megapixels get tiles of 768, 640 and 512, and
# their process takes 650 MB.
_ROW_BYTES, _CPU_BYTES, _LEAST_CPU_BYTES = 2**28, 39 * 10**7, 5 * 2**25
# Tiles on the CPU are tried in steps of this.
_SIDE_STEP_PX = 32


@dataclass(frozen=True)
class TileNeeds:
    """What a model needs of tiles for the result not to depend on them.

    Attributes:
        grid: Period, in pixels, of the model's dependence on position: tiles start on multiples of it.
        halo: Distance from a tile's inner edge, in pixels, over which the output suffers from the cut.
    """

    grid: int
    halo: int


@dataclass(frozen=True)
class Preparation:
    """Work on rows of tiles before they are cut, whose margins would be dear where tiles overlap.

    Attributes:
        function: Maps part of a row, (1, C, h, w) on the CPU, to what tiles get beside it, (1, C", h, w).
        margin: Distance, in pixels, beyond which no pixel counts for a result; parts start on multiples of
            the model's grid less this.
        channels: What tiles get beside their own, C".
    """

    function: Callable[[Tensor], Tensor]
    margin: int
    channels: int


@dataclass(frozen=True)
class Tiles:
    """How an image is cut.

    Attributes:
        side: Most pixels along a side of a tile; 0 for the whole image at once.
        overlap: Fewest pixels that neighbouring tiles share; `default_overlap(needs)` is a good value.
        needs: What the model needs of tiles.
        batch: Most tiles at once.
        prepare: What makes further channels of tiles, which the model gets behind those of the image.
    """

    side: int
    overlap: int
    needs: TileNeeds
    batch: int = 1
    prepare: Preparation | None = None


@dataclass(frozen=True)
class Span:
    """Pixels start to stop - 1 of one axis, as one tile sees them, and their share in the result.

    Attributes:
        start: First pixel.
        stop: One past the last pixel.
        weights: Shares in [0, 1], (stop - start,), float32.
    """

    start: int
    stop: int
    weights: Tensor


def default_overlap(needs: TileNeeds) -> int:
    """Pixels that neighbouring tiles share unless the user says otherwise: both halos and a ramp."""
    return _ceil(2 * needs.halo + _RAMP_PX, needs.grid)


def blend_spans(length: int, tile: int, overlap: int, halo: int, grid: int) -> list[Span]:
    """Spans that cover an axis, with weights that sum to one at every pixel.

    Inside, a weight is zero on the halo of a tile's end, rises linearly over the rest of the overlap, and is
    one in between. At the axis' own ends it is one.

    Every span starts on a multiple of `grid`, and the last one stops at the end of the axis instead of
    reaching past it. A model that pads its input to its grid therefore adds to the last tile what it adds
    to the whole image, and works on the same grid in both. The spans are evened out: all have the same
    length (so that they batch) but the last, which is longer than the overlap and no longer than the others.

    Args:
        length: Pixels of the axis, at least 1.
        tile: Most pixels of a span. A span that is not the only one has a multiple of `grid`.
        overlap: Fewest pixels that neighbouring spans share; rounded up to a multiple of `grid`.
        halo: Pixels at an inner end whose weight is zero.
        grid: Period of the model.

    Raises:
        OptionError: The overlap is below two halos, or leaves the tile no room to advance.
    """
    if length <= tile:
        return [Span(0, length, torch.ones(length, dtype=torch.float32))]
    if overlap < 2 * halo:
        raise OptionError(
            "overlap",
            overlap,
            f"is below the {2 * halo} px that tiles of this model must share; "
            f"give --overlap {2 * halo} or more",
        )
    overlap = _ceil(overlap, grid)
    if tile < overlap + grid:
        raise OptionError(
            "tile",
            tile,
            f"is too small beside an overlap of {overlap} px on a grid of {grid} px; "
            f"give --tile {2 * overlap + grid} or more, or --tile 0 for the whole image",
        )
    step = _even_step(length, tile, overlap, grid)
    # Within the step, a rise ends before the same tile's fall starts: at most two tiles share a pixel.
    ramp = min(overlap - 2 * halo, step)
    lead = (overlap - ramp) // 2
    # Half a pixel off, so that a ramp of 0 px divides to -inf and inf: a step.
    rise = ((torch.arange(overlap, dtype=torch.float32) - lead + 0.5) / ramp).clamp(0, 1)
    spans = []
    for start in range(0, length - overlap, step):
        stop = min(start + step + overlap, length)
        weights = torch.ones(stop - start, dtype=torch.float32)
        if start > 0:
            weights[:overlap] *= rise
        if stop < length:
            weights[step:] *= 1 - rise
        spans.append(Span(start, stop, weights))
    return spans


def _even_step(length: int, tile: int, overlap: int, grid: int) -> int:
    """Distance of the evened out spans of an axis that is longer than a tile."""
    step = tile // grid * grid - overlap
    count = math.ceil((length - overlap) / step)
    return _ceil(math.ceil((length - overlap) / count), grid)


@torch.no_grad()
def apply_tiled(
    function: Callable[[Tensor], Tensor],
    image: Tensor,
    tiles: Tiles,
    *,
    device: torch.device | str,
    precision: AskedPrecision = "fp32",
    out: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> Tensor:
    """Image restored tile by tile, `out` or (C', s H, s W) float32 on the CPU; s is the function's scale.

    Only a batch of tiles is on the device; on CUDA the next one is on its way there meanwhile. Tile rows are
    worked from top to bottom, and beside `image` and `out` only what two of them share is in memory, and if
    `out` is the image, what is finished of one of them, of its type. When memory runs out, the batch and then
    the tile is halved, and work goes on below the rows already done.

    Args:
        function: Maps tiles (B, C, h, w), float32 on `device`, to (B, C', s h, s w), each tile by itself; s
            is a whole number, 1 for all that does not enlarge. On CUDA it should not wait for a result.
        image: (C, H, W), float32 on the CPU, or uint8 or uint16, whose largest number stands for 1; may be
            memory-mapped.
        tiles: How the image is cut.
        device: Device that `function` runs on.
        precision: Arithmetic that `function` computes in. In half precision, a batch with a non-finite
            result is done again in float32.
        out: Array that takes the result, (C', s H, s W), of a type of `image`, rounded where that has whole
            numbers; may be `image` itself, which saves its memory, and is then partly overwritten if an error
            is raised.
        progress: Called with the finished and the total number of pixels of the image; the finished ones are
            fewer again when memory ran out within a row of tiles.
        notify: Called with a sentence when, for the first time, memory ran out or half precision overflowed.

    Raises:
        OptionError: Tile and overlap do not go together.
        UserError: Memory does not suffice for the smallest tile, or the model gives non-finite values in
            float32 where its input is finite.
    """
    device = torch.device(device)
    height, width = image.shape[-2:]
    overlap, needs, batch = tiles.overlap, tiles.needs, tiles.batch
    whole = _ceil(max(height, width), needs.grid)
    tile = min(tiles.side, whole) or whole
    evaluate = _Evaluation(function, device, settled(precision, device), notify, transfers_of(device))
    cut, blended = _Cut(image, tiles.prepare), _Blended(image, out)
    retreated = False
    while (start := blended.finished) < height:
        # The rows left are divided anew each time: after a retreat, what is finished stays finished.
        rows = blend_spans(height - start, tile, overlap, needs.halo, needs.grid)
        columns = blend_spans(width, tile, overlap, needs.halo, needs.grid)
        following = start + rows[1].start if len(rows) > 1 else height

        def advance(finished: int, start: int = start, following: int = following) -> None:
            if progress is not None:
                progress(start * width + (following - start) * finished, height * width)

        done = False
        try:
            cut.begin(start, start + rows[0].stop, columns, 2 * tile)
            blended.begin(rows[0].weights, following)
            _restore_row(evaluate, cut, columns, batch, blended, advance)
            done = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not done:  # outside of `except`, whose traceback holds on to the memory
            retreated = True
            batch, tile = _retreat(min(batch, len(columns)), tile, overlap, needs, device)
            continue
        if retreated and notify is not None:
            notify(
                f"memory of {device} ran out; going on with --tile {tile} --batch {batch}, "
                "which is also what to give next time"
            )
            notify = None
        blended.end()
    assert blended.out is not None
    return blended.out


def choose_tile(
    height: int,
    width: int,
    channels: int,
    *,
    free_bytes: int,
    bytes_per_pixel: float,
    needs: TileNeeds,
    device_type: str,
) -> tuple[int, int]:
    """Tile (0: the whole image) and batch for `apply_tiled` that use up to a third of the free memory.

    On the CPU, tiles are not batched; the tile is the one with the fewest pixels on overlaps of those that
    take no more than 256 MiB, or 160 MiB beside a large picture, or the smallest that is worth while.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        channels: Channels of the image.
        free_bytes: Memory that is free on the device.
        bytes_per_pixel: What the model takes at its peak for each pixel of a tile, beside input and output.
        needs: What the model needs of tiles.
        device_type: "cpu" or another.
    """
    pixel_bytes = bytes_per_pixel + 2 * channels * 4
    longest, overlap = _ceil(max(height, width), needs.grid), default_overlap(needs)
    smallest = _smallest_tile(overlap, needs)
    if device_type == "cpu":
        beside = max(_CPU_BYTES - 4 * channels * height * width, _LEAST_CPU_BYTES)
        most = min(free_bytes // 3, _ROW_BYTES, beside)

        def fits(side: int) -> bool:
            # Held is what is finished of a row, as floats at most, and what it shares with two others.
            tile_bytes = pixel_bytes * min(side, height) * min(side, width)
            return tile_bytes + 4 * channels * (min(side, height) + 2 * overlap) * width <= most

        def work(side: int) -> int:
            return math.prod(_computed(length, side, overlap, needs.grid) for length in (height, width))

        if fits(longest):
            return 0, 1
        step = _ceil(_SIDE_STEP_PX, needs.grid)
        sides = filter(fits, range(_ceil(smallest, needs.grid), longest, step))
        return min(sides, key=work, default=smallest), 1
    pixels = int(free_bytes / 3 / pixel_bytes)
    if _ceil(height, needs.grid) * _ceil(width, needs.grid) <= pixels:
        return 0, 1
    tile = max(min(math.isqrt(pixels), longest) // needs.grid * needs.grid, smallest)
    return tile, max(1, pixels // (min(tile, height) * min(tile, width)))


def _computed(length: int, tile: int, overlap: int, grid: int) -> int:
    """Pixels that all spans of an axis have together."""
    if length <= tile:
        return length
    return length + overlap * (math.ceil((length - overlap) / _even_step(length, tile, overlap, grid)) - 1)


@dataclass
class _Evaluation:
    """The function on its device, in its precision, with finite results."""

    function: Callable[[Tensor], Tensor]
    device: torch.device
    precision: Precision
    notify: Callable[[str], None] | None
    transfers: Transfers

    def __call__(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the results, (B, C', s h, s w), of batches of tiles, (B, C, h, w), all float32 on the CPU."""
        begun: deque[Callable[[], Tensor]] = deque()
        for tiles in batches:
            begun.append(self._begin(tiles))
            del tiles  # which have had their time when the next ones are cut
            if len(begun) > self.transfers.ahead:
                yield begun.popleft()()
        while begun:
            yield begun.popleft()()

    def _begin(self, tiles: Tensor) -> Callable[[], Tensor]:
        """Start to restore tiles; return what waits for the result."""
        restored = self._run(self.transfers.send(tiles), self.precision)
        fetched = self.transfers.fetch(restored, restored.isfinite().all())
        return lambda: self._finite(tiles, *fetched())

    def _finite(self, tiles: Tensor, restored: Tensor, finite: Tensor) -> Tensor:
        """A result, or where it is not finite though its tiles are, that of float32."""
        if finite or not tiles.isfinite().all():
            return restored
        if self.precision != "fp32":
            restored = self._run(tiles.to(self.device), "fp32").cpu()
            if self.notify is not None:
                self.notify(
                    f"--precision {self.precision} overflowed; such tiles are done again in fp32, "
                    "which --precision fp32 does at once"
                )
                self.notify = None
        if unfit := int((~restored.isfinite()).sum()):
            raise UserError(
                f"the model gave {unfit} non-finite values of {restored.numel()} for a finite input; "
                "check the weights with 'deepgsr weights verify' and the range of the input"
            )
        return restored

    def _run(self, tiles: Tensor, precision: Precision) -> Tensor:
        with autocast(self.device, precision):
            return self.function(tiles).float()


class _Cut:
    """Tiles that are cut from one row of them after another, from left to right, with what is prepared of as
    much of a row as they need.

    Args:
        image: Image, (C, H, W).
        prepare: What makes further channels.
    """

    def __init__(self, image: Tensor, prepare: Preparation | None) -> None:
        self._image, self._prepare = image, prepare
        # What is prepared; it stays in its place, as in `_Blended`.
        self._maps = torch.empty(0, 0, 0, dtype=torch.float32)

    def begin(self, start: int, stop: int, columns: list[Span], together: int) -> None:
        """Begin a row of tiles.

        Args:
            start: Its first row of pixels.
            stop: One past its last row.
            columns: Where its tiles lie.
            together: Columns that are prepared at once.
        """
        self._row = self._image[:, start:stop]
        if self._prepare is None:
            return
        self._first = self._end = end = 0  # columns of the row that `_maps` begins and ends with
        # Columns up to which more is prepared, by the first column of the tile that needs it.
        self._ends: dict[int, int] = {}
        for span in columns:
            if span.stop > end:
                self._ends[span.start] = end = min(columns[-1].stop, max(span.stop, end + together))
        width = max(end - start for start, end in self._ends.items())
        if self._maps.shape[1] < stop - start or self._maps.shape[2] < width:
            self._maps = torch.empty(self._prepare.channels, stop - start, width, dtype=torch.float32)

    def tiles(self, spans: list[Span]) -> Tensor:
        """Cut tiles of equal width, (B, C, h, w) float32, with prepared channels behind their own."""
        tiles = [self._tile(span) for span in spans]
        if self._prepare is not None and len(tiles) == 1:
            return tiles[0][None]  # is no part of the image
        return torch.stack(tiles)

    def _tile(self, span: Span) -> Tensor:
        pixels = self._pixels(span.start, span.stop)
        if self._prepare is None:
            return pixels
        if span.stop > self._end:
            self._extend(self._prepare, span.start)
        return torch.cat((pixels, self._prepared(span.start, span.stop)))

    def _extend(self, prepare: Preparation, start: int) -> None:
        """Prepare more of a row for the tile that starts there, which drops what lies to its left."""
        shared = self._prepared(start, self._end).clone()
        before, self._first, self._end = self._end, start, self._ends[start]
        self._prepared(start, before).copy_(shared)
        left = max(0, before - prepare.margin)
        maps = prepare.function(self._pixels(left, self._end + prepare.margin)[None])[0]
        self._prepared(before, self._end).copy_(maps[..., before - left : self._end - left])

    def _prepared(self, start: int, stop: int) -> Tensor:
        return self._maps[:, : self._row.shape[1], start - self._first : stop - self._first]

    def _pixels(self, start: int, stop: int) -> Tensor:
        part = self._row[..., start:stop]
        return part if part.dtype == torch.float32 else torch.from_numpy(to_floats(part.numpy()))


class _Blended:
    """The image that comes of tiles, in one row of them after another, from left to right.

    A pixel goes to `out` once no tile has a share in it any more. What tiles share is in memory as sums of
    float32: the columns that a tile has in the next one, and the rows of pixels that a row of tiles has in
    the next one. If `out` is the image, what is finished of a row is in memory, too, until all of it is: the
    pixels as they were are needed if memory runs out, and by what is prepared to the right of them. All that
    lasts longer than a tile has its place before the first one, if `out` is there, and keeps it: else what a
    tile takes would fit in fewer and fewer of the gaps between.

    Args:
        image: Image that tiles are cut from, (C, H, W).
        out: Array that takes the result, (C', s H, s W); None to make one.

    Attributes:
        out: Array that takes the result; None before the first tile.
        finished: Rows of the image whose result is in `out`.
    """

    def __init__(self, image: Tensor, out: Tensor | None) -> None:
        self.out, self.finished = out, 0
        self._height, self._width = image.shape[-2:]
        self._apart = out is None or not np.may_share_memory(image.numpy(), out.numpy())
        # What the rows of tiles above have left of each row's weight.
        self._room = torch.ones(self._height, dtype=torch.float32)
        none = torch.empty(0, 0, 0, dtype=torch.float32)
        self._held, self._sums = none, [none, none]  # where the following lie
        # What is finished of the row, its share in the next row, and that of the row above in this one.
        self._rows = self._below = self._above = none  # each (C', s h, s W)

    def begin(self, weights: Tensor, following: int) -> None:
        """Begin a row of tiles, or begin it anew.

        Args:
            weights: Weights of its rows of pixels, (h,), from `finished` on.
            following: First row of pixels of the next row of tiles.
        """
        self._share = weights * self._room[self.finished : self.finished + len(weights)]
        self._following = following
        self._left: Tensor | None = None  # share of the last tile in the next one, (C', s h, s w)
        if self.out is not None:
            self._make_room(self.out)

    def _make_room(self, out: Tensor) -> None:
        """Make room for what comes of the row of tiles that has begun."""
        scale = out.shape[-1] // self._width
        # No tile below this row has a share in these rows, or needs them of an image.
        self._target = self._rows = out[:, scale * self.finished : scale * self._following]
        if not self._apart:
            if self._held.shape[1] < self._target.shape[1]:
                self._held = self._target  # what was there is freed first
                self._held = torch.empty_like(self._target)
            self._rows = self._held[:, : self._target.shape[1]]
        # The last rows, those of the halo, have no weight.
        below = scale * len(np.trim_zeros(self._share[self._following - self.finished :].numpy(), "b"))
        if self._sums[1].shape[1] < below:
            self._sums = [*torch.empty(2, len(out), below, out.shape[-1], dtype=torch.float32)]
        self._below = self._sums[1][:, :below]

    def add(self, pixels: Tensor, columns: Span, until: int) -> None:
        """Add the next tile of the row.

        Args:
            pixels: Its result, (C', s h, s w), float32.
            columns: Where it lies.
            until: First column of the tile after it, or the width.
        """
        height, width = len(self._share), columns.stop - columns.start
        scale = pixels.shape[-2] // height
        assert pixels.shape[-2:] == (scale * height, scale * width)
        if self.out is None:
            self.out = pixels.new_empty(len(pixels), scale * self._height, scale * self._width)
            self._make_room(self.out)
        weights = columns.weights.repeat_interleave(scale)
        sums = pixels * weights
        if self._left is not None:
            shared = self._left.shape[-1]
            torch.addcmul(self._left, pixels[..., :shared], weights[:shared], out=sums[..., :shared])
        done = scale * (until - columns.start)
        self._left = sums[..., done:].clone()
        sums = sums[..., :done].mul_(self._share.repeat_interleave(scale)[:, None])
        place = slice(scale * columns.start, scale * until)
        if above := self._above.shape[1]:
            sums[:, :above] += self._above[..., place]
        end, below = self._rows.shape[1], self._below.shape[1]
        _store(sums[:, :end], self._rows[..., place])
        if below:
            self._below[..., place] = sums[:, end : end + below]

    def end(self) -> None:
        """End a row of tiles, all of which are added."""
        if not self._apart:
            self._target.copy_(self._rows)
        self._room[self.finished : self.finished + len(self._share)] -= self._share
        self._above, self.finished = self._below, self._following
        self._sums.reverse()


def _store(pixels: Tensor, out: Tensor) -> None:
    """Write pixels, (C, h, w) float32, into an array of their size, which may be of whole numbers."""
    if out.dtype == torch.float32:
        out.copy_(pixels)
    else:
        to_levels(pixels.numpy(), out.numpy())


def _restore_row(
    evaluate: _Evaluation,
    cut: _Cut,
    columns: list[Span],
    batch: int,
    blended: _Blended,
    advance: Callable[[int], None],
) -> None:
    """Restore one row of tiles, and add them."""
    done, ends = 0, [*(span.start for span in columns[1:]), columns[-1].stop]
    batches = list(_batches(columns, batch))
    for spans, restored in zip(batches, evaluate(map(cut.tiles, batches)), strict=True):
        for span, pixels in zip(spans, restored, strict=True):
            blended.add(pixels, span, ends[done])
            done += 1
        advance(ends[done - 1])


def _batches(spans: list[Span], batch: int) -> Iterator[list[Span]]:
    """Successive spans of equal length, at most `batch` at a time."""
    for _, group in itertools.groupby(spans, key=lambda span: span.stop - span.start):
        equal = list(group)
        for first in range(0, len(equal), batch):
            yield equal[first : first + batch]


def _smallest_tile(overlap: int, needs: TileNeeds) -> int:
    """Side of a tile below which more than three quarters of the work would be on shared pixels."""
    return 2 * max(_ceil(overlap, needs.grid), needs.grid)


def _retreat(batch: int, tile: int, overlap: int, needs: TileNeeds, device: torch.device) -> tuple[int, int]:
    """Batch and tile to try after memory ran out with these.

    Raises:
        UserError: There is no smaller tile.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if batch > 1:
        return batch // 2, tile
    smallest = _smallest_tile(overlap, needs)
    if tile <= smallest:
        remedy = "free memory" if device.type == "cpu" else "free memory or give --device cpu"
        raise UserError(
            f"memory of {device} does not suffice for a tile of {tile} px, and {smallest} px is the least "
            f"with --overlap {overlap}; {remedy}"
        )
    return 1, max(tile // 2 // needs.grid * needs.grid, smallest)


def _ceil(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple
