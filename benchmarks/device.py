"""What one device does: megapixels a second of each network, CT slices a second, and how near its peak.

    python benchmarks/device.py [--device cuda] [--size 1024] [--precision fp32 bf16] [--weights NAME ...]

The peak is the rate of one matrix product and of one 3 x 3 convolution of 64 maps in each precision, measured
here; a network's share of it counts the multiply-adds of its convolutions and products, against the
convolution. The networks get one tile of random pixels, and the collaborative filter has a row of its own.
Memory is the largest that a run takes on a CUDA device, weights included, and "-" on others. The best of the
repeats counts. CT is `ct-recon` with the network over simulated scans, from files to files; more of it is in
ct_batches.py.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from deepgsr_cli.compute.precision import Precision

PRECISIONS = ("fp32", "bf16", "fp16")
MAPS = 64
# Side of the tile on which multiply-adds are counted.
COUNTED_PX = 128
SIGMA = 25 / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=1024, help="Side of the tile in pixels.")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--weights", nargs="+", help="Networks by name; else all shipped ones for pictures.")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--slices", type=int, default=16, help="CT slices of 512 x 512; 0 for none.")
    show(parser.parse_args())


def show(options: argparse.Namespace) -> None:
    """Print the tables."""
    import torch

    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.compute.memory import keep_freed_memory
    from deepgsr_cli.pictures.tasks import TASKS
    from deepgsr_cli.weights.manifest import load_manifest

    keep_freed_memory()
    device = select_device(options.device)
    names = options.weights or [entry.name for entry in load_manifest().values() if entry.task in TASKS]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")

    print("| peak | product, GMAC/s | convolution, GMAC/s |\n| --- | ---: | ---: |")
    peaks = {}
    for precision in options.precision:
        product = rate(matrix_product(options.size, device), device, precision, options.repeat)
        peaks[precision] = rate(convolution(options.size, device), device, precision, options.repeat)
        print(f"| {precision} | {product / 1e9:.4g} | {peaks[precision] / 1e9:.4g} |", flush=True)

    print("\n| network | precision | megapixels/s | share of the peak | memory (MiB) |")
    print("| --- | --- | ---: | ---: | ---: |")
    for weights in names:
        run = network(weights, options.size, device)
        operations = multiply_adds(weights) * options.size**2
        for precision in options.precision:
            seconds, mib = measured(run, device, precision, options.repeat)
            share = operations / seconds / peaks[precision]
            megapixels = options.size**2 / seconds / 1e6
            memory = "-" if mib is None else f"{mib:.0f}"
            print(f"| {weights} | {precision} | {megapixels:.3g} | {share:.0%} | {memory} |", flush=True)
    seconds, _ = measured(collaborative(options.size, device), device, "fp32", options.repeat)
    print(f"| collaborative filter, gray | fp32 | {options.size**2 / seconds / 1e6:.3g} | | |")
    if options.slices:
        print(f"\nct-recon, network, 60 views: {ct_rate(options.slices, device):.3g} slices/s")


Task = tuple[Callable[[], object], float]


def matrix_product(size: int, device: torch.device) -> Task:
    """A product of square matrices, and its multiply-adds."""
    import torch

    a, b = torch.rand(2, size, size, device=device)
    return lambda: a @ b, float(size) ** 3


def convolution(size: int, device: torch.device) -> Task:
    """A convolution of 3 x 3 from maps to maps of half the size of a tile, and its multiply-adds."""
    import torch
    import torch.nn.functional as F

    side = max(8, size // 2)
    x = torch.rand(1, MAPS, side, side, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(MAPS, MAPS, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, padding=1), 9.0 * MAPS**2 * side**2


def network(weights: str, size: int, device: torch.device) -> Callable[[], object]:
    """What runs a network on one tile of random pixels; the filter's estimate, if it takes one, is random."""
    import torch

    from deepgsr_cli.models import NSR, PRIORS
    from deepgsr_cli.weights.checkpoint import load_checkpoint
    from deepgsr_cli.weights.resolve import resolve

    model = load_checkpoint(resolve(weights).path, PRIORS).model.to(device)
    config = model.config
    tile = torch.rand(1, 1 if config.mosaic else config.channels, size, size, device=device)
    if isinstance(model, NSR):
        return lambda: model.enlarge(tile, 2)
    condition = torch.full((1, config.conditions), SIGMA, device=device) if config.conditions else None
    if not getattr(config, "search", 0):
        return lambda: model(tile, condition)
    filtered = torch.rand(1, 2 * config.channels, size, size, device=device) - 0.5
    return lambda: model(tile, condition, filtered)


def multiply_adds(weights: str) -> float:
    """Multiply-adds of a network for a pixel, of its convolutions and matrix products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    run = network(weights, COUNTED_PX, torch.device("cpu"))
    with torch.no_grad(), counter:
        run()
    return counter.get_total_flops() / 2 / COUNTED_PX**2


def collaborative(size: int, device: torch.device) -> Callable[[], object]:
    """What filters one gray tile of random pixels, with the radius of the shipped networks."""
    import torch

    from deepgsr_cli.models.collaborative import collaborative_filter

    tile, sigma = torch.rand(1, 1, size, size, device=device), torch.tensor([SIGMA], device=device)
    return lambda: collaborative_filter(tile, sigma, 16)


def rate(task: Task, device: torch.device, precision: Precision, repeat: int) -> float:
    """Multiply-adds a second of a task."""
    run, operations = task
    return operations / measured(run, device, precision, repeat)[0]


def measured(
    run: Callable[[], object], device: torch.device, precision: Precision, repeat: int
) -> tuple[float, float | None]:
    """Fewest seconds of several runs after one that is not counted, and MiB of a CUDA device at most."""
    import torch

    from deepgsr_cli.compute.device import wait
    from deepgsr_cli.compute.precision import autocast

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    with torch.inference_mode(), autocast(device, precision):
        for _ in range(1 + repeat):
            started = time.perf_counter()
            run()
            wait(device)
            times.append(time.perf_counter() - started)
    mib = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return min(times[1:]), mib


def ct_rate(count: int, device: torch.device) -> float:
    """Slices a second of ct-recon with the network, several at once, measured as by ct_batches.py."""
    import numpy as np
    from ct_batches import PHOTONS, phantom, reconstruction, slices_per_second

    from deepgsr_cli.ct.jobs import plan_scans
    from deepgsr_cli.ct.simulation import SimulatedScan
    from deepgsr_cli.tomography.attenuation import to_attenuation
    from deepgsr_cli.tomography.geometry import sparse_view

    geometry = sparse_view((512, 512), (400 / 512,) * 2, 60)
    sinogram = SimulatedScan(geometry, PHOTONS)(to_attenuation(phantom(512, 0), device), 0)[0, 0]
    with tempfile.TemporaryDirectory() as folder:
        stack = Path(folder) / "stack.npy"
        np.save(stack, np.stack([sinogram.cpu().numpy()] * count))
        plan = plan_scans([str(stack)], str(Path(folder) / "out"), geometry=geometry)
        at_once = min(count, 16)
        return slices_per_second(reconstruction(plan, device, "deepgsr", at_once), plan, at_once)


if __name__ == "__main__":
    main()
