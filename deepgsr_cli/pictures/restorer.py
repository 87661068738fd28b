"""Restoration of pictures: arrays in, arrays out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.pictures.noise import estimate_sigma, picture_sigma

if TYPE_CHECKING:
    from torch import Tensor

    from deepgsr_cli.compute.precision import Precision
    from deepgsr_cli.models import Prior
    from deepgsr_cli.weights.load import Loaded


@dataclass(frozen=True)
class RunOptions:
    """How a model runs, as the command line says it.

    Attributes:
        device: "auto", "cpu", "cuda", ...
        precision: "fp32", "bf16" or "fp16".
        tile: Side of a tile in pixels, 0 for the whole image, None to choose by free memory.
        overlap: Pixels that tiles share, None for what the model needs.
        batch: Tiles at once, None to choose by free memory.
        offline: Do not use the network for weights.
        ensemble: Average the results of a tile's eight orientations, at eight times the time (Timofte, Rothe,
            Van Gool, Seven ways to improve example-based single image super resolution, CVPR 2016).
    """

    device: str = "auto"
    precision: Precision = "fp32"
    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    offline: bool = False
    ensemble: bool = False

    def __post_init__(self) -> None:
        for name, low in (("tile", 0), ("overlap", 0), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UsageError(f"--{name} {value}: give {low} or more")


@dataclass
class Restorer:
    """Restoration of pictures; a model is loaded when the first picture with its channel count comes.

    Attributes:
        weights: NAME, FILE or hf:// address; None for the default of the task and the channel count.
        options: How the model runs.
        notify: Called with sentences a user should read.
        task: "denoise" (white Gaussian noise of a known level), "derain", or "restore" (noise, rain or both,
            of which nothing is known).
        loaded: What `load` has loaded so far, by channel count.
    """

    weights: str | None = None
    options: RunOptions = field(default_factory=RunOptions)
    notify: Callable[[str], None] | None = None
    task: str = "denoise"
    loaded: dict[int, Loaded[Prior]] = field(default_factory=dict, init=False)

    def load(self, channels: int) -> Loaded[Prior]:
        """Load the model for pictures with that many channels, if it has not been loaded yet.

        Raises:
            WeightsError: As `load.load`.
            UsageError: The weights are for another task or another number of channels.
        """
        from deepgsr_cli.models import PRIORS
        from deepgsr_cli.weights.load import load

        # Rain is gray: there a gray picture is a colour one of three equal channels. Noise is not, as it
        # differs from channel to channel.
        needed = channels if self.task == "denoise" else 3
        if needed not in self.loaded:
            options = self.options
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
                raise UsageError(
                    f"--weights {self.weights}: made for {kinds[has]} pictures, this one is "
                    f"{kinds[needed]}; leave --weights out to have the right ones chosen"
                )
            self.loaded[needed] = loaded
        return self.loaded[needed]

    def __call__(
        self,
        pixels: np.ndarray,
        sigma: float | None = None,
        *,
        clipped: bool = False,
        strength: float = 1.0,
        in_place: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Restored picture, (C, H, W), float32, not clipped.

        Args:
            pixels: (C, H, W), float32 on the [0, 1] scale, C 1 or 3.
            sigma: Standard deviation of the noise, on the 0-255 scale, for "denoise" alone; 0 returns the
                picture as it is.
            clipped: Whether a file has clipped the noise to black and white, which makes blacks brighter
                and whites darker.
            strength: Share of the correction that is applied, 0 to 1.
            in_place: Overwrite `pixels`, which saves its memory.
            progress: Called with finished and total pixels.

        Raises:
            UsageError: sigma or strength out of range, or the weights do not fit.
            ShapeError: Not such an array, or not finite.
        """
        import torch

        from deepgsr_cli.compute.device import free_memory, select_device
        from deepgsr_cli.compute.tiling import apply_tiled, choose_tile, default_overlap

        if pixels.ndim != 3 or len(pixels) not in (1, 3) or pixels.size == 0:
            raise ShapeError(f"an array of shape {pixels.shape} is no picture; give (1 or 3, H, W)")
        if not 0 <= strength <= 1:
            raise UsageError(f"--strength {strength:g}: give 0 (nothing) to 1 (all)")
        if (sigma is not None) != (self.task == "denoise"):
            raise UsageError(f"sigma is {sigma}: denoise needs the noise level, the other tasks take none")
        limit = self.sigma_limit(len(pixels))
        if sigma is not None and not 0 <= sigma <= limit:
            raise UsageError(f"--sigma {sigma:g}: these weights know 0 to {limit:g}; give a level within")
        if not np.isfinite(pixels.sum(dtype=np.float64)):
            raise ShapeError("the picture has NaN or infinite pixels; replace them first")
        if sigma == 0 or strength == 0:
            return pixels if in_place else pixels.copy()

        model: Any = self.load(len(pixels)).model
        options = self.options
        device = select_device(options.device)
        needs = model.tile_needs
        channels, height, width = pixels.shape
        tripled = model.config.channels != channels
        chosen = choose_tile(
            height,
            width,
            model.config.channels,
            free_bytes=free_memory(device),
            bytes_per_pixel=model.bytes_per_pixel,
            needs=needs,
            device_type=device.type,
        )
        condition = None
        if sigma is not None:
            told = [sigma / 255, float(clipped)][: model.config.conditions]
            condition = torch.tensor([told], dtype=torch.float32, device=device)

        def restore(tiles: torch.Tensor) -> torch.Tensor:
            x = tiles.expand(-1, 3, -1, -1) if tripled else tiles
            restored = _ensemble(model, x, condition) if options.ensemble else model(x, condition)
            restored = restored.mean(1, keepdim=True) if tripled else restored
            return restored if strength == 1 else torch.lerp(tiles, restored, strength)

        image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
        restored = apply_tiled(
            restore,
            image,
            tile=chosen[0] if options.tile is None else options.tile,
            overlap=default_overlap(needs) if options.overlap is None else options.overlap,
            batch=(chosen[1] if options.tile is None else 1) if options.batch is None else options.batch,
            device=device,
            needs=needs,
            precision=options.precision,
            out=image if in_place else None,
            progress=progress,
            notify=self.notify,
        )
        return restored.numpy()

    def sigma_limit(self, channels: int) -> float:
        """Highest noise level, on the 0-255 scale, the weights were trained with."""
        config = json.loads(self.load(channels).info.get("train_config", "{}"))
        return float(config.get("sigma_max", 255))


def _ensemble(model: Any, tiles: Tensor, condition: Tensor | None) -> Tensor:
    """Mean over the orientations of a square of what the model makes of the tiles, turned back."""
    total = tiles.new_zeros(tiles.shape)
    for mirrored in (False, True):
        for quarters in range(4):
            turned = (tiles.flip(-1) if mirrored else tiles).rot90(quarters, (-2, -1))
            restored = model(turned.contiguous(), condition).rot90(-quarters, (-2, -1))
            total += restored.flip(-1) if mirrored else restored
    return total / 8


def denoise(
    picture: np.ndarray,
    sigma: float | None = None,
    *,
    strength: float = 1.0,
    weights: str | None = None,
    device: str = "auto",
) -> np.ndarray:
    """Denoised picture of the same shape and dtype.

    Args:
        picture: (H, W) or (H, W, 3), uint8, uint16, or floating point on the [0, 1] scale.
        sigma: Standard deviation of the noise, on the 0-255 scale; estimated if None.
        strength: Share of the correction that is applied, 0 to 1.
        weights: NAME, FILE or hf:// address; None for the shipped ones.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        ShapeError: Another shape or dtype.
        UsageError: sigma or strength out of range.
        WeightsError: The weights are unknown or damaged.
    """
    pixels = _planes(picture)
    if sigma is None:
        sigma = picture_sigma(estimate_sigma(pixels))
    restored = Restorer(weights, RunOptions(device=device))(pixels, sigma, strength=strength)
    return _like(picture, restored)


def derain(
    picture: np.ndarray, *, strength: float = 1.0, weights: str | None = None, device: str = "auto"
) -> np.ndarray:
    """Picture without its rain, of the same shape and dtype; arguments and errors as for `denoise`."""
    restored = Restorer(weights, RunOptions(device=device), task="derain")(
        _planes(picture), strength=strength
    )
    return _like(picture, restored)


def restore(
    picture: np.ndarray, *, strength: float = 1.0, weights: str | None = None, device: str = "auto"
) -> np.ndarray:
    """Picture without noise and rain, of which nothing need be known, of the same shape and dtype; arguments
    and errors as for `denoise`."""
    restorer = Restorer(weights, RunOptions(device=device), task="restore")
    return _like(picture, restorer(_planes(picture), strength=strength))


# Value of white by dtype; 1 for floating point.
_WHITE = {"uint8": 255, "uint16": 65535}


def _planes(picture: np.ndarray) -> np.ndarray:
    """(C, H, W), float32 on the [0, 1] scale."""
    picture = np.asarray(picture)
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in (1, 3)):
        raise ShapeError(f"an array of shape {picture.shape} is no picture; give (H, W) or (H, W, 3)")
    if picture.dtype.name not in _WHITE and picture.dtype.kind != "f":
        raise ShapeError(f"an array of {picture.dtype} is no picture; give uint8, uint16 or floating point")
    planes = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
    return np.ascontiguousarray(planes, dtype=np.float32) / np.float32(_WHITE.get(picture.dtype.name, 1))


def _like(picture: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Pixels, (C, H, W), in the shape and dtype of the picture."""
    picture = np.asarray(picture)
    if picture.dtype.kind != "f":
        pixels = np.rint(np.clip(pixels, 0, 1) * _WHITE[picture.dtype.name])
    pixels = pixels.astype(picture.dtype)
    return pixels[0] if picture.ndim == 2 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
