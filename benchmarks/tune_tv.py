"""Weight of total variation for CT, and the model's error beside the noise, tuned on training slices.

    python benchmarks/tune_tv.py --data SLICES [--limit 6] [--size 256]

Slices are reduced to --size pixels across, with the views and photons that leave in them, pixel by pixel, the
streaks and the noise of the scan of 512 x 512 pixels that is named. A good pair of constants is the best for
few and many views and photons alike: one weight then needs no formula. The first table has the iterations,
with the constants as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from deepgsr_cli.tomography.radon import Radon

SCANS = ((60, None), (60, 1e6), (60, 1e5), (60, 2e4), (30, 1e5), (120, 1e5), (30, None), (120, None))
WEIGHTS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
MODEL_ERRORS = (0.005, 0.01, 0.02)
ITERATIONS = (50, 100, 150, 200, 250, 300)
FIELD_MM = 400.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of training slices, DICOM or PNG.")
    parser.add_argument("--limit", type=int, default=6, help="Slices, evenly over the folder.")
    parser.add_argument("--size", type=int, default=256, help="Pixels across a slice.")
    parser.add_argument("--iterations-only", action="store_true", help="Leave the constants as they are.")
    options = parser.parse_args()

    import numpy as np
    import torch

    from deepgsr_cli.ct import methods
    from deepgsr_cli.ct.figures import compare
    from deepgsr_cli.ct.methods import TV_WEIGHT, total_variation
    from deepgsr_cli.ct.simulation import SimulatedScan
    from deepgsr_cli.ct.slices import read_hu, reduced, slice_paths
    from deepgsr_cli.ct.training import photons_at
    from deepgsr_cli.tomography.attenuation import to_attenuation
    from deepgsr_cli.tomography.geometry import sparse_view
    from deepgsr_cli.tomography.radon import Radon

    size, pixel_mm = options.size, (FIELD_MM / options.size,) * 2
    paths = slice_paths(options.data)
    chosen = [paths[(2 * i + 1) * len(paths) // (2 * options.limit)] for i in range(options.limit)]
    slices = [reduced(torch.from_numpy(read_hu(path)[0]), size).numpy() for path in chosen]
    images = [to_attenuation(hu, torch.device("cpu")) for hu in slices]

    scanned = []
    for views, photons in SCANS:
        geometry = sparse_view((size, size), pixel_mm, round(views * size / 512))
        dose = None if photons is None else photons_at(size, photons)
        scan = SimulatedScan(geometry, dose)
        scanned.append((Radon(geometry, engine="csr"), dose, [scan(x, i) for i, x in enumerate(images)]))

    def mean_psnr(A: Radon, dose: float | None, scans: list[Tensor], weight: float, iterations: int) -> float:
        found = (total_variation(A, y, weight, dose, iterations=iterations) for y in scans)
        return float(np.mean([compare(z, x, pixel_mm).psnr for z, x in zip(found, images)]))

    def print_row(views: int, photons: float | None, setting: object, means: Iterable[float]) -> None:
        cells = " ".join(f"{mean:6.2f}" for mean in means)
        print(f"{views:5} {photons or 'none':>7}  {setting:>11} | {cells}", flush=True)

    print(f"{len(images)} slices of {options.data.name}, {size} x {size}; mean PSNR in dB\n")
    print("views photons   iterations | " + " ".join(f"{count:6}" for count in ITERATIONS))
    for (views, photons), case in zip(SCANS, scanned):
        print_row(views, photons, "", (mean_psnr(*case, TV_WEIGHT, count) for count in ITERATIONS))
    if options.iterations_only:
        return
    tuned = methods.ITERATIONS["tv"]
    print("\nviews photons  model error | " + " ".join(f"{weight:6g}" for weight in WEIGHTS) + "  (weight)")
    for (views, photons), case in zip(SCANS, scanned):
        for error in MODEL_ERRORS if photons else (methods.MODEL_ERROR,):
            methods.MODEL_ERROR = error
            row = (mean_psnr(*case, weight, tuned) for weight in WEIGHTS)
            print_row(views, photons, error if photons else "any", row)


if __name__ == "__main__":
    main()
