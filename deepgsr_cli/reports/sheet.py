"""Pictures side by side in one, each with its name below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_BAR_PX, _GAP_PX, _TEXT_PX = 22, 4, 14
_IN_A_ROW = 3


def contact_sheet(tiles: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """One picture, (H, W, 3) uint8, of several with their names, three in a row.

    Args:
        tiles: Name and pixels of each, uint8, (h, w) or (h, w, 3), all of one size.
    """
    height, width = tiles[0][1].shape[:2]
    down, across = height + _BAR_PX + _GAP_PX, width + _GAP_PX
    columns = min(_IN_A_ROW, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * across - _GAP_PX, rows * down - _GAP_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_PX)
    for number, (name, pixels) in enumerate(tiles):
        left, top = number % columns * across, number // columns * down
        sheet.paste(Image.fromarray(pixels).convert("RGB"), (left, top))
        draw.text((left + _GAP_PX, top + height + _GAP_PX), name, "black", font)
    return np.asarray(sheet)
