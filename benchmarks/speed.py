"""Speed of the shipped denoisers beside BM3D and DnCNN-S, all on the same picture in one run.

    python benchmarks/speed.py --threads 2 [--picture FILE] [--repeat 5] [--channels 3] [--weights FILE]

In colour the deraining network is timed as well.
DnCNN-S (Zhang et al., 2017: 17 layers of 64 channels, batch normalisation merged) has random weights, which
its speed does not depend on. BM3D is the PyPI package bm3d in its default profile. The median of the repeats
counts, and the methods take turns, so that a busy moment does not fall on one of them alone.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--picture", type=Path, help="A picture; else a random one of 481 x 321.")
    parser.add_argument("--size", type=int, nargs=2, default=(321, 481), metavar=("H", "W"))
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--without-bm3d", action="store_true")
    parser.add_argument("--weights", nargs="+", help="Denoisers; else all that the manifest lists.")
    options = parser.parse_args()

    import numpy as np
    import torch
    from torch import nn

    from deepgsr_cli.formats.image import read_channels
    from deepgsr_cli.pictures.restorer import Restorer, RunOptions
    from deepgsr_cli.weights.manifest import load_manifest

    torch.set_num_threads(options.threads)
    channels = options.channels
    if options.picture:
        pixels = read_channels(options.picture, channels)
    else:
        pixels = np.random.default_rng(0).random((channels, *options.size), dtype=np.float32)
    count = pixels[0].size

    layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(15):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(64, channels, 3, padding=1)]
    dncnn = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    names = options.weights or [
        entry.name
        for entry in load_manifest().values()
        if entry.task == "denoise" and entry.channels == channels
    ]
    denoisers = {name: Restorer(name, RunOptions(device="cpu")) for name in names}

    @torch.inference_mode()
    def by_dncnn() -> None:
        x = torch.from_numpy(pixels)[None].contiguous(memory_format=torch.channels_last)
        x - dncnn(x)

    methods: dict[str, Callable[[], object]] = {
        name: functools.partial(denoiser.restore_pixels, pixels, 25) for name, denoiser in denoisers.items()
    }
    methods["DnCNN-S"] = by_dncnn
    if channels == 3:
        derainer = Restorer(options=RunOptions(device="cpu"), task="derain")
        methods["derain"] = lambda: derainer.restore_pixels(pixels)
    if not options.without_bm3d:
        import bm3d

        planes = pixels.astype(np.float64)
        if channels == 1:
            methods["BM3D"] = lambda: bm3d.bm3d(planes[0], 25 / 255)
        else:
            methods["BM3D"] = lambda: bm3d.bm3d_rgb(planes.transpose(1, 2, 0), 25 / 255)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for name, method in methods.items():
        if name != "BM3D":  # it has nothing to warm up, and takes seconds
            method()
    for _ in range(options.repeat):
        for name, method in methods.items():
            started = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - started)

    height, width = pixels.shape[1:]
    print(f"{width} x {height} x {channels} pixels, {options.threads} threads, {options.repeat} repeats")
    print(f"torch {torch.__version__}")
    for name, denoiser in denoisers.items():
        parameters = sum(p.numel() for p in denoiser.load(channels).model.parameters())
        print(f"{name}: {parameters:,} parameters")
    column = max(map(len, methods))
    print(f"\n{'method':<{column}}  median s     Mpx/s   x slower than {names[0]}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        ratio = median / medians[names[0]]
        print(f"{name:<{column}}  {median:8.3f}  {count / median / 1e6:8.3f}  {ratio:9.1f}")


if __name__ == "__main__":
    main()
