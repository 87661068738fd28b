"""Folders of pictures as data for training and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from deepgsr_cli.errors import InputError
from deepgsr_cli.images import SUFFIXES, read_image
from deepgsr_cli.metrics import gray


def picture_paths(folder: Path) -> list[Path]:
    """All pictures below a folder, in the order of their paths; hidden files and folders left out.

    Raises:
        InputError: No such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise InputError(f"{folder}: no pictures; looked for {', '.join(sorted(SUFFIXES))}")
    return paths


def read_channels(path: Path, channels: int) -> np.ndarray:
    """Picture with that many channels, (C, H, W), float32 in [0, 1].

    Colour becomes luma, rounded to 8 bits where the file has 8, as the gray versions of the common test sets
    were made; gray is repeated.
    """
    image = read_image(path)
    pixels = image.pixels
    if channels == 1 and len(pixels) == 3:
        pixels = gray(pixels)
        if image.depth == "uint8":
            pixels = np.rint(pixels * 255) / np.float32(255)
    elif channels == 3 and len(pixels) == 1:
        pixels = np.repeat(pixels, 3, axis=0)
    return pixels


def fingerprint(paths: list[Path]) -> str:
    """First 12 hexadecimal digits of the SHA-256 over the files' contents, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def read_pictures(paths: Sequence[Path], channels: int, size: int) -> list[np.ndarray]:
    """Pictures to take crops from, (C, H, W), uint8.

    Raises:
        InputError: A file cannot be read, or is smaller than a crop of `size` pixels.
    """
    pictures = []
    for path in paths:
        pixels = read_channels(path, channels)
        if min(pixels.shape[1:]) < size:
            raise InputError(
                f"{path}: {pixels.shape[2]} x {pixels.shape[1]} pixels are less than a crop of {size}; "
                "leave the file out or give a smaller --patch"
            )
        pictures.append(np.rint(pixels * 255).clip(0, 255).astype(np.uint8))
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
            planes = [
                PIL.Image.fromarray(plane).resize((width, height), PIL.Image.Resampling.LANCZOS)
                for plane in picture
            ]
            copies.append(np.stack([np.asarray(plane) for plane in planes]))
    return copies


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

    Args:
        pictures: (C, H, W), uint8, each at least as large as a crop.
        size: Side of a crop in pixels.
        device: Where the pictures are kept and the crops are made.
    """

    def __init__(self, pictures: Sequence[np.ndarray], size: int, device: torch.device) -> None:
        self.size = size
        self.pictures = [torch.from_numpy(picture).to(device) for picture in pictures]
        areas = torch.tensor([p.shape[1] * p.shape[2] for p in self.pictures], dtype=torch.float64)
        self.shares = areas / areas.sum()

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """Crops, (batch, C, size, size), float32 in [0, 1]; every pixel of the set is as likely, in any of
        eight orientations.

        Args:
            batch: Number of crops.
            generator: On the CPU.
        """
        chosen = torch.multinomial(self.shares, batch, replacement=True, generator=generator)
        draws = torch.rand(batch, 3, generator=generator)
        crops = []
        for picture, (u, v, w) in zip((self.pictures[i] for i in chosen), draws.tolist()):
            top = int(u * (picture.shape[1] - self.size + 1))
            left = int(v * (picture.shape[2] - self.size + 1))
            crop = picture[:, top : top + self.size, left : left + self.size]
            turn = int(w * 8)
            crop = crop.mT if turn & 1 else crop
            crops.append(crop.flip([d for d, bit in ((1, 2), (2, 4)) if turn & bit]))
        return torch.stack(crops).float() / 255
