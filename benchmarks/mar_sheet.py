"""Picture of real slices with metal beside their corrections from the image alone, to be judged by eye.

    python benchmarks/mar_sheet.py --data FOLDER [FOLDER ...] --output sheet.png [--weights NAME]

FOLDERs hold slices as .npy, (H, W) in HU. Columns: input, LI, NMAR, DeepGSR, and DeepGSR's change in a window
of +-500 HU. Prints what share of the pixels of each slice DeepGSR leaves as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="The sheet, a PNG file.")
    parser.add_argument("--weights", help="Name or file; the default weights otherwise.")
    parser.add_argument("--pixel-mm", type=float, default=0.8, help="Spacing of rows and columns.")
    parser.add_argument("--metal-threshold", type=float, default=2500.0, help="In HU.")
    parser.add_argument("--window", type=float, nargs=2, default=(50, 1000), help="Centre and width in HU.")
    options = parser.parse_args()

    import numpy as np
    import PIL.Image
    import torch

    from deepgsr_cli.ct.display import windowed
    from deepgsr_cli.mar.methods import MetalMethod, load_network
    from deepgsr_cli.mar.nmar import ImageOnly
    from deepgsr_cli.mar.trace import metal_mask
    from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu

    loaded = load_network(options.weights, "cpu", offline=False)
    rows = []
    for path in (path for folder in options.data for path in sorted(folder.glob("*.npy"))):
        x = to_attenuation(np.load(path).astype(np.float32), torch.device("cpu"))
        metal = metal_mask(x, options.metal_threshold)
        correct = ImageOnly((x.shape[-2], x.shape[-1]), (options.pixel_mm, options.pixel_mm))
        shown = [x]
        for name in ("li", "nmar", "deepgsr"):
            reduce = MetalMethod(name).reduction(loaded.model, virtual=True)
            shown.append(correct(x, metal, reduce) if metal.any() else x)
        hu = [to_hu(image) for image in shown]
        change = windowed(hu[-1] - hu[0], (0.0, 1000.0))
        rows.append(np.concatenate([*(windowed(h, tuple(options.window)) for h in hu), change], axis=1))
        same = float((shown[-1] == x).float().mean())
        print(f"{path.name}: {int(metal.sum())} px of metal, {same:.0%} of the pixels unchanged")
    PIL.Image.fromarray(np.concatenate(rows)).save(options.output, format="PNG")


if __name__ == "__main__":
    main()
