"""The README's picture: what noise, rain and few views do, and what the shipped weights make of it.

    python benchmarks/showcase.py --picture examples/cat.png --slice SLICE.dcm --rain-seed 1 \\
        --output docs/showcase.png

First row: noise of sigma 50, denoised, generated rain, derained, with the PSNR over all channels. Second
row: a slice from 60 views of 1e5 photons a ray, by FBP (Hann), TV and DeepGSR, and as it is, window 40/400
HU; PSNR of attenuation in [0, 0.05] per mm. The pictures show a square of the middle.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--picture", type=Path, required=True, help="A colour picture without noise.")
    parser.add_argument("--slice", type=Path, required=True, help="A CT slice in DICOM.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="Of noise and photons.")
    parser.add_argument("--rain-seed", type=int, default=0, help="Of the rain; 0 draws little of it.")
    parser.add_argument("--side", type=int, default=280, help="Of the pictures' squares, in pixels.")
    options = parser.parse_args()

    import matplotlib.pyplot as plt
    import numpy as np
    import torch

    from deepgsr_cli.ct.display import windowed
    from deepgsr_cli.ct.figures import compare
    from deepgsr_cli.ct.methods import Method, load_network, reconstruct
    from deepgsr_cli.ct.simulation import SimulatedScan
    from deepgsr_cli.evaluation.metrics import psnr, rounded8
    from deepgsr_cli.formats.dicom.series import find_series
    from deepgsr_cli.formats.dicom.slices import read_slice
    from deepgsr_cli.formats.image import read_channels
    from deepgsr_cli.pictures.noise import protocol_noise
    from deepgsr_cli.pictures.rain import rainy
    from deepgsr_cli.pictures.restorer import Restorer
    from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu
    from deepgsr_cli.tomography.geometry import sparse_view
    from deepgsr_cli.tomography.radon import Radon

    clean = read_channels(options.picture, 3)
    noisy = clean + protocol_noise(clean.shape, 50, options.seed)
    generator = torch.Generator().manual_seed(options.rain_seed)
    rain = rainy(torch.from_numpy(clean)[None], generator)[0].numpy()
    top, left = ((size - options.side) // 2 for size in clean.shape[1:])
    panels = []
    for name, pixels in (
        ("noise, sigma 50", noisy),
        ("deepgsr denoise", Restorer().restore_pixels(noisy, 50)),
        ("generated rain", rain),
        ("deepgsr derain", Restorer(task="derain").restore_pixels(rain)),
    ):
        shown = rounded8(pixels)
        square = shown[:, top : top + options.side, left : left + options.side]
        panels.append((f"{name}, {psnr(shown, clean):.1f} dB", square.transpose(1, 2, 0)))

    (series,) = find_series(options.slice).series
    slice = read_slice(series, 0)
    reference = to_attenuation(slice.hu, torch.device("cpu"))
    geometry = sparse_view(series.shape, slice.pixel_mm, 60)
    A, y = Radon(geometry), SimulatedScan(geometry, 1e5)(reference, options.seed)
    loaded = load_network(None, "cpu", offline=False)
    for name, text in (("fbp", "60 views, FBP"), ("tv", "total variation"), ("deepgsr", "deepgsr ct-recon")):
        x = reconstruct(A, y, Method(name, 1e5), model=loaded.model)
        decibels = compare(x, reference, slice.pixel_mm).psnr
        panels.append((f"{text}, {decibels:.1f} dB", windowed(to_hu(x), (40.0, 400.0))))
    panels.append(("the slice", windowed(slice.hu, (40.0, 400.0))))

    figure, axes = plt.subplots(2, 4, figsize=(12, 6.3), layout="constrained")
    for axis, (title, pixels) in zip(axes.flat, panels, strict=True):
        axis.imshow(np.asarray(pixels), cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.savefig(options.output, dpi=75)


if __name__ == "__main__":
    main()
