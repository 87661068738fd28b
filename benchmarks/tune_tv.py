"""Weight of total variation for CT, and the model's error beside the noise, tuned on training slices.

    python benchmarks/tune_tv.py --data SLICES [--limit 6] [--size 256]

Slices are reduced to --size pixels across, with the views and photons that leave in them, pixel by pixel, the
streaks and the noise of the scan of 512 x 512 pixels that is named. A good pair of constants is the best for
few and many views and photons alike: one weight then needs no formula.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SCANS = ((60, None), (60, 1e6), (60, 1e5), (60, 2e4), (30, 1e5), (120, 1e5), (30, None), (120, None))
WEIGHTS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
MODEL_ERRORS = (0.005, 0.01, 0.02)
FIELD_MM = 400.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of training slices, DICOM or PNG.")
    parser.add_argument("--limit", type=int, default=6, help="Slices, evenly over the folder.")
    parser.add_argument("--size", type=int, default=256, help="Pixels across a slice.")
    options = parser.parse_args()

    import numpy as np
    import torch

    from deepgsr_cli import ct_recon
    from deepgsr_cli.ct_data import photons_at, read_hu, reduced, slice_paths
    from deepgsr_cli.ct_recon import SimulatedScan, compare, to_attenuation, total_variation
    from deepgsr_cli.geometry import sparse_view
    from deepgsr_cli.physics import Radon

    size, pixel_mm = options.size, (FIELD_MM / options.size,) * 2
    paths = slice_paths(options.data)
    chosen = [paths[(2 * i + 1) * len(paths) // (2 * options.limit)] for i in range(options.limit)]
    slices = [reduced(torch.from_numpy(read_hu(path)[0]), size).numpy() for path in chosen]
    images = [to_attenuation(hu, torch.device("cpu")) for hu in slices]

    print(f"{len(images)} slices of {options.data.name}, {size} x {size}; mean PSNR in dB\n")
    print("views photons  model error | weight " + " ".join(f"{weight:6g}" for weight in WEIGHTS))
    for views, photons in SCANS:
        geometry = sparse_view((size, size), pixel_mm, round(views * size / 512))
        A = Radon(geometry, engine="csr")
        dose = None if photons is None else photons_at(size, photons)
        scan = SimulatedScan(geometry, dose)
        scans = [scan(x, i) for i, x in enumerate(images)]
        for error in MODEL_ERRORS if photons else (None,):
            if error is not None:
                ct_recon.MODEL_ERROR = error
            means = [
                np.mean(
                    [
                        compare(total_variation(A, y, weight, dose), x, pixel_mm).psnr
                        for x, y in zip(images, scans)
                    ]
                )
                for weight in WEIGHTS
            ]
            cells = " ".join(f"{mean:6.2f}" for mean in means)
            print(f"{views:5} {photons or 'none':>7}  {error or 'any':>11} |        {cells}", flush=True)


if __name__ == "__main__":
    main()
