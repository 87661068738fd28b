"""Speed of training: steps a second, and the share of time of each part, of each task at its shipped preset.

    python benchmarks/training.py [--task denoise ...] [--seconds 10] [--threads 1] [--device cpu ...]

Data are made up, as the time does not depend on what they show; crops and batches are those of `deepgsr
train`. Without --device it measures the CPU and, where there is one, CUDA. For the shares, the device is
waited for after each part, which a training run does not; the last column is without these waits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from deepgsr_cli.training.config import TrainConfig

PARTS = ("data", "forward", "backward", "optimiser", "average")
# Task and preset; batch, side of a crop and channels are those that `deepgsr train` has by default.
RUNS = (
    ("denoise", "small"),
    ("denoise", "collaborative"),
    ("denoise", "base"),
    ("derain", "small"),
    ("restore", "small"),
    ("ct-recon", "small"),
    ("mar", "small"),
    ("phase", "small"),
)
# Of crops: batch and side.
SIZES = {"ct-recon": (4, 128), "mar": (1, 256), "phase": (8, 64)}
WARM_UP = 2


def write_data(folder: Path) -> None:
    """Write made-up pictures, and slices as 16-bit PNG of HU + 1024."""
    import numpy as np
    import PIL.Image

    generator = np.random.default_rng(0)
    for name in ("photos", "series"):
        (folder / name).mkdir()
    y, x = np.mgrid[:512, :512] / 256 - 1
    for i in range(4):
        shade = generator.uniform(0, 255, (8, 8, 3)).astype(np.uint8)
        picture = PIL.Image.fromarray(shade).resize((512, 512), PIL.Image.Resampling.BICUBIC)
        picture.save(folder / "photos" / f"{i}.png")
        hu = np.where(np.hypot(x, y * (1.1 + 0.1 * i)) < 0.8, 40, -1000)
        PIL.Image.fromarray((hu + 1024).astype(np.uint16)).save(folder / "series" / f"{i}.png")


def config_of(task: str, preset: str, folder: Path, device: str, precision: str) -> TrainConfig:
    """Configuration of a run of the task on the made-up data."""
    from deepgsr_cli.pictures.tasks import TASKS
    from deepgsr_cli.training.config import TrainConfig

    batch, patch = SIZES.get(task, (16, 64))
    return TrainConfig(
        data=(folder / ("series" if task in ("ct-recon", "mar") else "photos"),),
        output=folder / "run",
        task=task,
        preset=preset,
        channels=TASKS[task].channels_for(1) if task in TASKS else 1,
        batch=batch,
        patch=patch,
        held_out=1,
        precision=precision,
        device=device,
    )


def measure(config: TrainConfig, device: torch.device, seconds: float) -> tuple[dict[str, float], float]:
    """Seconds a step of each part, and seconds a step without waiting for the device after each."""
    import copy

    import torch

    from deepgsr_cli.tasks import training_of
    from deepgsr_cli.training.optimizers import optimizer
    from deepgsr_cli.training.task import Draw

    task = training_of(config.task)(config, device)
    torch.manual_seed(config.seed)
    model = task.network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).requires_grad_(False)
    parts = optimizer(config.optimizer, model, config.learning_rate, config.weight_decay, fused=True)
    spent = dict.fromkeys(PARTS, 0.0)

    def run(step: int, *, wait: bool) -> None:
        since = time.perf_counter()

        def done(part: str) -> None:
            nonlocal since
            if wait:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                now = time.perf_counter()
                spent[part] += now - since
                since = now

        sample = task.sample(Draw.of(device, config.seed, step))
        done("data")
        model.zero_grad(set_to_none=True)
        loss = task.loss(model, sample)
        done("forward")
        loss.backward()
        done("backward")
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for part in parts:
            part.step()
        done("optimiser")
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1e-3)
        done("average")

    def timed(*, wait: bool) -> tuple[int, float]:
        """Steps made in the time given, and what they took."""
        started, steps = time.perf_counter(), 0
        while steps == 0 or time.perf_counter() - started < seconds / 2:
            run(WARM_UP + steps, wait=wait)
            steps += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return steps, time.perf_counter() - started

    for step in range(WARM_UP):
        run(step, wait=False)
    steps, _ = timed(wait=True)
    free, taken = timed(wait=False)
    return {part: value / steps for part, value in spent.items()}, taken / free


def main() -> None:
    tasks = list(dict.fromkeys(task for task, _ in RUNS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--task", action="append", choices=tasks, help="Only these; else all.")
    parser.add_argument("--seconds", type=float, default=10.0, help="To measure each run, after warming up.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", action="append", help="By default cpu, and cuda where there is one.")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()

    import torch

    from deepgsr_cli.compute.device import select_device

    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    devices = options.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    print(
        f"PyTorch {torch.__version__}, {options.threads} threads, {options.precision}, not compiled;"
        f" {WARM_UP} steps before about {options.seconds:g} s of each run; made-up data of 512 x 512;"
        " shares of the time of a step that waits for each part\n"
    )
    heading = f"{'device':<8}{'task':<10}{'preset':<15}{'batch':>5}{'side':>6}"
    print(heading + "".join(f"{part:>11}" for part in PARTS) + f"{'steps/s':>10}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        for device_name in devices:
            device = select_device(device_name)
            for task, preset in RUNS:
                if options.task and task not in options.task:
                    continue
                config = config_of(task, preset, folder, device_name, options.precision)
                spent, step = measure(config, device, options.seconds)
                whole = sum(spent.values())
                shares = "".join(f"{100 * spent[part] / whole:>10.1f}%" for part in PARTS)
                row = f"{device_name:<8}{task:<10}{preset:<15}{config.batch:>5}{config.patch:>6}"
                print(f"{row}{shares}{1 / step:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
