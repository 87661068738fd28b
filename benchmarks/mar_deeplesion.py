"""Metal artifact reduction of the DeepLesion example that InDuDoNet+ publishes, beside its own LI images.

    python benchmarks/mar_deeplesion.py --data FOLDER --masks FOLDER [--weights NAME]

The first FOLDER holds gt.npz and mask_NN.npz as published, the second the test metals, mask_NN.png. Where a
mask_NN.npz has the sinogram, that is corrected, else the image alone. PSNR and SSIM: attenuation clipped to
[0, 0.05] per mm, over 0.05, metal pixels left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True, help="Folder of mask_NN.png.")
    parser.add_argument("--weights", help="Name or file; the default weights otherwise.")
    options = parser.parse_args()

    import numpy as np
    import torch

    from deepgsr_cli.ct.figures import compare
    from deepgsr_cli.formats.image import read_image
    from deepgsr_cli.mar.implants import fit_shape
    from deepgsr_cli.mar.methods import MetalMethod, load_network
    from deepgsr_cli.mar.nmar import ImageOnly
    from deepgsr_cli.mar.trace import metal_mask
    from deepgsr_cli.tomography.geometry import mar_640
    from deepgsr_cli.tomography.radon import Radon

    geometry = mar_640()
    A, image_only = Radon(geometry), ImageOnly(geometry.shape, geometry.pixel_mm)
    loaded = load_network(options.weights, "cpu", offline=False)

    def read(path: Path, name: str) -> torch.Tensor:
        return torch.from_numpy(np.load(path)[name])[None, None]

    clean = read(options.data / "gt.npz", "image") / 10  # from 1/cm
    print("mask      metal px  from       input      published LI  LI         NMAR       DeepGSR")
    for path in sorted(options.data.glob("mask_*.npz")):
        mask = read_image(options.masks / f"{path.stem}.png").pixels[0] != 0
        metal = fit_shape(torch.from_numpy(mask), geometry.shape[0])[None, None]
        files = np.load(path).files
        shown = [read(path, "ma_CT") / 10, read(path, "LI_CT") / 10]
        for name in ("li", "nmar", "deepgsr"):
            if "ma_sinogram" in files:
                reduce = MetalMethod(name).reduction(loaded.model)
                shown.append(reduce(A, read(path, "ma_sinogram"), metal))
            else:
                reduce = MetalMethod(name).reduction(loaded.model, virtual=True)
                x = shown[0].clamp(min=0)
                shown.append(image_only(x, metal_mask(x), reduce, keep_metal=False))
        scores = [compare(x, clean, geometry.pixel_mm, metal) for x in shown]
        source = "sinogram" if "ma_sinogram" in files else "image"
        figures = "  ".join(f"{score.psnr:.2f}/{score.ssim:.3f}".rjust(11) for score in scores)
        print(f"{path.stem}  {int(metal.sum()):8d}  {source:8}{figures}")


if __name__ == "__main__":
    main()
