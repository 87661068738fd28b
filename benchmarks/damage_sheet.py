"""Contact sheet of made rain, or of noise as a camera makes it, beside real pictures that have it.

    python benchmarks/damage_sheet.py rain --clean FOLDER [--real FOLDER ...] --output sheet.png
    python benchmarks/damage_sheet.py photo --clean FOLDER [--real FOLDER ...] --output sheet.png

Rows of square crops: the clean pictures; for rain one row for each kind of `pictures.rain` and one of the
training mixture, for photo several draws of `pictures.camera`; and one row for each folder of real pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Draws of a camera.
_DRAWS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("damage", choices=("rain", "photo"))
    parser.add_argument("--clean", type=Path, required=True, help="Folder of clean pictures.")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="Folders of damaged pictures.")
    parser.add_argument("--output", type=Path, required=True, help="The sheet, a PNG file.")
    parser.add_argument("--size", type=int, default=96, help="Side of a crop in pixels.")
    parser.add_argument("--enlarge", type=int, default=2, help="Pixels of the sheet along one of a crop.")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import PIL.Image
    import torch

    from deepgsr_cli.formats.image import picture_paths, read_channels

    def row(folder: Path) -> Tensor:
        """Centre crops of pictures evenly spread over the folder, (columns, 3, size, size)."""
        paths = picture_paths(folder)
        paths = [paths[len(paths) * k // options.columns] for k in range(options.columns)]
        crops = []
        for path in paths:
            pixels = torch.from_numpy(read_channels(path, 3))
            top, left = ((side - options.size) // 2 for side in pixels.shape[1:])
            crops.append(pixels[:, top : top + options.size, left : left + options.size])
        return torch.stack(crops)

    clean = row(options.clean)
    damaged = (rained if options.damage == "rain" else photographed)(
        clean, torch.Generator().manual_seed(options.seed)
    )
    rows = [clean, *damaged, *(row(folder) for folder in options.real)]
    sheet = torch.cat([torch.cat(list(crops), dim=-1) for crops in rows], dim=-2)
    sheet = sheet.repeat_interleave(options.enlarge, -2).repeat_interleave(options.enlarge, -1)
    pixels = (sheet * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    PIL.Image.fromarray(pixels.numpy()).save(options.output, format="PNG")


def rained(clean: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the pictures under each kind of rain, and under the mixture."""
    from deepgsr_cli.pictures import rain

    mixture = rain.STYLES
    for styles in (*((style,) for style in mixture), mixture):
        rain.STYLES = styles
        yield rain.rainy(clean, generator)


def photographed(clean: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the pictures as cameras drawn at random make them."""
    from deepgsr_cli.pictures import camera

    for _ in range(_DRAWS):
        yield camera.photographed(clean, generator, camera.Shares(clean=0)).pictures


if __name__ == "__main__":
    main()
