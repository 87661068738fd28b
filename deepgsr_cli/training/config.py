"""What a training run is, and which values it may have."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepgsr_cli.errors import OptionError, UsageError, check_seed

if TYPE_CHECKING:
    from deepgsr_cli.compute.precision import Precision


# Side of a crop, in pixels, below which the blur of a camera reaches over all of it.
_LEAST_PATCH = 16
# Crops of a step: far more than any memory holds.
_MOST_CROPS = 1_000_000


@dataclass(frozen=True)
class TrainConfig:
    """What a training run is; every field is an option of `deepgsr train`, of the tasks that know it.

    Attributes:
        data: Folders of clean pictures, or of CT slices (`ct.slices.slice_paths`).
        output: Folder of the run: `model.safetensors` (the best by validation), `state.pt` (to resume from),
            `log.csv`, `curve.png` (drawn at most once a minute, and at the end), `config.json`.
        task: Name that `tasks.training_of` knows.
        pairs: Folders with the sub-folders "rain" and "clean", for the tasks that know rain.
        masks: Folders of metal shapes (`masks.read_shapes`), for mar.
        channels: 1 or 3; pictures are converted.
        model: Kind of network to denoise with, a name in `pictures.training.PRESETS_OF`.
        preset: Shape of the network, a name in its table of presets.
        without_groups: Leave the group blocks out, for ablations.
        validation: Folder of clean pictures to validate on; without one, `held_out` pictures of `data`.
        held_out: Pictures of `data`, evenly spread, or files of slices, the last ones, that are kept for
            validation.
        start: Checkpoint to start from, instead of random weights; tensors that have another shape there, or
            are missing, start at random.
        sigma_min: Lowest noise level, on the 0-255 scale.
        sigma_max: Highest noise level, on the 0-255 scale.
        clipped: Share of the pictures with noise that are clipped and rounded to 8 bits, as a file does.
        steps: Bound of the run, and end of the learning rate's descent.
        max_minutes: The same in minutes, validation included; whichever comes first. A resumed run goes on
            counting.
        scales: Factors below 1 in which the pictures are trained on beside their full size.
        scenes: Generated scenes of repeated structure (`scenes.structures`) to train on as well.
        batch: Crops a step, in each process where torchrun starts several.
        patch: Side of a crop in pixels.
        learning_rate: Highest one, after warm-up; it descends along half a cosine to a hundredth.
        optimizer: "adamw", or "muon" for the kernels between hidden layers.
        weight_decay: On matrices and kernels.
        warmup: Steps of linear warm-up.
        loss: "charbonnier", "mse" or "psnr"; of pictures, the first two are weighted so that all noise levels
            count alike.
        ema: Decay of the weights' moving average, which is what is validated and saved.
        clip: Largest norm of the gradient.
        validate_every: Steps between validations, each followed by a save.
        precision: "fp32" or "bf16" (autocast; weights stay float32).
        compile: Compile the network first and, on CUDA, record a step as a graph; `max_minutes` start then.
        device: "auto", "cpu", "cuda", ...
        seed: Of everything.
    """

    data: tuple[Path, ...]
    output: Path
    task: str = "denoise"
    pairs: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    channels: int = 1
    model: str = "deepgsr"
    preset: str = "small"
    without_groups: bool = False
    validation: Path | None = None
    held_out: int = 12
    start: Path | None = None
    sigma_min: float = 0.0
    sigma_max: float = 75.0
    clipped: float = 0.5
    steps: int = 100_000
    max_minutes: float = math.inf
    scales: tuple[float, ...] = ()
    scenes: int = 0
    batch: int = 16
    patch: int = 64
    learning_rate: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    warmup: int = 200
    loss: str = "charbonnier"
    ema: float = 0.999
    clip: float = 1.0
    validate_every: int = 1000
    precision: Precision = "fp32"
    compile: bool = False
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        # Torch, which the command line imports no sooner than it trains.
        from deepgsr_cli.training.losses import LOSSES
        from deepgsr_cli.training.optimizers import OPTIMIZERS

        if not self.data and not self.pairs:
            raise UsageError("nothing to train on; give --data FOLDER")
        for name, known in (("loss", LOSSES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise OptionError(name, getattr(self, name), f"known are {', '.join(known)}")
        if self.precision not in ("fp32", "bf16"):
            raise OptionError("precision", self.precision, "training knows fp32 and bf16")
        if not 0 <= self.sigma_max <= 255:
            raise OptionError("sigma_max", self.sigma_max, "give 0 to 255")
        if not 0 <= self.sigma_min <= self.sigma_max:
            raise OptionError("sigma_min", self.sigma_min, f"give 0 to --sigma-max, {self.sigma_max:g}")
        if not 0 <= self.clipped <= 1:
            raise OptionError("clipped", self.clipped, "give a share from 0 to 1")
        if not all(0 < scale < 1 for scale in self.scales):
            raise OptionError("scale", max(self.scales), "give factors between 0 and 1")
        if self.scenes < 0:
            raise OptionError("scenes", self.scenes, "give 0 or more")
        check_seed(self.seed)
        for name in ("steps", "validate_every", "max_minutes", "clip"):
            if not getattr(self, name) > 0:
                raise OptionError(name, getattr(self, name), "give more than 0")
        for name, low, high in (
            ("batch", 1, _MOST_CROPS),
            ("patch", _LEAST_PATCH, math.inf),
            ("warmup", 0, math.inf),
            ("weight_decay", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                bounds = f"{low} or more" if high == math.inf else f"{low} to {high}"
                raise OptionError(name, getattr(self, name), f"give {bounds}")
        if not 0 < self.learning_rate <= 1:
            raise OptionError("learning_rate", self.learning_rate, "give more than 0, and at most 1")
        if not 0 <= self.ema < 1:
            raise OptionError("ema", self.ema, "give 0 or more, and less than 1")


# What may differ between a run and its continuation without making it another run.
CHANGEABLE = {"steps", "max_minutes", "output", "device", "validate_every", "compile"}


def plain_config(config: TrainConfig) -> dict[str, Any]:
    """Configuration as JSON types."""
    values = dataclasses.asdict(config)
    for name in ("data", "pairs", "masks"):
        values[name] = [str(path) for path in getattr(config, name)]
    values["scales"] = list(config.scales)
    for name in ("output", "validation", "start"):
        values[name] = None if values[name] is None else str(values[name])
    return values


def public_config(config: TrainConfig) -> dict[str, Any]:
    """Configuration for a checkpoint's header, with folders by their names alone."""
    values = plain_config(config)
    for name in ("data", "pairs", "masks"):
        values[name] = [path.name for path in getattr(config, name)]
    for name in ("validation", "start"):
        values[name] = None if values[name] is None else Path(values[name]).name
    del values["output"]
    return values
