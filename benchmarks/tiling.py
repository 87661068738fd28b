"""Speed, memory and quality of tiling, as tables with their protocol.

python benchmarks/tiling.py --random --size 10000
python benchmarks/tiling.py --weights NAME --size 4000 --data IMAGES --halo 0 16 32 --overlap 64 128
python benchmarks/tiling.py --weights deepgsr-derain --channels 3 --size --data PAIRS

Noise is added to the images of --data. For weights that take no noise level, --data holds the folders rain/
and clean/.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import platform
import resource
import time
from pathlib import Path


def load_model(weights: str | None, channels: int):
    """Model in evaluation mode; without weights a random one that is not the identity it starts as."""
    import torch

    if weights is not None:
        from deepgsr_cli.models import PRIORS
        from deepgsr_cli.weights.checkpoint import load_checkpoint
        from deepgsr_cli.weights.resolve import resolve

        return load_checkpoint(resolve(weights).path, PRIORS).model
    from deepgsr_cli.models import PRESETS, DeepGSR

    torch.manual_seed(0)
    model = DeepGSR(dataclasses.replace(PRESETS["small"], channels=channels))
    torch.nn.init.normal_(model.tail.weight, std=0.02)
    return model.eval()


def denoiser(model, sigma: float):
    """The model as a function of images only."""
    import torch

    conditions = model.config.conditions
    if not conditions:
        return model
    condition = torch.zeros(1, conditions)
    condition[0, 0] = sigma / 255
    return lambda tiles: model(tiles, condition)


def time_size(weights: str | None, channels: int, sigma: float, size: int, tile: int, threads: int):
    """Seconds, and peak megabytes above those held once model and image are there, of one image."""
    import torch

    from deepgsr_cli.compute.tiling import Tiles, apply_tiled, default_overlap

    torch.set_num_threads(threads)
    model = load_model(weights, channels)
    function = denoiser(model, sigma)
    image = torch.empty(channels, size, size).uniform_(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        function(torch.zeros(1, channels, 64, 64))
    idle = peak_mb()
    start = time.perf_counter()
    apply_tiled(
        function,
        image,
        Tiles(tile, default_overlap(model.tile_needs), model.tile_needs),
        device="cpu",
        out=image,
    )
    return time.perf_counter() - start, peak_mb() - idle


def peak_mb() -> float:
    """Most memory this process has held so far, in MB; Linux counts in KiB, macOS in bytes."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def compare(options: argparse.Namespace) -> None:
    """Print tiled against whole, in dB, for each tile, halo and overlap."""
    import torch

    from deepgsr_cli.compute.tiling import Tiles, apply_tiled, default_overlap
    from deepgsr_cli.formats.image import picture_paths, read_channels
    from deepgsr_cli.pictures.dataset import pair_paths

    def psnr(a, b) -> float:
        return -10 * torch.mean((a.double() - b.double()) ** 2).log10().item()

    torch.set_num_threads(options.threads)
    model = load_model(options.weights, options.channels)
    function = denoiser(model, options.sigma)
    needs = model.tile_needs
    generator = torch.Generator().manual_seed(0)
    mode = "gray" if options.channels == 1 else "RGB"
    if model.config.conditions:
        damage = f"Gaussian noise of sigma {options.sigma:g}, seed 0"
        cleans = [
            torch.from_numpy(read_channels(path, options.channels))
            for path in picture_paths(options.data)[: options.images]
        ]
        pairs = [(x + options.sigma / 255 * torch.randn(x.shape, generator=generator), x) for x in cleans]
    else:
        damage = "rain"
        pairs = [
            tuple(torch.from_numpy(read_channels(path, options.channels)) for path in pair)
            for pair in pair_paths(options.data, "rain")[: options.images]
        ]
    with torch.no_grad():
        examples = [(clean, noisy, function(noisy[None])[0]) for noisy, clean in pairs]

    mean = sum(psnr(whole, clean) for clean, _, whole in examples) / len(examples)
    print(f"\n{len(examples)} images of {options.data}, {mode}, {damage},")
    print(f"neither clipped nor rounded; whole: {mean:.4f} dB. Grid {needs.grid} px. Loss: PSNR to the clean")
    print("image, whole minus tiled; tiled to whole: PSNR between the two, over images that were tiled.\n")
    print(" tile  halo  overlap  mean loss/dB  worst loss/dB  tiled to whole/dB  tiled images")
    for tile, halo in itertools.product(options.tile, options.halo or [needs.halo]):
        asked = dataclasses.replace(needs, halo=halo)
        for overlap in options.overlap or [default_overlap(asked)]:
            if not tile or overlap < 2 * halo or tile < overlap + needs.grid:
                continue
            losses, likeness = [], []
            for clean, noisy, whole in examples:
                if max(noisy.shape) > tile:
                    tiled = apply_tiled(function, noisy, Tiles(tile, overlap, asked), device="cpu")
                    losses.append(psnr(whole, clean) - psnr(tiled, clean))
                    likeness.append(psnr(tiled, whole))
            if losses:
                print(
                    f"{tile:5d} {halo:5d} {overlap:8d} {sum(losses) / len(losses):13.5f} {max(losses):14.5f} "
                    f"{sum(likeness) / len(likeness):18.2f} {len(losses):13d}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--weights", help="Name or file of denoising weights.")
    model.add_argument("--random", action="store_true", help="Use random weights of the small preset.")
    parser.add_argument("--size", type=int, nargs="*", default=[2000], help="Sides of square images, in px.")
    parser.add_argument("--tile", type=int, nargs="+", default=[256, 512, 1024, 2048], help="0: whole image.")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--sigma", type=float, default=25, help="Noise level on the 0-255 scale.")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads.")
    parser.add_argument("--data", type=Path, help="Folder of clean images to compare tiled and whole on.")
    parser.add_argument("--images", type=int, help="Most images of --data.")
    parser.add_argument("--halo", type=int, nargs="+", help="Halos to compare, in px; default: the model's.")
    parser.add_argument("--overlap", type=int, nargs="+", help="Overlaps to compare, in px.")
    options = parser.parse_args()

    print(f"Weights {options.weights or 'random, small preset'}; {options.threads} CPU threads, float32.")
    if options.size:
        print("One run each, in a process of its own after a warm-up: a uniform random image is restored in")
        print("place, one tile at a time, with the default overlap. Memory: peak resident set during the run")
        print("minus the peak with torch, model and image loaded.\n")
        print(" size  tile  seconds  Mpx/s  memory above idle/MB")
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the peak of this process
    for size, tile in itertools.product(options.size, options.tile):
        job = (options.weights, options.channels, options.sigma, size, tile, options.threads)
        with spawn.Pool(1) as pool:
            seconds, memory = pool.apply(time_size, job)
        print(f"{size:5d} {tile:5d} {seconds:8.2f} {size**2 / seconds / 1e6:6.2f} {memory:21.0f}", flush=True)
    if options.data is not None:
        compare(options)


if __name__ == "__main__":
    main()
