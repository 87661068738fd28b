"""What --jobs gains on few pictures, and what it costs a file on many tiny ones.

    python benchmarks/jobs.py [--jobs 2] [--pictures 40] [--size 321 481] [--files 10000]

First, pictures are denoised by one process of one thread and by several, in turns, so that a busy moment does
not fall on one of them alone. Throughput counts wall-clock time less the start, which is that of two tiny
pictures; where other work keeps the cores busy, CPU seconds say what free ones would give. The results must
be the same bytes. Then tiny pictures are written back unchanged (`--sigma 0`), a tenth of them and all: the
difference is what a file costs, and memory must not grow with their number.
CPU seconds are those of all processes, memory that of the largest one.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds, CPU seconds of all processes, and MiB of the largest one."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def denoise(source: Path, target: Path, *options: object) -> Cost:
    """Run the command in processes of one thread."""
    command = [sys.executable, "-m", "deepgsr_cli", "denoise", str(source), "-o", str(target), "--quiet"]
    command += ["--device", "cpu", "--weights", "deepgsr-gray-fast", *map(str, options)]
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)}: exit status {status}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def write_pictures(folder: Path, count: int, height: int, width: int) -> Path:
    """Write gray pictures of uniform noise."""
    import numpy as np

    from deepgsr_cli.formats.image import Image, write_image

    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.random((1, height, width), dtype=np.float32)
        write_image(folder / f"{number:06}.png", Image(pixels, "uint8", "PNG"))
    return folder


def show_throughput(folder: Path, options: argparse.Namespace) -> None:
    """Print the throughput of one process and of several."""
    source = write_pictures(folder / "pictures", options.pictures, *options.size)
    tiny = write_pictures(folder / "two", 2, 8, 8)
    costs: dict[int, list[Cost]] = {1: [], options.jobs: []}
    starts: dict[int, list[Cost]] = {1: [], options.jobs: []}
    for _ in range(options.repeat):
        for jobs in costs:
            starts[jobs].append(denoise(tiny, folder / "start", "--jobs", jobs, "--overwrite"))
            target = folder / f"by {jobs}"
            costs[jobs].append(denoise(source, target, "--jobs", jobs, "--sigma", 25, "--overwrite"))
    names = [path.name for path in source.iterdir()]
    _, different, missing = filecmp.cmpfiles(folder / "by 1", folder / f"by {options.jobs}", names, False)
    height, width = options.size
    print(f"{options.pictures} pictures of {width} x {height}, {os.cpu_count()} cores")
    print("jobs  wall s  of it start   CPU s  of it start   MiB  pictures/s  CPU s/picture")
    rates, each = {}, {}
    for jobs in costs:
        found, start = median(costs[jobs]), median(starts[jobs])
        rates[jobs] = options.pictures / (found.wall_s - start.wall_s)
        each[jobs] = (found.cpu_s - start.cpu_s) / options.pictures
        print(
            f"{jobs:4}  {found.wall_s:6.1f}  {start.wall_s:11.1f}  {found.cpu_s:6.1f}  {start.cpu_s:11.1f}"
            f"  {found.peak_mib:4.0f}  {rates[jobs]:10.2f}  {each[jobs]:13.3f}"
        )
    free = options.jobs * each[1] / each[options.jobs]
    print(f"throughput x {rates[options.jobs] / rates[1]:.2f}; by CPU seconds, on free cores, x {free:.2f}")
    print(f"{len(different) + len(missing)} files differ\n")


def median(costs: list[Cost]) -> Cost:
    """The median of each figure."""
    values = ([getattr(cost, name) for cost in costs] for name in ("wall_s", "cpu_s", "peak_mib"))
    return Cost(*map(statistics.median, values))


def show_overhead(folder: Path, options: argparse.Namespace) -> None:
    """Print what a tiny file costs, and memory by the number of files."""
    print("tiny files, written back unchanged")
    print("jobs   files   wall s    CPU s   MiB")
    sources = [write_pictures(folder / f"tiny {n}", n, 8, 8) for n in (options.files // 10, options.files)]
    for jobs in (1, options.jobs):
        few, many = (
            denoise(source, folder / f"{source.name} {jobs}", "--sigma", 0, "--jobs", jobs)
            for source in sources
        )
        for count, cost in ((options.files // 10, few), (options.files, many)):
            print(f"{jobs:4}  {count:6}  {cost.wall_s:7.1f}  {cost.cpu_s:7.1f}  {cost.peak_mib:4.0f}")
        a_file = (many.cpu_s - few.cpu_s) / (options.files - options.files // 10)
        print(f"      a file: {a_file:.4f} CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--size", type=int, nargs=2, default=(321, 481), metavar=("H", "W"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--files", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.pictures:
            show_throughput(Path(name), options)
        if options.files:
            show_overhead(Path(name), options)


if __name__ == "__main__":
    main()
