"""Networks side by side: each is trained by the same options, then measured on the same test pictures.

    python benchmarks/ablation.py denoise --train "--data TRAIN --max-minutes 12 --patch 56 --batch 4" \\
        --network "--model groupsc" --network "--model groupsc --without-groups" \\
        --test "--data BSD68 --gray --sigma 25" --test "--data Urban100 --gray --sigma 25"

Options of `--train` go to `deepgsr train TASK` for every network, those of a `--network` for that one alone,
and those of a `--test` to `deepgsr eval TASK`. The test pictures are only measured on, not chosen on. Runs
stay in `--output`, and those that are there are not trained again. A single option is given after an equals
sign: `--network=--without-groups`.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Tasks whose evaluation has the network alone.
_ONE_METHOD = {"dejpeg", "restore"}
# Of a line of means: what stands beside the figures.
_NOT_MEASURED = {"method", "psnr", "psnr_y", "psnr_b", "ssim", "ssim_y", "pixels_per_second"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", help="denoise, dejpeg, demosaick, upscale, ...")
    parser.add_argument("--train", default="", help="Options of every training.")
    parser.add_argument("--network", action="append", required=True, help="Options of one training.")
    parser.add_argument("--test", action="append", required=True, help="Options of one evaluation.")
    parser.add_argument("--output", type=Path, default=Path("ablation"), help="Folder of the runs.")
    options = parser.parse_args()

    print(f"train {options.task} {options.train}")
    for test in options.test:
        print(f"eval {options.task} {test}")
    for network in options.network:
        run = options.output / (network.replace("-", "").replace(" ", "_") or "default")
        if not (run / "config.json").exists():
            arguments = ["train", options.task, *shlex.split(options.train), *shlex.split(network)]
            _run([*arguments, "--output", str(run)])
        steps, seconds = _effort(run)
        weights = ["--weights", str(run / "model.safetensors"), "--json"]
        weights += [] if options.task in _ONE_METHOD else ["--method", "deepgsr"]
        print(f"\n{network or 'default'}: {steps:,} steps in {seconds / 60:.1f} minutes")
        for test in options.test:
            for line in _means(_run(["eval", options.task, *shlex.split(test), *weights])):
                print(f"  {line}", flush=True)


def _run(arguments: list[str]) -> str:
    """Run a command of deepgsr, and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "deepgsr_cli", *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def _effort(run: Path) -> tuple[int, float]:
    """Steps and seconds of a run, by its log."""
    with (run / "log.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return int(last["step"]), float(last["seconds"])


def _means(lines: str) -> Iterator[str]:
    """Word the means of an evaluation: a line for each level of damage."""
    summary = json.loads(lines.splitlines()[-1])
    for mean in summary["means"]:
        if mean["method"] == "deepgsr":
            name = "psnr_y" if "psnr_y" in mean else "psnr"
            level = ", ".join(f"{key} {value:g}" for key, value in mean.items() if key not in _NOT_MEASURED)
            speed = mean["pixels_per_second"] / 1e6
            yield f"{summary['protocol']['data']}, {level}: {mean[name]:.2f} dB, {speed:.3f} megapixels/s"


if __name__ == "__main__":
    main()
