"""Contact sheet of made noise beside real photographs with noise.

    python benchmarks/photo_sheet.py --clean FOLDER [--real FOLDER ...] --output sheet.png

Rows of square crops, each pixel twice as wide and as high: the clean pictures, the same with noise of
`pictures.camera` in several draws, and one row for each folder of real pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clean", type=Path, required=True, help="Folder of clean pictures.")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="Folders of noisy pictures.")
    parser.add_argument("--output", type=Path, required=True, help="The sheet, a PNG file.")
    parser.add_argument("--size", type=int, default=96, help="Side of a crop in pixels.")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import numpy as np
    import PIL.Image
    import torch
    from torch import Tensor

    from deepgsr_cli.formats.image import picture_paths, read_channels
    from deepgsr_cli.pictures.camera import Shares, photographed

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
    generator = torch.Generator().manual_seed(options.seed)
    photos = [photographed(clean, generator, Shares(clean=0)).pictures for _ in range(options.draws)]
    rows = [clean, *photos, *(row(folder) for folder in options.real)]
    sheet = torch.cat([torch.cat(list(crops), dim=-1) for crops in rows], dim=-2)
    pixels = (
        (sheet * 255).round().to(torch.uint8).permute(1, 2, 0).numpy().repeat(2, axis=0).repeat(2, axis=1)
    )
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(options.output, format="PNG")


if __name__ == "__main__":
    main()
