"""Training: one loop for all tasks, bounded by steps or minutes, resumable bit for bit on the CPU."""

from __future__ import annotations

import copy
import csv
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.device import select_device
from deepgsr_cli.compute.processes import Processes
from deepgsr_cli.errors import DivergenceError, InputError, UsageError
from deepgsr_cli.files import atomic_write, clean_up, make_folder
from deepgsr_cli.interrupts import held_back
from deepgsr_cli.models.deepgsr import skip_new_blocks, told_more
from deepgsr_cli.training.config import CHANGEABLE, TrainConfig, plain_config, public_config
from deepgsr_cli.training.optimizers import optimizer
from deepgsr_cli.training.stepping import Descent, Gradients
from deepgsr_cli.training.task import Draw, S, TrainingTask
from deepgsr_cli.version import __version__
from deepgsr_cli.weights.checkpoint import read_checkpoint, save_checkpoint


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Steps made.
        share: Share of the run that is done, 0 to 1.
        loss: Mean loss since the last validation.
        psnr: PSNR of the last validation, in dB; NaN before the first.
        best: The best of the run; minus infinity before the first.
        psnr_given: PSNR of what the pictures to validate on have before any network.
        given: What that is: "the noisy input".
        seconds: Seconds of training.
        validated: Whether this tells of a validation.
    """

    step: int
    share: float
    loss: float
    psnr: float
    best: float
    psnr_given: float
    given: str
    seconds: float
    validated: bool


class _Run(Generic[S]):
    """Everything that a checkpoint of a run holds."""

    def __init__(
        self, config: TrainConfig, task: TrainingTask[S], device: torch.device, processes: Processes
    ) -> None:
        self.config = config
        self.processes = processes
        self.task = task
        self.device = device
        torch.manual_seed(config.seed)
        self.model = task.network()
        if config.start is not None:
            own, other = self.model.state_dict(), read_checkpoint(config.start).tensors
            # Weights that are told less than this network say the same when it is told more.
            name = "embed.0.weight"
            if name in own and name in other and other[name].shape[1] < own[name].shape[1]:
                other[name] = told_more(other[name], own[name].shape[1] // 2)
            fitting = {k: v for k, v in other.items() if k in own and own[k].shape == v.shape}
            if not fitting:
                raise UsageError(
                    f"--start {config.start}: nothing in it fits this network; give the --preset it has"
                )
            self.model.load_state_dict(own | fitting)
            skip_new_blocks(self.model, fitting)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        fused = device.type in ("cpu", "cuda")
        self.optimizers = optimizer(
            config.optimizer, self.model, config.learning_rate, config.weight_decay, fused
        )
        self.gradients = Gradients(task, self.model)
        self.descent = Descent(self.model, self.average, self.optimizers, config.clip)
        self.step = 0
        self.seconds = 0.0
        self.best = -math.inf
        self.rows: list[tuple[int, float, float, float]] = []  # step, seconds, loss, PSNR
        self.losses: list[Tensor] = []  # since the last of them

    def share(self) -> float:
        """Part of the run that is done, by steps or by time."""
        return max(self.step / self.config.steps, self.seconds / 60 / self.config.max_minutes)

    def state(self) -> dict[str, Any]:
        return {
            "config": plain_config(self.config),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [part.state_dict() for part in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "rows": self.rows,
            "losses": self.losses,
        }

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # which of many depends on the bytes that are damaged
            raise InputError(
                f"{path}: is damaged ({type(error).__name__}); begin another run from the weights beside it,"
                " by --start and another --output"
            ) from error
        ours = plain_config(self.config)
        for name, value in state["config"].items():
            if ours[name] != value and name not in CHANGEABLE:
                option = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{path}: the run has {option} {value}, now it is {ours[name]}; "
                    "resume with the same options, or give another --output"
                )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for part, values in zip(self.optimizers, state["optimizers"], strict=True):
            part.load_state_dict(values)
        self.descent.settle()
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.rows = [tuple(row) for row in state["rows"]]
        self.losses = state.get("losses", [])  # which runs of earlier versions have not

    def sample(self) -> S:
        """The batch of this step."""
        return self.task.sample(Draw.of(self.device, self.config.seed, self.step, self.processes.rank))

    def advance(self) -> Tensor:
        """Loss of one step, made; reading it waits for the device."""
        config = self.config
        sample = self.sample()
        warm = min(1.0, (self.step + 1) / max(config.warmup, 1))
        slope = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share())))
        loss = self.gradients(sample)
        self.processes.average(p for p in self.model.parameters() if p.requires_grad)
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        self.descent(config.learning_rate * warm * slope, decay)
        self.step += 1
        return loss

    def is_to_be_validated(self) -> bool:
        """Whether this step is one that is validated, and is not yet."""
        is_due = self.step % self.config.validate_every == 0 or self.share() >= 1
        return is_due and self.step not in (0, *(row[0] for row in self.rows[-1:]))

    def validate(self, samples: list[S]) -> float:
        """Mean PSNR in dB of the averaged weights."""
        with torch.inference_mode():
            return _mean_over(samples, lambda sample: self.task.psnr(self.average, sample))

    def wait(self) -> None:
        """Until the device has done what it was given: until then clocks tell nothing."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


# Drawing the curve takes a tenth of a second, as much as many steps of a small network.
_SECONDS_BETWEEN_CURVES = 60.0

# What a run writes.
_FILES = ("state.pt", "model.safetensors", "config.json", "log.csv", "curve.png")

# Steps that the device may lag behind, so that a run bounded by time ends in time.
_AHEAD = 16


def train(
    config: TrainConfig,
    make_task: Callable[[TrainConfig, torch.device], TrainingTask[S]],
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train a network; return where the run ended. Its files are in `config.output`.

    Started by torchrun, the processes train together, and the first one writes.

    The batch of a step is a function of the seed and the step, and so is the learning rate (or one of the
    time, with `max_minutes`): a run that was interrupted and resumed equals an unbroken one, bit for bit on
    the CPU when bounded by steps.

    Args:
        config: The run.
        make_task: Reads the data of the run; its task, on a device.
        resume: Go on from `state.pt` in the output folder, if there is one.
        report: Called about once a second and after each validation.

    Raises:
        UsageError: The folder holds another run, or the task cannot do what is asked.
        InputError: No data, or the state to go on from is damaged.
        OutputError: The folder cannot be made.
        DivergenceError: The weights are no numbers any more; files of the run are as they were.
        ProcessError: Another process of the run has ended.
    """
    # Momentum of features that have died decays to denormal numbers, which make products 20 times slower.
    torch.set_flush_denormal(True)
    processes = Processes()
    device = processes.device(select_device(config.device))
    state_path = config.output / "state.pt"
    if state_path.exists() and not resume:
        raise UsageError(
            f"{config.output}: holds a run already; add --resume to go on, or give another --output"
        )
    task = make_task(config, device)
    validation = task.validation()
    psnr_given = _mean_over(validation, task.psnr_given)
    run = _Run(config, task, device, processes)
    first = processes.rank == 0
    if state_path.exists():
        run.load(state_path)
    facts = {
        "task": config.task,
        "version": __version__,
        "training_data": task.summary,
        "train_config": json.dumps(public_config(config)),
    }
    if first:
        make_folder(config.output)
        clean_up((config.output / name for name in _FILES), sparing=True)
        with atomic_write(config.output / "config.json") as path:
            path.write_text(json.dumps(plain_config(config), indent=2) + "\n", encoding="utf-8")

    last_psnr = run.rows[-1][3] if run.rows else math.nan

    def tell(*, validated: bool = False) -> Progress:
        progress = Progress(
            step=run.step,
            share=min(1.0, run.share()),
            loss=run.rows[-1][2] if validated else _mean(run.losses),
            psnr=last_psnr,
            best=run.best,
            psnr_given=psnr_given,
            given=task.given,
            seconds=run.seconds,
            validated=validated,
        )
        if report is not None and first:
            report(progress)
        return progress

    def save() -> None:
        if first:
            with atomic_write(state_path) as path:
                torch.save(run.state(), path)

    if config.compile:
        run.gradients.prepare(run.sample(), warnings.warn)
        run.descent.prepare(warnings.warn)
    since = reported = drawn = time.monotonic()
    try:
        while True:
            if first and run.is_to_be_validated():
                last_psnr = run.validate(validation)
                if math.isnan(last_psnr):
                    raise DivergenceError(
                        f"step {run.step}: the weights are no numbers any more; give a lower --learning-rate"
                        f" than {config.learning_rate:g}, and a new --output"
                    )
                with held_back():
                    run.rows.append((run.step, round(run.seconds, 1), _mean(run.losses), last_psnr))
                    run.losses.clear()
                    if last_psnr > run.best:
                        run.best = last_psnr
                        steps = {"steps": str(run.step), "validation_psnr": f"{last_psnr:.3f}"}
                        save_checkpoint(config.output / "model.safetensors", run.average, info=facts | steps)
                    save()
                    _write_log(config.output / "log.csv", run.rows)
                    if run.share() >= 1 or time.monotonic() - drawn > _SECONDS_BETWEEN_CURVES:
                        _draw_curve(config.output / "curve.png", run.rows)
                        drawn = time.monotonic()
                tell(validated=True)
                reported = time.monotonic()
            if run.share() >= 1:
                return tell()
            with held_back():
                run.losses.append(run.advance())
                if run.step % _AHEAD == 0:
                    run.wait()
                now = time.monotonic()
                run.seconds, since = processes.agreed(run.seconds + now - since), now
            if now - reported > 1:
                tell()
                reported = now
    except KeyboardInterrupt:
        save()
        raise


def _mean_over(samples: list[S], psnr: Callable[[S], float]) -> float:
    """Mean PSNR in dB over the images of batches, of a function that gives a batch's mean."""
    return float(np.average([psnr(s) for s in samples], weights=[len(s.clean) for s in samples]))


def _mean(losses: list[Tensor]) -> float:
    return float(torch.stack(losses).double().mean()) if losses else math.nan


def _write_log(target: Path, rows: list[tuple[int, float, float, float]]) -> None:
    """Write the rows of a run, `_Run.rows`, as a table."""
    with atomic_write(target) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "seconds", "loss", "validation_psnr_db"))
        writer.writerows(rows)


def _draw_curve(target: Path, rows: list[tuple[int, float, float, float]]) -> None:
    """Draw validation PSNR and training loss over the steps of a run, `_Run.rows`."""
    # The object interface: no window system, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [row[0] for row in rows]
    axes.plot(steps, [row[3] for row in rows], color="tab:blue", marker=".")
    axes.set_xlabel("step")
    axes.set_ylabel("validation PSNR (dB)", color="tab:blue")
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(steps, [row[2] for row in rows], color="tab:orange", linewidth=1)
    right.set_ylabel("training loss", color="tab:orange")
    with atomic_write(target) as path:
        figure.savefig(path, format="png", dpi=120)
