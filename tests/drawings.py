"""Pictures that are drawn, and so have neither noise nor rain: screens, line art, text and pixel art."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WORDS = (
    "rain",
    "noise",
    "pixel",
    "level",
    "file",
    "open",
    "save",
    "light",
    "dark",
    "colour",
    "camera",
    "edge",
)
SEEDS = range(5)


class Drawing(NamedTuple):
    """A drawn picture.

    Attributes:
        name: Its kind and seed.
        samples: (H, W, 3) or (H, W), uint8.
    """

    name: str
    samples: np.ndarray


def drawings() -> Iterator[Drawing]:
    """Draw twenty pictures, five of a kind, the last of each kind in gray."""
    kinds: dict[str, Callable[[np.random.Generator], Image.Image]] = {
        "screenshot": screenshot,
        "line art": line_art,
        "text": text,
        "pixel art": pixel_art,
    }
    for kind, draw in kinds.items():
        for seed in SEEDS:
            picture = draw(np.random.default_rng(seed))
            picture = picture.convert("L") if seed == SEEDS[-1] else picture
            yield Drawing(f"{kind} {seed}", np.asarray(picture))


def screenshot(random: np.random.Generator) -> Image.Image:
    """Draw windows over a desktop, with bars, buttons, text and a chart."""
    light = random.random() < 0.5
    picture = Image.new("RGB", (251, 203), _colour(random))
    draw = ImageDraw.Draw(picture)
    if random.random() < 0.5:  # a desktop with a gradient
        first, last = (np.array(_colour(random)) for _ in range(2))
        for y in range(203):
            draw.line((0, y, 250, y), fill=tuple(np.rint(first + (last - first) * y / 202).astype(int)))
    for _ in range(3):
        x, y = (int(random.integers(0, limit)) for limit in (110, 80))
        width, height = (int(random.integers(80, limit)) for limit in (140, 120))
        paper, ink = ((245, 245, 245), (20, 20, 20)) if light else ((40, 42, 46), (220, 220, 220))
        draw.rectangle((x, y, x + width, y + height), fill=paper, outline=ink)
        draw.rectangle((x, y, x + width, y + 14), fill=_colour(random))
        draw.text((x + 4, y + 2), _words(random, 2), fill=(255, 255, 255), font=_font(9))
        for row in range(y + 20, y + height - 28, 12):
            draw.text((x + 5, row), _words(random, 4)[: width // 6], fill=ink, font=_font(9))
        for k in range(3):
            left = x + 6 + 24 * k
            draw.rounded_rectangle(
                (left, y + height - 16, left + 20, y + height - 5), 4, fill=_colour(random), outline=ink
            )
        bars = random.integers(2, 16, 8)
        for k, bar in enumerate(bars):
            left = x + width - 40 + 4 * k
            draw.rectangle((left, y + 34 - int(bar), left + 2, y + 34), fill=_colour(random))
    return picture


def line_art(random: np.random.Generator) -> Image.Image:
    """Draw curves, circles and hatching in ink, as smooth as a drawing program makes them."""
    picture = Image.new("RGB", (4 * 230, 4 * 190), "white")
    draw = ImageDraw.Draw(picture)
    ink = (0, 0, 0) if random.random() < 0.6 else _colour(random)
    for _ in range(14):
        thickness = int(random.integers(3, 13))
        points = random.uniform(0, 1, (4, 2)) * (920, 760)
        t = np.linspace(0, 1, 60)[:, None]
        curve = (
            (1 - t) ** 3 * points[0]
            + 3 * t * (1 - t) ** 2 * points[1]
            + 3 * t**2 * (1 - t) * points[2]
            + t**3 * points[3]
        )
        draw.line([tuple(point) for point in curve], fill=ink, width=thickness, joint="curve")
        x, y, radius = random.uniform(80, 800), random.uniform(80, 660), random.uniform(15, 90)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, width=thickness)
    # Hatching, which is most like rain.
    left, top, slope = random.uniform(50, 500), random.uniform(50, 300), random.uniform(-0.4, 0.4)
    for k in range(12):
        x = left + 22 * k
        draw.line((x, top, x + 260 * slope, top + 260), fill=ink, width=5)
    return picture.reduce(4)


def text(random: np.random.Generator) -> Image.Image:
    """Set a page of text in several sizes."""
    paper, ink = ((255, 255, 255), (0, 0, 0)) if random.random() < 0.6 else ((30, 30, 34), (210, 215, 220))
    picture = Image.new("RGB", (240, 211), paper)
    draw = ImageDraw.Draw(picture)
    y = 6
    while y < 200:
        size = int(random.choice([8, 10, 12, 18]))
        draw.text((8, y), _words(random, 200 // (5 * size // 2)), fill=ink, font=_font(size))
        y += round(1.35 * size)
    return picture


def pixel_art(random: np.random.Generator) -> Image.Image:
    """Paint sprites of few colours, which mirror themselves, of large pixels or of pixels as they are."""
    colours = random.integers(0, 256, (int(random.integers(4, 17)), 3))
    sprites = random.integers(0, len(colours), (24, 12 * int(random.integers(1, 3))))
    sprites = np.where(random.random(sprites.shape) < 0.5, 0, sprites)
    tiles = np.tile(np.concatenate((sprites, sprites[:, ::-1]), axis=1), (3, 2))
    tiles[random.random(tiles.shape) < 0.02] = 1
    scale = int(random.choice([1, 2, 4]))
    samples = colours[tiles].repeat(scale, 0).repeat(scale, 1).astype(np.uint8)
    return Image.fromarray(samples[:216, :240])


def _colour(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in random.integers(0, 256, 3))


def _words(random: np.random.Generator, count: int) -> str:
    return " ".join(random.choice(WORDS, max(1, count)))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
