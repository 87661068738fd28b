"""Restoration of pictures, from files, arrays or tensors, by a model that is loaded once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args, overload

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.arrays import as_number, as_whole, settle_whole
from deepgsr_cli.compute.device import free_memory, select_device
from deepgsr_cli.compute.levels import to_floats
from deepgsr_cli.compute.precision import check_precision, settled, with_own_defaults
from deepgsr_cli.compute.tiling import (
    Preparation,
    TileNeeds,
    Tiles,
    apply_tiled,
    choose_tile,
    default_overlap,
)
from deepgsr_cli.errors import OptionError, ShapeError, UsageError, check_text
from deepgsr_cli.formats.image import read_image
from deepgsr_cli.pictures.arrays import (
    NumpyPicture,
    as_array,
    flat_areas,
    is_clipped,
    is_flat,
    samples_of,
    to_pixels,
    white_of,
    with_pixels,
)
from deepgsr_cli.pictures.camera import white_equivalent
from deepgsr_cli.pictures.compression import Compression, compression_of
from deepgsr_cli.pictures.findings import (
    DRY,
    SMALLEST_RAINY_SIDE,
    TOO_SMALL,
    NoiseFinding,
    is_drawn,
    load_noise_estimator,
    noise_of,
    rain_of,
    windows_of,
)
from deepgsr_cli.pictures.jpeg import limited, ycc_of_rgb
from deepgsr_cli.pictures.noise import estimate_sigma, picture_sigma
from deepgsr_cli.pictures.resampling import (
    Method,
    enlarged_alpha,
    interpolated,
    resized,
    without_hidden_colours,
)
from deepgsr_cli.pictures.routes import Choice, Route, Second
from deepgsr_cli.pictures.tasks import (
    DEJPEG,
    DENOISE,
    DERAIN,
    PHOTO,
    RESTORE,
    TASKS,
    Shown,
    check_enlargement,
)

if TYPE_CHECKING:
    from torch import Tensor

    from deepgsr_cli.compute.precision import AskedPrecision
    from deepgsr_cli.formats.codecs import JpegCoding
    from deepgsr_cli.models import Prior
    from deepgsr_cli.models.noise_estimator import NoiseEstimator
    from deepgsr_cli.weights.load import Loaded


# Which noise a picture is taken to have, or "auto" to look.
Noise = Literal["auto", "white", "camera"]


@dataclass(frozen=True)
class RunOptions:
    """How a model runs.

    Attributes:
        device: "auto", "cpu", "cuda", ...
        precision: "fp32", "bf16", "fp16", or "auto", which `compute.precision.settled` tells.
        tile: Side of a tile in pixels, 0 for the whole image, None to choose by free memory.
        overlap: Pixels that tiles share, None for what the model needs.
        batch: Tiles at once, None to choose by free memory.
        offline: Do not use the network for weights.
        ensemble: Average the results of a tile's eight orientations, at eight times the time (Timofte, Rothe,
            Van Gool, Seven ways to improve example-based single image super resolution, CVPR 2016).
        sharing: Processes that share the memory of the device.
    """

    device: str = "auto"
    precision: AskedPrecision = "fp32"
    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    offline: bool = False
    ensemble: bool = False
    sharing: int = 1

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name, low in (("tile", 0), ("overlap", 0), ("batch", 1)):
            settle_whole(self, name, low)

    @property
    def protocol(self) -> dict[str, str]:
        """What a result may depend on of all this, in the words of a report."""
        protocol = {
            "precision": settled(self.precision, select_device(self.device)),
            "tile": "auto" if self.tile is None else str(self.tile),
        }
        return protocol | ({"ensemble": "mean of eight orientations"} if self.ensemble else {})

    def tiles(
        self,
        shape: tuple[int, int],
        channels: int,
        needs: TileNeeds,
        bytes_per_pixel: float,
        device: torch.device,
    ) -> Tiles:
        """Return how a picture is cut: as these options say, and else as free memory does.

        Args:
            shape: Its rows and columns.
            channels: Its channels.
            needs: What the model needs of tiles.
            bytes_per_pixel: What the model takes at its peak for each pixel of a tile.
            device: Device that the model runs on.
        """
        tile, batch = choose_tile(
            *shape,
            channels,
            free_bytes=free_memory(device) // self.sharing,
            bytes_per_pixel=bytes_per_pixel,
            needs=needs,
            device_type=device.type,
        )
        return Tiles(
            tile if self.tile is None else self.tile,
            default_overlap(needs) if self.overlap is None else self.overlap,
            needs,
            (batch if self.tile is None else 1) if self.batch is None else self.batch,
        )


class _Doubt(NamedTuple):
    """When noise is no texture.

    Attributes:
        sure: Probability of noise from which nobody asks the network.
        removed: Least share of the noise found that the network has to remove else.
        colour: Least colour of what it removes, as multiples of its luma.
    """

    sure: float
    removed: float
    colour: float


# Of noise by kind; of what is not white in gray pictures, which have no colours to tell by: there only what
# is sure counts; and of a camera's in JPEG of less than this quality, whose own errors look like it. Of what
# is found in clean pictures a network mostly removes less, or, of patterns, far more than the most; and what
# it removes of grass has a colour of 0.35, of sand less. Of 253 clean pictures to train on, most of them
# JPEG, 14 have noise that is probable, and 1 by these bounds; of 99 with a camera's noise they leave 29. The
# least shares are the middle of those between which these pictures do not tell.
_DOUBTS = {
    "white": _Doubt(0.997, 0.5, 0),
    "camera": _Doubt(0.99, 0.67, 0.35),
    "gray": _Doubt(0.99, math.inf, 0),
    "jpeg": _Doubt(0.97, 0.69, 0),
}
_COARSE_QUALITY = 93
# What texture adds to the level of white noise that is found, on the 0-255 scale, by the channels of a
# picture; and a level that is too high costs more than one that is too low. On 53 pictures to train on, gray
# of level 5 loses 0.06 dB in the mean to the level told by what is left, and 0.7 at most, where it was 0.11
# and 1.0.
_TEXTURE = {1: 0.4, 3: 0.3}
_MOST_REMOVED = 1.25
# Of noise that does not grow with the light, as white noise that JPEG has made coarse, the weights for white
# noise remove as much as those for photographs, if they are told so many times its level; their errors are
# others, and the mean is better than both: of 27 pictures to train on, with white noise before JPEG 90, 75
# and 50, by 0.25 dB than by those for photographs alone. Of a camera's noise it would be 0.1 to 0.3 dB worse,
# and the mean of a picture's result and of that of the picture mirrored at its diagonal is 0.08 dB better;
# with the picture turned or mirrored otherwise it is 0.07.
_COARSE_TOLD = 1.7
# Change of a pixel, on the [0, 1] scale, that no network makes that works: such a tile stays as it is.
_FAILED = 2.0
# Quality of JPEG from which a picture of which nothing is known stays as it is: its artefacts are hardly
# seen, and a result that is written as JPEG again would lose what was gained.
_FINE_QUALITY = 50


class Removal(NamedTuple):
    """What a network removes that is told of noise.

    Attributes:
        share: Its root mean square, as a share of the level told.
        colour: Root mean square of its colours, as multiples of that of its luma; 0 in gray pictures.
    """

    share: float
    colour: float


@dataclass
class Restorer:
    """Restoration of pictures; a model is loaded for the first picture with its channel count, and kept.

    Attributes:
        weights: NAME, FILE or hf:// address; None for the default of the task and the channel count.
        options: How the model runs.
        notify: Called with sentences a user should read.
        task: "denoise" (white Gaussian noise of a known level), "photo" (noise as cameras and JPEG leave it,
            of a level that is the root mean square of all that it changes), "derain", "restore" (noise, rain,
            both or JPEG, of which nothing is known: by one network if weights are given, else by those for
            what is found), "dejpeg" or "upscale".
        noise: Which noise a picture to denoise has, where it is restored whose level is not given: "white",
            "camera", or "auto" to look.
        loaded: What `load` has loaded so far, by channel count.
        others: Restoration by the same options for other tasks, which `specialist` has made.
        seconds_loading: Time that `load`, and loading the estimator, have taken so far, in seconds.
    """

    weights: str | None = None
    options: RunOptions = field(default_factory=RunOptions)
    notify: Callable[[str], None] | None = None
    task: str = "denoise"
    noise: Noise = "auto"
    loaded: dict[int, Loaded[Prior]] = field(default_factory=dict, init=False)
    others: dict[str, Restorer] = field(default_factory=dict, init=False)
    seconds_loading: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        check_text("task", self.task, f"known are {', '.join(TASKS)}")
        if self.task not in TASKS:
            raise OptionError("task", self.task, f"known are {', '.join(TASKS)}")
        check_text("noise", self.noise, f"known are {', '.join(get_args(Noise))}")
        if self.noise not in get_args(Noise):
            raise OptionError("noise", self.noise, f"known are {', '.join(get_args(Noise))}")

    @property
    def takes_sigma(self) -> bool:
        """Whether the network is told the noise level, by the task."""
        return self.task in ("denoise", "photo")

    def model_channels(self, channels: int) -> int:
        """Channels of the model for pictures with that many, by the task."""
        return TASKS[self.task].channels_for(channels)

    @property
    def looks(self) -> bool:
        """Whether what is found in a picture decides what is done, and by which network."""
        return self.task == DENOISE.name or (
            self.task in (DERAIN.name, RESTORE.name) and self.weights is None
        )

    def specialist(self, task: str) -> Restorer:
        """Restoration by the same options for another task, made once."""
        if task == self.task:
            return self
        if task not in self.others:
            self.others[task] = replace(self, task=task)
        return self.others[task]

    @property
    def camera(self) -> Restorer:
        """Restoration by the same options from noise as cameras and JPEG leave it."""
        return self.specialist(PHOTO.name)

    @cached_property
    def estimator(self) -> NoiseEstimator:
        """Network that tells what noise is in a picture."""
        started = time.perf_counter()
        model = load_noise_estimator().model
        self.seconds_loading += time.perf_counter() - started
        return model

    @property
    def all_seconds_loading(self) -> float:
        """Time that loading has taken so far, with that of the weights for other tasks."""
        return self.seconds_loading + sum(other.all_seconds_loading for other in self.others.values())

    @property
    def all_loaded(self) -> dict[str, Loaded[Prior]]:
        """What is loaded, by kind of picture, with that for other tasks if it was needed."""
        kinds = {1: "gray", 3: "colour"}
        loaded = {kinds[channels]: each for channels, each in self.loaded.items()}
        for task, other in self.others.items():
            for name, each in other.all_loaded.items():
                loaded[name if "," in name else f"{task}, {name}"] = each
        return loaded

    def route(
        self, pixels: np.ndarray, sigma: float | None = None, coding: JpegCoding | None = None
    ) -> Route:
        """Look at a picture, and choose what to do to it.

        The rain of a picture is looked for unless weights are given; so is all else by "restore", one after
        another: rain, then the noise that is left, then what JPEG has done, where there was neither.

        Args:
            pixels: (C, H, W), float32 on the [0, 1] scale.
            sigma: Noise level on the 0-255 scale; None to look for noise.
            coding: Quantisation that its file states, if that is a JPEG.

        Raises:
            WeightsError: As `load`.
        """
        if not self.looks or self.task == DENOISE.name or sigma is not None:
            return Route((self.choose(pixels, sigma),))
        first, derained = self._look_for_rain(pixels)
        if self.task == DERAIN.name:
            return Route((first,))
        second = self.specialist(DENOISE.name).choose(derained)
        if first.restorer is not None or second.restorer is not None:
            return Route((first, second))
        # Edges that are drawn look like those of blocks: there the file's word counts alone.
        drawn = coding is None and is_drawn(pixels)
        compression = None if drawn else compression_of(pixels, coding)
        if compression is None or compression.quality >= _FINE_QUALITY:
            return Route((first, second))
        return Route((first, second, Choice(self.specialist(DEJPEG.name), compression=compression)))

    def _look_for_rain(self, pixels: np.ndarray) -> tuple[Choice, np.ndarray]:
        """Return what to do about the rain of a picture, and of it without rain what the noise shows in: all
        of it, or windows side by side, (C, h, w)."""
        if is_drawn(pixels):
            return Choice(None, rain=DRY), pixels
        if min(pixels.shape[1:]) < SMALLEST_RAINY_SIDE:
            return Choice(None, rain=TOO_SMALL), pixels
        derainer = self.specialist(DERAIN.name)
        windows = [window[0, : len(pixels)].contiguous().numpy() for window in windows_of(pixels)]
        derained = [derainer.restore_pixels(window) for window in windows]
        rain = rain_of(windows, derained, expected=self.task == DERAIN.name)
        if not rain.there:
            return Choice(None, rain=rain), pixels
        whole = derained[0] if derained[0].shape == pixels.shape else None
        return Choice(derainer, rain=rain, restored=whole), np.concatenate(derained, axis=-1).clip(0, 1)

    def choose(self, pixels: np.ndarray, sigma: float | None = None) -> Choice:
        """Choose how to denoise a picture; all tasks but "denoise" and "photo" leave no choice.

        A level that is given is one of white noise, unless `noise` is "camera". With weights that are given,
        all noise there is counts as what they are for.

        Args:
            pixels: (C, H, W), float32 on the [0, 1] scale, or uint8 or uint16.
            sigma: Level on the 0-255 scale; None to look for noise.

        Raises:
            WeightsError: As `load`.
        """
        if not self.takes_sigma:
            return Choice(self, sigma)
        by_camera = self.noise == "camera" or self.task == PHOTO.name
        if sigma is not None:
            return Choice(self.camera if by_camera else self, sigma)
        found = noise_of(pixels, self.estimator)
        if by_camera and found.level > 0:
            level = min(found.level, self.camera.sigma_limit(len(pixels)))
            return Choice(self.camera, level, found, second=self._second(level, len(pixels), coarse=False))
        if found.kind in ("none", "unknown"):
            return Choice(None, 0.0, found)
        kind = "white" if self.noise == "white" or self.weights is not None else found.kind
        restorer, level = self, _cautious(found.sigma, len(pixels))
        if kind == "camera":
            restorer, level = self.camera, found.level
        level = min(level, restorer.sigma_limit(len(pixels)))
        if self.noise == "auto" and not restorer.confirms(found, kind, level, pixels):
            return Choice(None, 0.0, replace(found, kind="unknown"))
        second = None
        if kind == "camera":
            second = self._second(level, len(pixels), coarse=not found.dependent)
        return Choice(restorer, level, found, second=second)

    def _second(self, level: float, channels: int, *, coarse: bool) -> Second | None:
        """Return what to average the result of the weights for photographs with, whose errors are others: for
        coarse noise that of the weights for white, else that of the picture mirrored at its diagonal, if
        it is not mirrored anyway."""
        if coarse:
            return Second(self, min(_COARSE_TOLD * level, self.sigma_limit(channels)))
        return None if self.options.ensemble else Second(self.camera, level, mirrored=True)

    def confirms(self, found: NoiseFinding, kind: str, level: float, pixels: np.ndarray) -> bool:
        """Whether what is found in a picture is noise: that is sure, or the network removes most of it.

        Args:
            found: What is found in the picture.
            kind: Kind of noise that the network is for, "white" or "camera".
            level: Level that the network is told.
            pixels: The picture, (C, H, W), float32 on the [0, 1] scale.
        """
        if found.noisy >= max(doubt.sure for doubt in _DOUBTS.values()):
            return True
        if len(pixels) == 1 and (found.correlated or found.dependent):
            kind = "gray"
        elif kind == "camera":
            compression = compression_of(pixels)
            kind = "jpeg" if compression and compression.quality < _COARSE_QUALITY else kind
        doubt = _DOUBTS[kind]
        if found.noisy >= doubt.sure:
            return True
        removed = self.removal(pixels, level)
        return doubt.removed < removed.share < _MOST_REMOVED and removed.colour >= doubt.colour

    @overload
    def __call__(
        self,
        picture: Tensor,
        sigma: float | None = None,
        *,
        strength: float = 1.0,
        white: float | None = None,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        picture: NumpyPicture,
        sigma: float | None = None,
        *,
        strength: float = 1.0,
        white: float | None = None,
    ) -> np.ndarray: ...
    @with_own_defaults
    def __call__(
        self,
        picture: Tensor | NumpyPicture,
        sigma: float | None = None,
        *,
        strength: float = 1.0,
        white: float | None = None,
    ) -> Tensor | np.ndarray:
        """Restore a picture, or each of a batch; return it with its shape and dtype, and its alpha untouched.

        Args:
            picture: A file, or an array or tensor of (H, W), (H, W, S) or (N, H, W, S). S is 1 for gray, 2
                for gray and alpha, 3 for RGB, 4 for RGB and alpha; uint8, uint16 or floating point. What is
                made of a tensor is on the tensor's device, wherever the model runs; what is made of a file
                is an array of the file's sample type.
            sigma: Standard deviation of the noise, on the 0-255 scale whatever the dtype, for "denoise" and
                "photo"; None to look in each picture. 0 returns the picture as it is.
            strength: Share of the correction that is applied, 0 to 1.
            white: Value that stands for white; None for 255, 65535 or 1, by the dtype.

        Raises:
            ShapeError: Another shape or dtype, NaN, or a range that is not that of `white`.
            UsageError: A value is out of range, or the weights do not fit.
            InputError: The file cannot be read.
            WeightsError: As `load`.
        """
        array = as_array(picture)
        sigma, strength = as_number("sigma", sigma, or_none=True), as_number("strength", strength)

        def restore(pixels: np.ndarray) -> np.ndarray | None:
            _check(pixels, strength)
            route = self.route(pixels, sigma)
            if route.idle:
                return None
            return route.run(pixels, clipped=is_clipped(pixels, array.dtype.name), strength=strength)

        restored = _each(array, white, restore)
        return torch.from_numpy(restored).to(picture) if isinstance(picture, Tensor) else restored

    @overload
    def decompress(
        self,
        picture: Tensor,
        quality: float | None = None,
        *,
        strength: float = 1.0,
        white: float | None = None,
    ) -> Tensor: ...
    @overload
    def decompress(
        self,
        picture: NumpyPicture,
        quality: float | None = None,
        *,
        strength: float = 1.0,
        white: float | None = None,
    ) -> np.ndarray: ...
    @with_own_defaults
    def decompress(
        self,
        picture: Tensor | NumpyPicture,
        quality: float | None = None,
        *,
        strength: float = 1.0,
        white: float | None = None,
    ) -> Tensor | np.ndarray:
        """Remove what JPEG has done to a picture, or to each of a batch; as `__call__` otherwise.

        Args:
            picture: As for `__call__`. How it was compressed is read from a JPEG file, and is found in the
                pixels of all others; where there is no trace, a picture comes back as it is.
            quality: Quality on libjpeg's scale, 1 to 100, in place of what the file or the pixels say.
            strength: Share of the correction that is applied, 0 to 1.
            white: Value that stands for white; None for 255, 65535 or 1, by the dtype.

        Raises:
            ShapeError: As `__call__`.
            UsageError: As `__call__`.
            InputError: As `__call__`.
            WeightsError: As `load`.
        """
        coding = None
        if isinstance(picture, str | Path):
            image = read_image(Path(picture))
            picture, coding = samples_of(image), image.metadata.jpeg
        array = as_array(picture)
        quality, strength = as_number("quality", quality, or_none=True), as_number("strength", strength)

        def restore(pixels: np.ndarray) -> np.ndarray | None:
            compression = compression_of(pixels, coding, quality)
            if compression is None:
                return None
            return self.restore_compressed(pixels, compression, strength=strength, in_place=True)

        restored = _each(array, white, restore)
        return torch.from_numpy(restored).to(picture) if isinstance(picture, Tensor) else restored

    @overload
    def enlarge(
        self,
        picture: Tensor,
        scale: int,
        *,
        method: Method = "deepgsr",
        strength: float = 1.0,
        white: float | None = None,
    ) -> Tensor: ...
    @overload
    def enlarge(
        self,
        picture: NumpyPicture,
        scale: int,
        *,
        method: Method = "deepgsr",
        strength: float = 1.0,
        white: float | None = None,
    ) -> np.ndarray: ...
    @with_own_defaults
    def enlarge(
        self,
        picture: Tensor | NumpyPicture,
        scale: int,
        *,
        method: Method = "deepgsr",
        strength: float = 1.0,
        white: float | None = None,
    ) -> Tensor | np.ndarray:
        """Enlarge a picture, or each of a batch, its alpha bicubically; as `__call__` otherwise.

        Args:
            picture: As for `__call__`.
            scale: Sides of the result over those of the picture: 2, 3 or 4.
            method: "deepgsr" for the network, or "bicubic" or "lanczos", which need no weights.
            strength: Share of what the network adds to bicubic interpolation, 0 to 1.
            white: Value that stands for white; None for 255, 65535 or 1, by the dtype.

        Raises:
            ShapeError: As `__call__`.
            UsageError: As `__call__`; or there is no such scale or method.
            InputError: As `__call__`.
            WeightsError: As `load`.
        """
        scale, strength = as_whole("scale", scale), as_number("strength", strength)
        check_enlargement(scale, method)
        array = as_array(picture)
        white = white_of(array.dtype, white)
        results = []
        for samples in array if array.ndim == 4 else array.reshape(1, *array.shape[:2], -1):
            pixels = to_pixels(samples, white)
            height, width, count = samples.shape
            result = np.empty((scale * height, scale * width, count), array.dtype)
            if count > len(pixels):
                pixels = without_hidden_colours(pixels, samples[..., -1])
                result[..., -1] = enlarged_alpha(samples[..., -1], scale)
            pixels = self.enlarge_pixels(pixels, scale, method, strength=strength)
            results.append(with_pixels(result, pixels, white))
        found = np.stack(results) if array.ndim == 4 else results[0]
        found = found[..., 0] if array.ndim == 2 else found
        return torch.from_numpy(found).to(picture) if isinstance(picture, Tensor) else found

    def load(self, channels: int) -> Loaded[Prior]:
        """Load the model for pictures with that many channels, if it has not been loaded yet.

        Raises:
            WeightsError: As `load.load`.
            UsageError: The weights are for another task or another number of channels.
        """
        from deepgsr_cli.models import PRIORS
        from deepgsr_cli.weights.load import load

        needed = self.model_channels(channels)
        if needed not in self.loaded:
            started, options = time.perf_counter(), self.options
            loaded = load(
                self.task,
                self.weights,
                PRIORS,
                channels=needed,
                device=options.device,
                offline=options.offline,
            )
            if (has := loaded.model.config.channels) != needed:
                kinds = {1: "gray", 3: "colour"}
                raise OptionError(
                    "weights",
                    self.weights,
                    f"made for {kinds[has]} pictures, this one is {kinds[needed]}; leave --weights out to"
                    " have the right ones chosen, or train your own by"
                    f" deepgsr train {self.task} --channels {needed}",
                )
            self.loaded[needed] = loaded
            self.seconds_loading += time.perf_counter() - started
        return self.loaded[needed]

    def removal(self, pixels: np.ndarray, sigma: float) -> Removal:
        """Try what the network removes of windows of a picture, told a noise level.

        A network that is told of noise, and takes away much less, has seen texture in its place.

        Args:
            pixels: (C, H, W), float32 on the [0, 1] scale, or uint8 or uint16.
            sigma: Level that it is told, above 0.
        """
        squares, told = [], self._told(pixels, sigma, clipped=True)
        for window in windows_of(pixels):
            given = window[0, : len(pixels)].contiguous().numpy()
            removed = given - self._run(given, told, 1.0, in_place=False, progress=None)
            planes = [removed[0], 0, 0]
            if len(removed) == 3:
                planes = [*ycc_of_rgb(torch.from_numpy(removed)[None])[0].numpy()]
            squares.append([np.square(part).mean() for part in (removed, *planes)])
        whole, gray, *colours = np.mean(squares, axis=0)
        colour = math.sqrt(np.mean(colours) / max(gray, 1e-12))
        return Removal(255 * math.sqrt(whole) / sigma, colour)

    def sigma_limit(self, channels: int) -> float:
        """Highest noise level, on the 0-255 scale, that the weights for so many channels know."""
        return self.load(channels).sigma_max

    def restore_pixels(
        self,
        pixels: np.ndarray,
        sigma: float | None = None,
        *,
        clipped: bool = False,
        strength: float = 1.0,
        in_place: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Restore the pixels of one picture, (C, H, W), float32; the result is not clipped.

        Args:
            pixels: (C, H, W), float32 on the [0, 1] scale, or uint8 or uint16, whose largest number stands
                for 1; C 1 or 3.
            sigma: Standard deviation of the noise, on the 0-255 scale, for "denoise", and for "photo", where
                it is that of all that differs from the clean picture; 0 returns the picture as it is.
            clipped: Whether a file has clipped the noise to black and white, which makes blacks brighter
                and whites darker.
            strength: Share of the correction that is applied, 0 to 1.
            in_place: Overwrite `pixels`, which saves its memory; whole numbers are rounded, and clipped.
            progress: Called with finished and total pixels.

        Raises:
            UsageError: sigma or strength out of range, or the weights do not fit.
            ShapeError: Not such an array, or not finite.
        """
        if self.task == DEJPEG.name:
            raise UsageError("dejpeg has to know how a picture was compressed; call decompress")
        _check(pixels, strength)
        if (sigma is not None) != self.takes_sigma:
            shown = "None" if sigma is None else f"{sigma:g}"
            raise UsageError(f"sigma is {shown}: denoise needs the noise level, the other tasks take none")
        limit = self.sigma_limit(len(pixels))
        if sigma is not None and not 0 <= sigma <= limit:
            raise OptionError("sigma", sigma, f"these weights know 0 to {limit:g}; give a level within")
        pixels = pixels if in_place else to_floats(pixels)
        if sigma == 0 or strength == 0 or is_flat(pixels):
            return pixels if in_place else pixels.copy()
        told = self._told(pixels, sigma, clipped=clipped)
        return self._run(pixels, told, strength, in_place=in_place, progress=progress)

    def restore_compressed(
        self,
        pixels: np.ndarray,
        compression: Compression,
        *,
        strength: float = 1.0,
        in_place: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Remove what JPEG has done to the pixels of a picture; errors as of `restore_pixels`.

        Args:
            pixels: (C, H, W), float32 on the [0, 1] scale, C 1 or 3.
            compression: How the picture was compressed; it comes back as it is where that is negligible.
            strength: Share of the correction that is applied, 0 to 1.
            in_place: Overwrite `pixels`.
            progress: Called with finished and total pixels.
        """
        if self.task != DEJPEG.name:
            raise UsageError(f"{self.task} is not told of a compression; make a Restorer of task dejpeg")
        _check(pixels, strength)
        if compression.negligible or strength == 0 or is_flat(pixels):
            return pixels if in_place else pixels.copy()
        limit = None
        if compression.luma is not None:
            device = select_device(self.options.device)
            luma = torch.tensor(compression.luma, dtype=torch.float32, device=device).view(8, 8)
            chroma = None
            if compression.chroma is not None:
                chroma = torch.tensor(compression.chroma, dtype=torch.float32, device=device).view(8, 8)
            limit = partial(limited, luma=luma, chroma=chroma)
        run = partial(self._run, told=compression.told, strength=strength, limit=limit, progress=progress)
        # Networks have learned where blocks lie in pictures that begin with a whole one.
        top, left = (-place % 8 for place in compression.corner)
        if (top, left) == (0, 0):
            return run(pixels, in_place=in_place)
        padded = run(np.pad(pixels, ((0, 0), (top, 0), (left, 0)), "symmetric"), in_place=True)
        restored = pixels if in_place else np.empty_like(pixels)
        restored[:] = padded[:, top:, left:]
        return restored

    def enlarge_pixels(
        self,
        pixels: np.ndarray,
        scale: int,
        method: Method = "deepgsr",
        *,
        strength: float = 1.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Enlarge the pixels of a picture, (C, scale * H, scale * W), float32, not clipped; errors as of
        `enlarge`.

        Args:
            pixels: (C, H, W), float32 on the [0, 1] scale, C 1 or 3.
            scale: As of `enlarge`.
            method: As of `enlarge`.
            strength: As of `enlarge`.
            progress: Called with finished and total pixels of what is enlarged.
        """
        from deepgsr_cli.models import NSR

        _check(pixels, strength)
        check_enlargement(scale, method)
        if is_flat(pixels):
            return pixels.repeat(scale, 1).repeat(scale, 2)
        if method != "deepgsr":
            return interpolated(pixels, scale, method)
        model = self.load(len(pixels)).model
        if not isinstance(model, NSR) or scale not in model.config.scales:
            raise OptionError(
                "weights", self.weights, f"they do not enlarge {scale} times; leave --weights out"
            )
        tripled = model.config.channels != len(pixels)

        def enlarge(tiles: Tensor) -> Tensor:
            x = tiles.expand(-1, 3, -1, -1) if tripled else tiles
            enlarged = self._answer(lambda y: model.enlarge(y, scale), x)
            enlarged = enlarged.mean(1, keepdim=True) if tripled else enlarged
            if strength == 1:
                return enlarged
            height, width = enlarged.shape[-2:]
            return torch.lerp(resized(tiles, height, width), enlarged, strength)

        image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
        return self._in_tiles(enlarge, image, model, progress=progress)

    def _told(self, pixels: np.ndarray, sigma: float | None, *, clipped: bool) -> Sequence[float] | None:
        """What the network is told of the noise level of a picture; None if it takes none."""
        level = TASKS[self.task].level
        if level is None or sigma is None:
            return None
        if self.task == PHOTO.name:
            white = min(picture_sigma(estimate_sigma(pixels)), sigma)
            sigma = min(white_equivalent(sigma, white), self.sigma_limit(len(pixels)))
        return level.told(sigma, Shown(clipped, len(pixels)))

    def _run(
        self,
        pixels: np.ndarray,
        told: Sequence[float] | None,
        strength: float,
        *,
        in_place: bool,
        progress: Callable[[int, int], None] | None,
        limit: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> np.ndarray:
        """Run the model on the pixels of a picture, in tiles; it is told numbers of what is wrong with it.

        `limit` takes restored and given tiles, and returns the restored ones within bounds.
        """
        from deepgsr_cli.models.deepgsr import DeepGSR, filter_ahead

        model = self.load(len(pixels)).model
        tripled = model.config.channels != len(pixels)
        condition = None
        if told is not None:
            device = select_device(self.options.device)
            condition = torch.tensor([told[: model.config.conditions]], dtype=torch.float32, device=device)

        # On the CPU the network's filter, if it has one, goes over rows of tiles.
        ahead = None
        search = model.config.search if isinstance(model, DeepGSR) else 0
        if search and condition is not None and condition.device.type == "cpu" and not self.options.ensemble:
            ahead = filter_ahead(condition[:, 0], search, model.config.channels)

        keeps_flat = self.task != DEJPEG.name  # blocks of JPEG are of one colour, and to be joined

        def restore(tiles: Tensor) -> Tensor:
            own = tiles[:, : len(pixels)]
            x = own.expand(-1, 3, -1, -1) if tripled else own
            if ahead is not None:
                restored = model(x, condition, tiles[:, len(pixels) :])
            else:
                restored = self._answer(lambda y: model(y, condition), x)
            restored = restored.mean(1, keepdim=True) if tripled else restored
            # On colours that no photograph has, as pure red beside pure green, a network may fail altogether.
            failed = ((restored - own).abs() > _FAILED).flatten(1).any(1)
            restored = torch.where(failed[:, None, None, None], own, restored)
            if limit is not None:
                restored = limit(restored, own)
            if keeps_flat:
                restored = torch.where(flat_areas(own), own, restored)
            return restored if strength == 1 else torch.lerp(own, restored, strength)

        image = torch.from_numpy(
            pixels if pixels.dtype.kind == "u" else np.ascontiguousarray(pixels, dtype=np.float32)
        )
        return self._in_tiles(
            restore,
            image,
            model,
            prepare=ahead,
            out=image if in_place else None,
            progress=progress,
        )

    def _answer(self, function: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
        """What a function makes of tiles, or its mean over their orientations, as the options say."""
        return _ensemble(function, tiles) if self.options.ensemble else function(tiles)

    def _in_tiles(
        self,
        function: Callable[[Tensor], Tensor],
        image: Tensor,
        model: Prior,
        *,
        prepare: Preparation | None = None,
        out: Tensor | None = None,
        progress: Callable[[int, int], None] | None,
    ) -> np.ndarray:
        """What a function that calls the model makes of an image, in tiles as the options and memory say."""
        options, (_, height, width) = self.options, image.shape
        device = select_device(options.device)
        channels, needs = model.config.channels, model.tile_needs
        if self.task == DEJPEG.name:
            needs = replace(needs, grid=math.lcm(needs.grid, 8))  # tiles begin with a whole block, too
        tiles = options.tiles((height, width), channels, needs, model.bytes_per_pixel, device)
        restored = apply_tiled(
            function,
            image,
            replace(tiles, prepare=prepare),
            device=device,
            precision=options.precision,
            out=out,
            progress=progress,
            notify=self.notify,
        )
        return restored.numpy()


def _cautious(sigma: float, channels: int) -> float:
    """What a network is told of a level of white noise that was found, on the 0-255 scale."""
    return max(sigma - _TEXTURE[channels], sigma / 2)


def _check(pixels: np.ndarray, strength: float) -> None:
    """Raise a ShapeError unless these are finite pixels of a picture, and an OptionError for the strength."""
    if pixels.ndim != 3 or len(pixels) not in (1, 3) or pixels.size == 0:
        raise ShapeError(f"an array of shape {pixels.shape} is no picture; give (1 or 3, H, W)")
    if not 0 <= strength <= 1:
        raise OptionError("strength", strength, "give 0 (nothing) to 1 (all)")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels.sum(dtype=np.float64)):
        raise ShapeError("the picture has NaN or infinite pixels; replace them first")


def _each(
    array: np.ndarray, white: float | None, restore: Callable[[np.ndarray], np.ndarray | None]
) -> np.ndarray:
    """Restore the pixels, (C, H, W) on the [0, 1] scale, of a picture or of each of a batch; the result is of
    the array's kind, with the samples of a picture as they were where `restore` returns None."""
    white = white_of(array.dtype, white)
    batch = array if array.ndim == 4 else array.reshape(1, *array.shape[:2], -1)
    restored = np.empty_like(batch)
    for i, samples in enumerate(batch):
        pixels = restore(to_pixels(samples, white))
        restored[i] = samples if pixels is None else with_pixels(samples, pixels, white)
    return restored.reshape(array.shape)


def _ensemble(function: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
    """Mean over the orientations of a square of what a function makes of the tiles, turned back."""
    total = tiles.new_zeros(())
    for mirrored in (False, True):
        for quarters in range(4):
            turned = (tiles.flip(-1) if mirrored else tiles).rot90(quarters, (-2, -1))
            restored = function(turned.contiguous()).rot90(-quarters, (-2, -1))
            total = total + (restored.flip(-1) if mirrored else restored)
    return total / 8
