"""Pictures of repeated structure, generated from real ones, for training.

Photographs show few facades, grids and fabrics, where similar patches abound. Colours and textures are cut
from the real pictures, shape and repetition are drawn. After the dead leaves model (Lee, Mumford, Huang,
"Occlusion models for natural images", 2001), which trains restoration networks well (Achddou, Gousseau,
Ladjal, "Synthetic images as a regularity prior for image restoration neural networks", 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SIDE = 384


def structures(pictures: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Scene of overlapping facades, (C, 384, 384), uint8.

    Args:
        pictures: Real pictures, (C, H, W), uint8, at least 64 x 64, which lend colours and textures.
        generator: Random generator of everything.
    """
    sheet = 2 * SIDE  # drawn twice as large and reduced, which makes edges as soft as a camera's
    channels = len(pictures[0])
    scene = Image.new("RGB" if channels == 3 else "L", (sheet, sheet))
    for i in range(generator.integers(2, 5)):
        facade = _facade(pictures, sheet, generator)
        corners = np.array([(0, 0), (0, sheet), (sheet, sheet), (sheet, 0)], float)
        spread = generator.uniform(0, 0.3) * sheet
        corners += generator.uniform(-spread, spread, (4, 2))
        turned = facade.transform(
            (sheet, sheet), Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BICUBIC
        )
        if i == 0:
            scene = turned
            continue
        mask = Image.new("L", (sheet, sheet))
        centre = generator.uniform(0, sheet, 2)
        angles = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(3, 7)))
        points = centre + generator.uniform(0.2, 0.7) * sheet * np.stack((np.cos(angles), np.sin(angles)), 1)
        ImageDraw.Draw(mask).polygon([tuple(point) for point in points], fill=255)
        scene.paste(turned, mask=mask)
    pixels = np.asarray(scene.reduce(2), np.float32).reshape(SIDE, SIDE, channels).transpose(2, 0, 1)
    return (pixels * _light(generator)).round().clip(0, 255).astype(np.uint8)


def _facade(pictures: Sequence[np.ndarray], side: int, generator: np.random.Generator) -> Image.Image:
    """Repetition of a cell, with shapes drawn into it; the light changes a little from cell to cell."""
    height, width = (int(2 * np.exp(generator.uniform(np.log(5), np.log(60)))) for _ in range(2))
    cell = Image.fromarray(_patch(pictures, height, width, generator))
    draw = ImageDraw.Draw(cell)
    for _ in range(generator.integers(1, 5)):
        x, y = np.sort(generator.integers(0, width, 2)), np.sort(generator.integers(0, height, 2))
        colour = tuple(_patch(pictures, 1, 1, generator).reshape(-1).tolist())
        if generator.random() < 0.7:
            draw.rectangle((x[0], y[0], x[1], y[1]), fill=colour)
        else:
            draw.line((x[0], y[0], x[1], y[1]), fill=colour, width=int(generator.integers(1, 7)))
    samples = np.asarray(cell, np.float32)
    rows, columns = -(-side // height), -(-side // width)
    tiled = np.tile(samples, (rows, columns, *[1] * (samples.ndim - 2)))[:side, :side]
    light: np.ndarray = generator.normal(1, generator.uniform(0, 0.1), (rows, columns))
    light = light.repeat(height, 0).repeat(width, 1)[:side, :side]
    lit = tiled * light.reshape(side, side, *[1] * (samples.ndim - 2))
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


def _patch(
    pictures: Sequence[np.ndarray], height: int, width: int, generator: np.random.Generator
) -> np.ndarray:
    """Piece of a random picture, (height, width) or (height, width, 3), resized where the picture is less."""
    picture = pictures[int(generator.integers(len(pictures)))]
    h, w = min(height, picture.shape[1]), min(width, picture.shape[2])
    top, left = generator.integers(picture.shape[1] - h + 1), generator.integers(picture.shape[2] - w + 1)
    piece = picture[:, top : top + h, left : left + w]
    piece = np.ascontiguousarray(piece[0] if len(piece) == 1 else piece.transpose(1, 2, 0))
    return np.asarray(Image.fromarray(piece).resize((width, height))) if (h, w) != (height, width) else piece


def _light(generator: np.random.Generator) -> np.ndarray:
    """Smooth light over a scene, (384, 384), about 1."""
    slope = generator.uniform(-0.25, 0.25, 2)
    axis = np.linspace(-1, 1, SIDE)
    return np.asarray(1 + slope[0] * axis[:, None] + slope[1] * axis[None, :], np.float32)
