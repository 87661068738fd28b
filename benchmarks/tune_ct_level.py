"""Constants of the estimator of CT noise, from noise alone, and how far it is off on slices.

    python benchmarks/tune_ct_level.py --data SLICES [--limit 16] [--kernels 8]

Noise of full turns of training slices, by random kernels and of random levels, is seen in the cells that the
estimator takes: without the slice, to fit the constants, and with it, as it is used. What the estimator finds
in the slices without noise added, their own noise and structure, is printed beside.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of training slices, DICOM or PNG.")
    parser.add_argument("--limit", type=int, default=16, help="Slices, evenly over the folder.")
    parser.add_argument("--kernels", type=int, default=8, help="Kernels and levels of each slice.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the noise.")
    options = parser.parse_args()

    import numpy as np
    import torch

    from deepgsr_cli.ct import denoising
    from deepgsr_cli.ct.denoise_training import NoisySlices, filtered
    from deepgsr_cli.ct.dose import frequencies, random_kernels
    from deepgsr_cli.ct.slices import read_hu, slice_paths

    paths = slice_paths(options.data)
    chosen = [paths[(2 * i + 1) * len(paths) // (2 * options.limit)] for i in range(options.limit)]
    slices = NoisySlices([read_hu(path, denoising.LOWEST_HU)[0] for path in chosen], 0, options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    bands, levels, found, own = [], [], [], []
    for i, resolutions in enumerate(slices.levels):
        for resolution, image in enumerate(resolutions):
            noise = slices.noise(i, resolution)
            for number in range(options.kernels):
                kernels = random_kernels(1, generator)
                level = 4 * 40 ** float(torch.rand(1, generator=generator))
                passed = kernels(frequencies(*image.shape))
                hu = image.float()[None]
                seen = filtered(hu, passed) if number % 2 else hu
                added = filtered(noise.image.float()[None], passed) * level / noise.level(kernels)
                clean, noisy = (x[0].clamp(-1024, 3071).round().numpy() for x in (seen, seen + added))
                cells = denoising.tissue_cells(noisy)
                bands.append(denoising.energies(added[0].numpy(), cells))
                levels.append(level)
                found.append(denoising.estimate_level(noisy))
                own.append(denoising.estimate_level(clean))
    energy, level = np.array(bands), np.array(levels)
    slope = 0.5 * np.log(energy[:, 1] / energy[:, 0])
    powers = np.stack([slope**0, slope, slope**2], axis=1)
    target = np.log(level) - 0.5 * np.log(energy.sum(1))
    factors, *_ = np.linalg.lstsq(powers, target, rcond=None)
    error = powers @ factors - target
    total = np.hypot(level, own)
    print(f"{len(level)} cases; constants {', '.join(f'{factor:.3f}' for factor in factors)}")
    print(f"noise alone: {error.std():.3f} off, in logarithms")
    off = np.log(np.array(found) / total)
    print(f"in slices, over noise of both: {off.mean():+.3f}, {off.std():.3f} off")
    print(f"own level of the slices: {np.quantile(own, [0.1, 0.5, 0.9]).round(1)} HU (10, 50, 90 %)")


if __name__ == "__main__":
    main()
