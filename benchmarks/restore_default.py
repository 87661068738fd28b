"""`deepgsr restore`, which has the networks for what it finds, beside its one network that does all.

    python benchmarks/restore_default.py --data FOLDER [FOLDER ...] [--limit 24] [--side 288] [--csv FILE]

Each clean picture is whole, and in eleven kinds of degradation: white noise, noise of cameras, JPEG, the
three kinds of generated rain, and rain with noise. A picture that comes back as it is counts as 60 dB. The
rule that finds rain was chosen on pictures to train on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

# What stands for a picture that is identical, in dB.
MOST = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="Folders of clean pictures.")
    parser.add_argument("--limit", type=int, default=24, help="Pictures of each folder, evenly spread.")
    parser.add_argument("--side", type=int, default=288, help="Side of the crop of each, in pixels.")
    parser.add_argument("--csv", type=Path, help="Figures of each picture.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import numpy as np
    import torch
    from torch import Tensor

    from deepgsr_cli.evaluation.metrics import psnr, rounded8
    from deepgsr_cli.evaluation.summary import write_rows
    from deepgsr_cli.formats.image import picture_paths, read_channels
    from deepgsr_cli.pictures import rain
    from deepgsr_cli.pictures.camera import Shares, photographed
    from deepgsr_cli.pictures.jpeg import jpeg
    from deepgsr_cli.pictures.noise import as_8_bits
    from deepgsr_cli.pictures.restorer import Restorer

    styles, rain.DRY = rain.STYLES, 0.0

    def in_noise(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
        return as_8_bits(x + sigma / 255 * torch.randn(x.shape, generator=generator))

    def degraded(x: Tensor, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Name of each kind, and the picture in it."""
        yield "whole", x
        for sigma in (3, 8, 25):
            yield f"white-{sigma}", in_noise(x, sigma, generator)
        for number in (1, 2):
            yield f"camera-{number}", photographed(x, generator, Shares(clean=0, white=0)).pictures
        for quality in (30.0, 75.0):
            yield f"jpeg-{quality:g}", jpeg(x, torch.tensor([quality]))
        for number, style in enumerate(styles, 1):
            rain.STYLES = (replace(style, share=1.0),)
            yield f"rain-{number}", rain.rainy(x, generator)
        rain.STYLES = styles
        yield "rain, white-10", in_noise(rain.rainy(x, generator), 10, generator)

    def figure(restored: np.ndarray, clean: np.ndarray) -> float:
        return min(MOST, psnr(rounded8(restored), clean))

    router, network = Restorer(task="restore"), Restorer(task="restore")
    rows = []
    for folder in options.data:
        paths = picture_paths(folder)
        count = min(options.limit, len(paths))
        for number, path in enumerate(paths[len(paths) * k // count] for k in range(count)):
            generator = torch.Generator().manual_seed(1000 * options.seed + number)
            clean = np.ascontiguousarray(read_channels(path, 3)[:, : options.side, : options.side])
            for kind, x in degraded(torch.from_numpy(clean)[None], generator):
                given = np.ascontiguousarray(x[0].numpy())
                route = router.route(given)
                row = {
                    "kind": kind,
                    "picture": path.name,
                    "found": route.words,
                    "given": figure(given, clean),
                    "restore": figure(route.run(given.copy(), clipped=True), clean),
                    "one network": figure(network.restore_pixels(given), clean),
                }
                rows.append(row)
                print(row, file=sys.stderr, flush=True)

    names = ("given", "restore", "one network")
    print(f"{'kind':15s} {'n':>3s} " + " ".join(f"{name:>11s}" for name in names))
    for kind in (*dict.fromkeys(row["kind"] for row in rows), "all"):
        part = [row for row in rows if kind in (row["kind"], "all")]
        means = " ".join(f"{np.mean([row[name] for row in part]):11.2f}" for name in names)
        print(f"{kind:15s} {len(part):3d} {means}")
    if options.csv:
        write_rows(options.csv, rows)


if __name__ == "__main__":
    main()
