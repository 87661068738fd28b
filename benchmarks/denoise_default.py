"""What `deepgsr denoise` makes of pictures by default, beside white-noise weights told by an oracle.

    python benchmarks/denoise_default.py --data FOLDER [--limit 24] [--kind white-25 ...] [--csv FILE]
    python benchmarks/denoise_default.py --real FOLDER

Kinds of noise: none; jpeg-Q, no noise but JPEG; white-S; white-S-jpeg-Q; poisson-L and bayer-L, noise of a
sensor of that variance a unit of light, in 1/10000, without and with a mosaic. Each is made with the seed
given. The oracle has the best of the levels 2 to 60 for each picture. A folder of real pairs has files
NAME_real and NAME_mean, as Nam et al., A holistic approach to cross-channel image noise modeling, CVPR 2016.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

KINDS = (
    *("none", "jpeg-90", "white-5", "white-10", "white-15", "white-25", "white-50"),
    *("white-10-jpeg-90", "white-18-jpeg-75", "white-25-jpeg-50"),
    *("poisson-5", "poisson-40", "bayer-2", "bayer-10", "bayer-50"),
)
LEVELS = (2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="Folders of clean pictures.")
    parser.add_argument("--real", type=Path, help="Folder of real pairs.")
    parser.add_argument("--kind", nargs="*", default=KINDS, help="Kinds of noise.")
    parser.add_argument("--limit", type=int, default=24, help="Pictures of each folder, evenly spread.")
    parser.add_argument(
        "--without-oracle", action="store_true", help="Leave the oracle out, which takes long."
    )
    parser.add_argument("--csv", type=Path, help="Figures of each picture.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import numpy as np
    import torch

    from deepgsr_cli.evaluation.metrics import psnr, rounded8
    from deepgsr_cli.evaluation.summary import write_rows
    from deepgsr_cli.formats.image import picture_paths, read_channels, read_image
    from deepgsr_cli.pictures import camera
    from deepgsr_cli.pictures.jpeg import jpeg
    from deepgsr_cli.pictures.noise import as_8_bits
    from deepgsr_cli.pictures.restorer import Restorer

    def noisy(clean: np.ndarray, kind: str) -> np.ndarray:
        words = kind.split("-")
        numbers = dict(zip(words[::2], (float(word) for word in words[1::2])))
        generator = torch.Generator().manual_seed(options.seed)
        x = torch.from_numpy(clean)[None]
        if "poisson" in numbers or "bayer" in numbers:
            shot = numbers.get("poisson", numbers.get("bayer", 0)) / 10_000
            camera.SHOT = (shot, shot)
            mosaic = float("bayer" in numbers)
            x = x.expand(1, 3, -1, -1).contiguous()
            x = camera.photographed(x, generator, camera.Shares(0, 0, mosaic, 0, 0, 0, 0, 0)).pictures
        if "white" in numbers:
            noise = torch.randn(x.shape, generator=generator)
            x = as_8_bits(x + numbers["white"] / 255 * noise)
        if "jpeg" in numbers:
            x = jpeg(x, torch.tensor([numbers["jpeg"]]))
        return x[0, : len(clean)].numpy()

    def cases() -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
        """Kind, name, noisy and clean picture."""
        for real in sorted(options.real.glob("*_real.*")) if options.real else []:
            mean = real.with_name(real.name.replace("_real.", "_mean."))
            yield "real", real.name, read_channels(real, 3), read_channels(mean, 3)
        for kind in options.kind if options.data else []:
            for folder in options.data:
                paths = picture_paths(folder)
                count = min(options.limit, len(paths))
                for path in (paths[len(paths) * k // count] for k in range(count)):
                    clean = read_image(path).pixels
                    yield kind, path.name, noisy(clean, kind), clean

    restorer = Restorer()
    rows = []
    for kind, name, given, clean in cases():
        choice = restorer.choose(given)
        restored = choice.run(given.copy(), clipped=True)
        row = {
            "kind": kind,
            "picture": name,
            "found": choice.found.kind if choice.found else "",
            "sigma": choice.sigma,
            "given": psnr(given, clean),
            "default": psnr(rounded8(restored), clean),
            "told": math.nan,
            "oracle": math.nan,
        }
        if kind.startswith("white") and "jpeg" not in kind:
            told = restorer.restore_pixels(given, float(kind.split("-")[1]), clipped=True)
            row["told"] = psnr(rounded8(told), clean)
        elif not options.without_oracle and kind != "none":
            results = (restorer.restore_pixels(given, level, clipped=True) for level in LEVELS)
            row["oracle"] = max(psnr(rounded8(result), clean) for result in results)
        rows.append(row)
        print(row, file=sys.stderr, flush=True)

    print(f"{'kind':18s} {'n':>3s} {'given':>7s} {'default':>7s} {'told':>7s} {'oracle':>7s}  worst  found")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        part = [row for row in rows if row["kind"] == kind]
        figures = [np.array([row[name] for row in part]) for name in ("given", "default", "told", "oracle")]
        if kind == "none":
            same = np.isinf(figures[1])
            lowest = figures[1][~same].min() if (~same).any() else math.inf
            share = (figures[1] >= 45).mean()
            text = f"identical {same.mean():.0%}, at least 45 dB {share:.0%}, the least {lowest:.2f} dB"
            print(f"{kind:18s} {len(part):3d} {text}")
            continue
        reference = np.where(np.isnan(figures[2]), figures[3], figures[2])
        reference = figures[0] if np.isnan(reference).any() else reference
        kinds = {
            found: sum(row["found"] == found for row in part) for found in {row["found"] for row in part}
        }
        means = " ".join(f"{values.mean():7.2f}" for values in figures)
        print(f"{kind:18s} {len(part):3d} {means}  {(figures[1] - reference).min():+.2f}  {kinds}")
    if options.csv:
        write_rows(options.csv, rows)


if __name__ == "__main__":
    main()
