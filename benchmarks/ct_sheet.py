"""Picture of slices beside their reconstructions from few views, to be judged by eye.

    python benchmarks/ct_sheet.py --data SLICES --output sheet.jpg [--views 60] [--photons 1e5]

Slices, evenly spread over the folder, are scanned by simulation and reconstructed by DeepGSR. A row is a
slice; columns are the slice and its reconstruction in a window for lungs, both in one for soft tissue, and
the error, +-200 HU around gray. Prints the PSNR of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

LUNG_HU, SOFT_TISSUE_HU = (-600.0, 1500.0), (40.0, 400.0)  # centre, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of slices, DICOM or PNG.")
    parser.add_argument("--output", type=Path, required=True, help="The sheet, a JPEG or PNG file.")
    parser.add_argument("--limit", type=int, default=6, help="Slices, evenly over the folder.")
    parser.add_argument("--views", type=int, default=60, help="Views over a turn.")
    parser.add_argument("--photons", type=float, default=1e5, help="Photons a ray, inf for no noise.")
    parser.add_argument("--weights", help="Name or file; the default weights otherwise.")
    parser.add_argument("--side", type=int, default=208, help="Side of a picture in pixels.")
    options = parser.parse_args()

    import math
    import zlib

    import numpy as np
    import PIL.Image
    import torch

    from deepgsr_cli.ct.display import ERROR_WINDOW_HU, windowed
    from deepgsr_cli.ct.figures import compare
    from deepgsr_cli.ct.methods import Method, load_network, reconstruct
    from deepgsr_cli.ct.simulation import SimulatedScan
    from deepgsr_cli.ct.slices import eval_slices
    from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu
    from deepgsr_cli.tomography.geometry import sparse_view
    from deepgsr_cli.tomography.radon import Radon

    photons = None if math.isinf(options.photons) else options.photons
    model = load_network(options.weights, "cpu", offline=False).model
    slices = eval_slices(options.data)
    count = min(options.limit, len(slices))
    side = (options.side, options.side)
    rows = []
    for slice in (slices[(2 * i + 1) * len(slices) // (2 * count)] for i in range(count)):
        hu, pixel_mm = slice.read()
        truth = to_attenuation(hu, torch.device("cpu"))
        A = Radon(sparse_view((hu.shape[0], hu.shape[1]), pixel_mm, options.views))
        y = SimulatedScan(A.geometry, photons)(truth, (0, zlib.crc32(hu.tobytes())))
        x = reconstruct(A, y, Method("deepgsr", photons), model=model)
        print(f"{slice.name}: {compare(x, truth, pixel_mm).psnr:.2f} dB")
        found, expected = to_hu(x), to_hu(truth)
        shown = [windowed(h, window) for window in (LUNG_HU, SOFT_TISSUE_HU) for h in (expected, found)]
        shown.append(windowed(found - expected, (0.0, 2 * ERROR_WINDOW_HU)))
        small = [
            np.asarray(PIL.Image.fromarray(gray).resize(side, PIL.Image.Resampling.BOX)) for gray in shown
        ]
        rows.append(np.concatenate(small, axis=1))
    PIL.Image.fromarray(np.concatenate(rows)).save(options.output, quality=80)


if __name__ == "__main__":
    main()
