"""A camera's raw file, made for tests: DNG 1.4 as tifffile can write it."""

from pathlib import Path

import numpy as np
import tifffile

# Of the camera: stored values of black and white, a neutral surface in its colours, and the matrix from CIE
# XYZ to these, which is that of no real one.
BLACK, WHITE = 64, 4095
NEUTRAL = (0.5, 1.0, 0.625)
XYZ_TO_CAMERA = ((0.9, -0.3, -0.1), (-0.4, 1.2, 0.2), (-0.1, 0.2, 0.6))
_CODES = {"R": 0, "G": 1, "B": 2}


def write_dng(path: Path, values: np.ndarray, pattern: str = "RGGB", orientation: int = 1) -> None:
    """Write stored values, (H, W) of uint16, as the raw file of a camera with such a pattern."""
    rational = [
        tuple(n for x in row for n in (round(x * 10000), 10000)) for row in (np.ravel(XYZ_TO_CAMERA), NEUTRAL)
    ]
    tags = [
        (271, 2, 0, "Acme", True),
        (272, 2, 0, "One", True),
        (274, 3, 1, orientation, True),
        (306, 2, 0, "2026:01:02 03:04:05", True),
        (33421, 3, 2, (2, 2), True),
        (33422, 1, 4, bytes(_CODES[colour] for colour in pattern), True),
        (50706, 1, 4, bytes((1, 4, 0, 0)), True),
        (50707, 1, 4, bytes((1, 1, 0, 0)), True),
        (50708, 2, 0, "Acme One", True),
        (50714, 3, 1, BLACK, True),
        (50717, 3, 1, WHITE, True),
        (50721, 10, 9, rational[0], True),
        (50728, 5, 3, rational[1], True),
        (50778, 3, 1, 21, True),
    ]
    tifffile.imwrite(
        path, values, photometric=32803, compression=None, extratags=tags, metadata=None, software=False
    )
