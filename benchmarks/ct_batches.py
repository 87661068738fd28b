"""Slices per second of CT reconstruction and metal artifact reduction by the slices computed at once.

    python benchmarks/ct_batches.py [--device cuda] [--slices 48] [--batch 1 4 16] [--views 60] [--size 512]

Measured sinograms of a phantom with a metal rod, 1e5 photons a ray, are read from a stack on disk and written
as DICOM, as the commands do; what is made once a run is not counted. The largest memory is that of the
device, or of this process on the CPU, where it counts all runs so far: a run of 300 slices shows that it does
not grow.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from deepgsr_cli.ct.jobs import ScanPlan
    from deepgsr_cli.jobs.work import Work

# Iterations that do not stop at the noise, so that all runs do the same.
METHODS = ("fbp", "deepgsr", "sirt", "cgls", "tv")
METAL_METHODS = ("nmar", "deepgsr")
PHOTONS = 1e5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--slices", type=int, default=48, help="Slices of a run.")
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 4, 16))
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--size", type=int, default=512, help="Pixels across a slice.")
    parser.add_argument("--method", nargs="+", default=METHODS, choices=METHODS, help="Of ct-recon.")
    parser.add_argument("--without-mar", action="store_true")
    options = parser.parse_args()

    import numpy as np

    from deepgsr_cli.compute.device import select_device
    from deepgsr_cli.compute.memory import keep_freed_memory
    from deepgsr_cli.ct.jobs import plan_scans
    from deepgsr_cli.ct.simulation import SimulatedScan
    from deepgsr_cli.tomography.attenuation import to_attenuation
    from deepgsr_cli.tomography.geometry import sparse_view

    keep_freed_memory()
    device = select_device(options.device)
    geometry = sparse_view((options.size, options.size), (400 / options.size,) * 2, options.views)
    scan = SimulatedScan(geometry, PHOTONS)
    sinograms = [
        scan(to_attenuation(phantom(options.size, 8 * k), device), k)[0, 0].cpu().numpy() for k in range(4)
    ]
    print(f"{device}, {options.size} x {options.size} pixels, {options.views} views, {options.slices} slices")
    print("| method | at once | slices/s | largest memory (MiB) |")
    print("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        runs = [("ct-recon", method) for method in options.method]
        runs += [] if options.without_mar else [("mar", method) for method in METAL_METHODS]
        for command, method in runs:
            for count in options.batch:
                stack = Path(folder) / "stack.npy"
                np.save(stack, np.stack([sinograms[k % 4] for k in range(options.slices)]))
                target = Path(folder) / f"{command}_{method}_{count}"
                plan = plan_scans([str(stack)], str(target), geometry=geometry)
                make = partial(reconstruction if command == "ct-recon" else correction, plan, device)
                rate = slices_per_second(make(method, count), plan, count)
                print(f"| {command} {method} | {count} | {rate:.3g} | {peak_mib(device):.0f} |", flush=True)


def phantom(size: int, shift_px: int) -> np.ndarray:
    """A body with an organ, a bone and a metal rod, in HU, (size, size)."""
    import numpy as np

    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * 400 / size
    hu = np.where(np.hypot(x / 170, y / 120) < 1, 0, -1000).astype(np.float32)
    hu[np.hypot(x + 60 - shift_px, y) < 40] = 60
    hu[np.hypot(x, y - 80) < 20] = 700
    hu[np.hypot(x - 90, y) < 5] = 8000
    return hu


def reconstruction(plan: ScanPlan, device: torch.device, method: str, count: int) -> Work:
    """Make the work of ct-recon."""
    from deepgsr_cli.ct.batches import AtOnce
    from deepgsr_cli.ct.methods import Method, load_network
    from deepgsr_cli.ct.reconstruction import Reconstruction, Scan

    network = load_network(None, str(device), offline=True) if method == "deepgsr" else None
    photons = PHOTONS if method in ("deepgsr", "tv") else None
    scan = Scan(plan.jobs[0].geometry.num_views, plan.geometry, measured=True)
    return Reconstruction(Method(method, photons), scan, device, network, at_once=AtOnce(count))


def correction(plan: ScanPlan, device: torch.device, method: str, count: int) -> Work:
    """Make the work of mar."""
    from deepgsr_cli.ct.batches import AtOnce
    from deepgsr_cli.mar.methods import MetalMethod, load_network
    from deepgsr_cli.mar.reduction import MetalCorrection, MetalPlan

    network = load_network(None, str(device), offline=True) if method == "deepgsr" else None
    scans, at_once = MetalPlan(**vars(plan)), AtOnce(count)
    return MetalCorrection(MetalMethod(method), scans, "above 2500 HU", device, network, at_once=at_once)


def slices_per_second(work: Work, plan: ScanPlan, count: int) -> float:
    """Do a batch of jobs, which makes what is made once, and then all jobs of a plan; return their rate."""
    from deepgsr_cli.jobs.here import run_here
    from deepgsr_cli.jobs.run import Run

    for jobs in (plan.jobs[:count], plan.jobs):
        started = time.perf_counter()
        outcomes = list(run_here(Run(jobs, lambda place: work, overwrite=True)))
        seconds = time.perf_counter() - started
    assert all(outcome.status == "done" for outcome in outcomes), outcomes[0].error
    return len(outcomes) / seconds


def peak_mib(device: torch.device) -> float:
    """Largest memory so far, of a CUDA device since this was asked last, or else of this process."""
    import torch

    if device.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak / 2**20


if __name__ == "__main__":
    main()
