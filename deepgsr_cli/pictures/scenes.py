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
    return _lit(scene, generator)


def grains(pictures: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Ground of sand, gravel or grass, (C, 384, 384), uint8: textures that are taken for noise.

    Grains of one to some ten pixels lie on each other, round or long, the small ones many: a dead leaves
    model. In half of the scenes they cover a part of a real picture.

    Args:
        pictures: Real pictures, (C, H, W), uint8, at least 64 x 64, which lend colours and textures.
        generator: Random generator of everything.
    """
    sheet = 2 * SIDE
    palette = _patch(pictures, 48, 48, generator).reshape(48 * 48, -1).astype(np.float32)
    middle = palette.mean(0)
    palette = middle + (palette - middle) * np.float32(generator.uniform(0.5, 1.5))
    least, most = generator.uniform(1.2, 2.5), generator.uniform(4, 20)
    # Long grains lie in about one direction, as blades of grass do.
    longer = generator.uniform(4, 12) if generator.random() < 0.3 else 1.0
    direction, spread = generator.uniform(0, np.pi), generator.uniform(0.1, 0.5)
    # Radii of a density of r^-3, as the dead leaves of natural images have, in pixels of the sheet; as many
    # as cover it twice.
    area = (np.pi if longer == 1 else 2 * longer) * 2 * least**2 * np.log(most / least)
    count = int(2 * sheet**2 / area)
    share = generator.random(count)
    radii = (least**-2 - share * (least**-2 - most**-2)) ** -0.5
    shade = generator.normal(1, generator.uniform(0, 0.2), count)
    colours = palette[generator.integers(len(palette), size=count)] * shade[:, None]
    places = generator.uniform(0, sheet, (count, 2))
    angles = generator.normal(direction, spread, count)
    scene = Image.fromarray(_patch(pictures, sheet, sheet, generator))
    ground = Image.new(scene.mode, scene.size, _colour(middle))
    draw = ImageDraw.Draw(ground)
    for (x, y), r, angle, colour in zip(places, radii, angles, colours):
        if longer > 1:
            dx, dy = longer * r * np.cos(angle), longer * r * np.sin(angle)
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=_colour(colour), width=max(1, round(r)))
        else:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_colour(colour))
    mask = Image.new("L", (sheet, sheet), 255)
    if generator.random() < 0.5:
        horizon = generator.uniform(0.1, 0.6, 2) * sheet
        ImageDraw.Draw(mask).polygon([(0, 0), (sheet, 0), (sheet, horizon[0]), (0, horizon[1])], fill=0)
    scene.paste(ground, mask=mask)
    return _lit(scene, generator)


def _colour(values: np.ndarray) -> tuple[int, ...]:
    """As `ImageDraw` takes it."""
    return tuple(int(value) for value in values.clip(0, 255))


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


def _lit(scene: Image.Image, generator: np.random.Generator) -> np.ndarray:
    """Pixels of a scene that is drawn twice as large, (C, 384, 384), uint8, under a smooth light."""
    pixels = np.asarray(scene.reduce(2), np.float32).reshape(SIDE, SIDE, -1).transpose(2, 0, 1)
    return (pixels * _light(generator)).round().clip(0, 255).astype(np.uint8)


def _light(generator: np.random.Generator) -> np.ndarray:
    """Smooth light over a scene, (384, 384), about 1."""
    slope = generator.uniform(-0.25, 0.25, 2)
    axis = np.linspace(-1, 1, SIDE)
    return np.asarray(1 + slope[0] * axis[:, None] + slope[1] * axis[None, :], np.float32)
