"""Training on pictures: degraded on the fly as their task says, or in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from deepgsr_cli.compute.precision import autocast
from deepgsr_cli.errors import OptionError, UsageError
from deepgsr_cli.evaluation.metrics import psnr, rounded8
from deepgsr_cli.files import named, sha256
from deepgsr_cli.formats.image import picture_paths, read_channels
from deepgsr_cli.models import (
    GROUPSC_PRESETS,
    NSR_PRESETS,
    PRESETS,
    PRIORS,
    DeepGSRConfig,
    GroupSCConfig,
    NSRConfig,
)
from deepgsr_cli.models.deepgsr import filter_of
from deepgsr_cli.pictures.dataset import Crops, pair_paths, read_pictures, smaller_copies
from deepgsr_cli.pictures.scenes import structures
from deepgsr_cli.pictures.tasks import EQUIVALENT_SIGMA, SIGMA, TASKS
from deepgsr_cli.training.losses import LOSSES
from deepgsr_cli.training.task import Draw, preset_of, split_evenly, without_validation

if TYPE_CHECKING:
    from deepgsr_cli.training.config import TrainConfig


@dataclass(frozen=True)
class PictureSample:
    """A batch of pictures.

    Attributes:
        shown: What the network is given, in the order of its arguments: degraded pictures, (B, C, H, W);
            what it is told, (B, conditions), if anything; what a collaborative filter makes of the
            pictures, if that is known.
        clean: The pictures without degradation, (B, C, H, W) in [0, 1].
        weight: What each picture's error counts, (B,).
    """

    shown: tuple[Tensor, ...]
    clean: Tensor
    weight: Tensor

    @property
    def degraded(self) -> Tensor:
        return self.shown[0]


class PictureTraining:
    """A task of `pictures.tasks.TASKS`: pictures degraded on the fly, pairs of pictures, or both by turns."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.task = TASKS[config.task]
        self.given = self.task.given
        self.shape = _shape(config)
        summaries = []
        self.held_out: list[Path] = []
        self.held_out_pairs: list[tuple[Path, Path]] = []
        self.crops = self.pair_crops = None
        if config.data:
            training, self.held_out = split_pictures(config)
            left_out = ""
            if self.task.pairs is not None:
                kept = _without_test_scenes(training)
                left_out = f", {len(training) - len(kept)} scenes of rain test sets left out"
                training, self.held_out = kept, _without_test_scenes(self.held_out)
            self.crops = Crops(training_pictures(training, config), config.patch, device)
            summaries.append(summary_of(training) + left_out)
        if config.pairs and self.task.pairs is not None:
            pairs = [pair for folder in config.pairs for pair in pair_paths(folder, self.task.pairs)]
            pairs, self.held_out_pairs = split_evenly(pairs, config.held_out)
            pictures = [np.concatenate(read_pictures(pair, config.channels, config.patch)) for pair in pairs]
            self.pair_crops = Crops(pictures, config.patch, device)
            summaries.append(summary_of([path for pair in pairs for path in pair]) + " in pairs")
        self.summary = "; ".join(summaries)

    def network(self) -> nn.Module:
        fields = dataclasses.asdict(self.shape)
        return PRIORS[self.config.model].from_config(fields)

    def sample(self, draw: Draw) -> PictureSample:
        task, config = self.task, self.config
        paired = 0
        if self.pair_crops is not None:
            draws = torch.rand(config.batch, generator=draw.cpu)
            paired = config.batch if self.crops is None else int((draws < PAIRED_SHARE).sum())
        parts = []
        if self.crops is not None and paired < config.batch:
            clean = self.crops(config.batch - paired, draw.cpu)
            if task.prepare is not None:
                clean = task.prepare(clean, draw)
            parts.append((*task.degrade(clean, config, draw), clean))
        if self.pair_crops is not None and paired:
            degraded, clean = self.pair_crops(paired, draw.cpu).chunk(2, dim=1)
            parts.append((degraded, clean.new_zeros(paired, task.conditions), clean))
        degraded, told, clean = (torch.cat(tensors) for tensors in zip(*parts))
        if task.degrade_further is not None:
            degraded = task.degrade_further(degraded, clean, config, draw.device)
        if task.level is None:
            return PictureSample((degraded,), clean, torch.ones(len(clean), device=clean.device))
        weight = task.level.ease(told) ** _POWERS[config.loss]
        shown: tuple[Tensor, ...] = (degraded, told)
        if search := getattr(self.shape, "search", 0):
            # Here rather than in the network, which is then free of what cannot be compiled or recorded.
            shown += (filter_of(degraded, told[:, 0], search),)
        return PictureSample(shown, clean, weight)

    def validation(self) -> list[PictureSample]:
        config, task = self.config, self.task
        cases: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, path in enumerate(self.held_out):
            pixels = _centre(read_channels(path, config.channels))
            clean = torch.from_numpy(pixels)[None]
            cases += [(*case, clean) for case in task.degrade_for_validation(pixels, config, number)]
        for pair in self.held_out_pairs:
            degraded, clean = (
                torch.from_numpy(_centre(read_channels(path, config.channels)))[None] for path in pair
            )
            cases.append((degraded, torch.zeros(1, task.conditions), clean))
        samples = []
        for number, (degraded, told, clean) in enumerate(cases):
            if task.degrade_further is not None:
                generator = torch.Generator().manual_seed(config.seed + number)
                degraded = task.degrade_further(degraded, clean, config, generator)
            shown = (degraded,) if task.level is None else (degraded, told)
            samples.append(PictureSample(shown, clean, torch.ones(1)))
        return joined(samples, 1 if self.device.type == "cpu" else 16)

    def loss(self, model: nn.Module, sample: PictureSample) -> Tensor:
        with autocast(self.device, self.config.precision):
            output = model(*sample.shown)
        return (LOSSES[self.config.loss](output.float() - sample.clean) * sample.weight).mean()

    def psnr(self, model: nn.Module, sample: PictureSample) -> float:
        return _mean_psnr(model(*(x.to(self.device) for x in sample.shown)), sample.clean)

    def psnr_given(self, sample: PictureSample) -> float:
        as_pictures = self.task.as_pictures
        pictures = sample.degraded if as_pictures is None else as_pictures(sample.degraded)
        return _mean_psnr(pictures, sample.clean)


# Shapes of the networks that pictures are restored with, by kind and name.
PRESETS_OF: dict[str, Mapping[str, DeepGSRConfig | GroupSCConfig | NSRConfig]] = {
    "deepgsr": PRESETS,
    "groupsc": GROUPSC_PRESETS,
    "nsr": NSR_PRESETS,
}

# Of `Level.ease`, that makes an error of each kind as large at all levels.
_POWERS = {"charbonnier": 0.5, "mse": 1.0, "psnr": 0.0}


def _shape(config: TrainConfig) -> DeepGSRConfig | GroupSCConfig | NSRConfig:
    """Shape of the network of a run.

    Raises:
        OptionError: There is no such model or preset, the task cannot use it, or channels are not 1 or 3.
    """
    task = TASKS[config.task]
    if config.channels not in (1, 3):
        raise OptionError("channels", config.channels, "give 1 for gray or 3 for colour")
    if config.model not in PRESETS_OF:
        raise OptionError("model", config.model, f"known are {', '.join(PRESETS_OF)}")
    shape = preset_of(config, PRESETS_OF[config.model])
    if getattr(shape, "search", 0) and task.level not in (SIGMA, EQUIVALENT_SIGMA):
        raise OptionError(
            "preset",
            config.preset,
            "its filter has to know the level of the noise, which denoise and photo are told; give small or"
            " paper",
        )
    if _scales(shape) != task.scales:
        fitting = [name for name, x in PRESETS_OF[config.model].items() if _scales(x) == task.scales]
        if not fitting:
            raise OptionError("model", config.model, f"it does not enlarge; give {task.model}")
        ours, theirs = (
            "does not enlarge" if scales == (1,) else f"enlarges {' or '.join(map(str, scales))} times"
            for scales in (_scales(shape), task.scales)
        )
        raise OptionError(
            "preset", config.preset, f"it {ours}, and {task.name} {theirs}; give {' or '.join(fitting)}"
        )
    try:
        if task.mosaic:
            shape = dataclasses.replace(shape, channels=3, mosaic=True)
        return dataclasses.replace(shape, channels=config.channels, conditions=task.conditions)
    except ValueError as error:
        raise OptionError("preset", config.preset, f"{task.name} cannot use it: {error}") from error


def _scales(shape: DeepGSRConfig | GroupSCConfig | NSRConfig) -> tuple[int, ...]:
    """Scales that a network of this shape restores at."""
    return shape.scales if isinstance(shape, NSRConfig) else (1,)


def joined(samples: list[PictureSample], most: int) -> list[PictureSample]:
    """Batches of up to `most` samples of pictures of one size, which a device restores faster than one by
    one."""
    sizes: dict[tuple[torch.Size, torch.Size], list[PictureSample]] = {}
    for sample in samples:
        sizes.setdefault((sample.clean.shape, sample.degraded.shape), []).append(sample)
    parts = [equal[i : i + most] for equal in sizes.values() for i in range(0, len(equal), most)]
    return [
        PictureSample(
            tuple(torch.cat(tensors) for tensors in zip(*(x.shown for x in part))),
            torch.cat([x.clean for x in part]),
            torch.cat([x.weight for x in part]),
        )
        for part in parts
    ]


# Of a batch, where there are both pairs and clean pictures.
PAIRED_SHARE = 0.3


def split_pictures(config: TrainConfig) -> tuple[list[Path], list[Path]]:
    """Pictures to train on, and those that are held out."""
    paths = [path for folder in config.data for path in picture_paths(folder)]
    if config.validation is not None:
        held_out = picture_paths(config.validation)
        return without_validation(paths, held_out), held_out
    return split_evenly(paths, config.held_out)


def rain_test_scenes() -> set[str]:
    """SHA-256 of pictures that are the clean side of a test set of rain.

    All of Rain100L and most of Rain100H are scenes of BSDS500; the list has the JPEG files of that set.
    """
    text = (
        resources.files("deepgsr_cli.pictures").joinpath("rain_test_scenes.txt").read_text(encoding="ascii")
    )
    return set(text.split())


def _without_test_scenes(paths: list[Path]) -> list[Path]:
    """The pictures that are no test scenes.

    Raises:
        UsageError: None are left.
    """
    scenes = rain_test_scenes()
    kept = [path for path in paths if sha256(path) not in scenes]
    if not kept and paths:
        raise UsageError(f"{paths[0].parent}: all pictures are test scenes of rain; give others")
    return kept


def training_pictures(paths: list[Path], config: TrainConfig) -> list[np.ndarray]:
    """Pictures, generated scenes and smaller copies to take crops from, (C, H, W), uint8."""
    pictures = read_pictures(paths, config.channels, config.patch)
    generator = np.random.default_rng(config.seed)
    scenes = [structures(pictures, generator) for _ in range(config.scenes)]
    return pictures + scenes + smaller_copies(pictures, config.scales, config.patch)


def summary_of(paths: list[Path]) -> str:
    return named(paths, "picture")


def _centre(pixels: np.ndarray) -> np.ndarray:
    """Centre of a picture, (C, H, W), up to 256 x 256."""
    top, left = (max(0, (size - 256) // 2) for size in pixels.shape[1:])
    return np.ascontiguousarray(pixels[:, top : top + 256, left : left + 256])


def _mean_psnr(pictures: Tensor, clean: Tensor) -> float:
    """Mean PSNR in dB of pictures, (B, C, H, W), rounded to 8 bits."""
    restored = rounded8(pictures.cpu().numpy())
    return float(np.mean([psnr(*pair) for pair in zip(restored, clean.numpy())]))
