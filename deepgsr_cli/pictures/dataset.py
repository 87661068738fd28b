"""Folders of pictures as data for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.image import picture_paths, read_channels
from deepgsr_cli.formats.resize import resized


def read_pictures(paths: Sequence[Path], channels: int, size: int) -> list[np.ndarray]:
    """Read pictures to take crops from, (C, H, W), uint8.

    Raises:
        InputError: A file cannot be read, or is smaller than a crop of `size` pixels.
    """
    pictures, small = [], []
    for path in paths:
        pixels = read_channels(path, channels)
        if min(pixels.shape[1:]) < size:
            small.append(f"{path}: {pixels.shape[2]} x {pixels.shape[1]} pixels")
        pictures.append(np.rint(pixels * 255).clip(0, 255).astype(np.uint8))
    if small:
        files = "the file" if len(small) == 1 else f"the file, and {len(small) - 1} more such,"
        raise InputError(
            f"{small[0]} are less than a crop of {size}; leave {files} out or give a smaller --patch"
        )
    return pictures


def smaller_copies(pictures: Sequence[np.ndarray], scales: Sequence[float], size: int) -> list[np.ndarray]:
    """The pictures at each of the scales, antialiased, without those that are then less than a crop.

    Small pictures show more and sharper structure a pixel, as photographs of many megapixels do.

    Args:
        pictures: (C, H, W), uint8.
        scales: Factors below 1.
        size: Side of a crop in pixels.
    """
    copies = []
    for scale in scales:
        for picture in pictures:
            width, height = round(picture.shape[2] * scale), round(picture.shape[1] * scale)
            if min(width, height) < size:
                continue
            copies.append(resized(picture, (height, width), "lanczos"))
    return copies


# Of pictures to train on, the share whose contrast is stretched; the most of their pixels that this makes
# black and white; the least range that is stretched to all, as more would stretch the steps of 8 bits; and
# the share of them that is stretched in each channel by itself.
_STRETCHED, _MOST_BLACK, _MOST_WHITE, _LEAST_RANGE, _BY_CHANNEL = 0.5, 0.5, 0.15, 0.6, 0.25


def with_more_contrast(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures, (B, C, H, W) in [0, 1], a share of them stretched until parts are black, or white, or both.

    So are the shadows and lights of edited and of harshly lit pictures, and single channels of saturated
    colours. Without them a network takes what clipped noise leaves of black for a dark gray.

    Args:
        clean: Pictures.
        generator: Random generator, on the pictures' device.
    """

    def drawn() -> Tensor:
        return torch.rand(len(clean), 1, 1, 1, device=clean.device, generator=generator)

    gray = clean.mean(1, keepdim=True).expand_as(clean)
    ordered = torch.where(drawn() < _BY_CHANNEL, clean, gray).flatten(2).sort(dim=2).values

    def level(share: Tensor) -> Tensor:
        index = (share * (ordered.shape[2] - 1)).long().flatten(2).expand(-1, ordered.shape[1], -1)
        return ordered.gather(2, index)[..., None]

    black = torch.where(drawn() < 0.75, level(_MOST_BLACK * drawn()), 0).clamp(max=1 - _LEAST_RANGE)
    white = torch.where(drawn() < 0.5, level(1 - _MOST_WHITE * drawn()), 1)
    white = torch.maximum(white, black + _LEAST_RANGE)
    stretched = ((clean - black) / (white - black)).clamp(0, 1)
    return torch.where(drawn() < _STRETCHED, stretched, clean)


# Of pictures to train on, the share with black lines, how often each of their sides has one, and its width in
# pixels at most.
_LINED, _LINED_SIDES, _WIDEST_LINE = 0.15, 0.4, 3


def with_black_edges(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures, (B, C, H, W) in [0, 1], a share of them with black lines along their sides, as scans have.

    Without them a network gives such a line the light of what is beside it.

    Args:
        clean: Pictures.
        generator: Random generator, on the pictures' device.
    """

    def drawn(sides: int) -> Tensor:
        return torch.rand(len(clean), sides, 1, 1, device=clean.device, generator=generator)

    rows, columns = (torch.arange(size, device=clean.device) for size in clean.shape[-2:])
    depths = torch.broadcast_tensors(rows[:, None], rows.flip(0)[:, None], columns, columns.flip(0))
    width = (drawn(4) * _WIDEST_LINE).ceil() * (drawn(4) < _LINED_SIDES)
    line = (torch.stack(depths) < width).any(1, keepdim=True) & (drawn(1) < _LINED)
    return clean.masked_fill(line, 0)


def pair_paths(folder: Path, degraded: str) -> list[tuple[Path, Path]]:
    """Degraded and clean picture of each pair in a folder with the sub-folders `degraded` and "clean".

    Partners have the same path below their folders, whatever the suffix.

    Raises:
        InputError: A sub-folder is missing or empty, or a picture has no partner or two.
    """
    first, second = (
        {path.relative_to(folder / name).with_suffix(""): path for path in picture_paths(folder / name)}
        for name in (degraded, "clean")
    )
    if alone := sorted(map(str, first.keys() ^ second.keys())):
        raise InputError(
            f"{folder}: {alone[0]} is not both in {degraded} and in clean ({len(alone)} such pictures); "
            "give each picture its partner under the same name"
        )
    return [(first[key], second[key]) for key in sorted(first)]


class Crops:
    """Random square crops of pictures, a function of the generator alone.

    All pictures lie in one tensor, from which a batch is gathered in one operation on the device.

    Args:
        pictures: (C, H, W), uint8, each at least as large as a crop, all with the same C.
        size: Side of a crop in pixels.
        device: Device where the pictures are kept and the crops are made.
    """

    def __init__(self, pictures: Sequence[np.ndarray], size: int, device: torch.device) -> None:
        self.size = size
        self.device = device
        self.heights, self.widths = torch.tensor([p.shape[1:] for p in pictures]).unbind(1)
        areas = self.heights * self.widths
        self.starts = areas.cumsum(0) - areas
        self.pixels = torch.empty(int(areas.sum()), len(pictures[0]), dtype=torch.uint8, device=device)
        for start, area, picture in zip(self.starts.tolist(), areas.tolist(), pictures):
            self.pixels[start : start + area] = torch.from_numpy(picture).flatten(1).mT.to(device)
        self.shares = areas.double() / areas.sum()

    @property
    def pictures(self) -> list[Tensor]:
        """The pictures, (C, H, W), uint8, on the device."""
        sizes = zip(self.starts.tolist(), self.heights.tolist(), self.widths.tolist())
        return [self.pixels[s : s + h * w].unflatten(0, (h, w)).permute(2, 0, 1) for s, h, w in sizes]

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """Crops, (batch, C, size, size), float32 in [0, 1]; every pixel of the set is as likely, in any of
        eight orientations.

        Args:
            batch: Number of crops.
            generator: Random generator, on the CPU.
        """
        chosen = torch.multinomial(self.shares, batch, replacement=True, generator=generator)
        draws = torch.rand(batch, 3, generator=generator).double()
        rooms = torch.stack((self.heights[chosen], self.widths[chosen]), 1) - self.size + 1
        top, left = (draws[:, :2] * rooms).long().unbind(1)
        turn, width = (draws[:, 2] * 8).long(), self.widths[chosen]
        corner = self.starts[chosen] + top * width + left
        # A crop's first axis goes along the picture's rows or columns, forwards or backwards; so the other.
        turned, last = turn & 1 == 1, self.size - 1
        down, across = torch.where(turned, 1, width), torch.where(turned, width, 1)
        for bit, step in ((2, down), (4, across)):
            backwards = turn & bit != 0
            corner += torch.where(backwards, last * step, 0)
            step[backwards] *= -1
        plan = torch.stack((corner, down, across))
        if self.device.type == "cuda":
            plan = plan.pin_memory().to(self.device, non_blocking=True)
        corner, down, across = plan.to(self.device)[..., None, None].unbind(0)
        line = torch.arange(self.size, device=self.device)
        crops = self.pixels[corner + down * line[:, None] + across * line]  # (batch, size, size, C)
        return crops.permute(0, 3, 1, 2).contiguous().float() / 255
