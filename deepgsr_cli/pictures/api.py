"""Pictures restored by one call: the functions of `deepgsr_cli`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, overload

import numpy as np
from torch import Tensor

from deepgsr_cli.compute.precision import with_own_defaults
from deepgsr_cli.errors import ShapeError
from deepgsr_cli.pictures.arrays import NumpyPicture, as_array, to_pixels, white_of
from deepgsr_cli.pictures.findings import NoiseFinding, load_noise_estimator, noise_of
from deepgsr_cli.pictures.resampling import Method
from deepgsr_cli.pictures.restorer import Noise, Restorer, RunOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Running(TypedDict, total=False):
    """Options that these functions share, as of `denoise`."""

    strength: float
    ensemble: bool
    white: float | None
    weights: str | None
    device: str


@overload
def denoise(
    picture: Tensor, sigma: float | None = None, *, noise: Noise = "auto", **options: Unpack[Running]
) -> Tensor: ...
@overload
def denoise(
    picture: NumpyPicture, sigma: float | None = None, *, noise: Noise = "auto", **options: Unpack[Running]
) -> np.ndarray: ...
def denoise(
    picture: Tensor | NumpyPicture,
    sigma: float | None = None,
    *,
    noise: Noise = "auto",
    strength: float = 1.0,
    ensemble: bool = False,
    white: float | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> Tensor | np.ndarray:
    """Remove noise from a picture, or from each of a batch; shape, dtype and alpha stay.

    Args:
        picture: A file, or an array or tensor of (H, W), (H, W, S) or (N, H, W, S). S is 1 for gray, 2 for
            gray and alpha, 3 for RGB, 4 for RGB and alpha; uint8, uint16 or floating point.
        sigma: Standard deviation of the noise, on the 0-255 scale whatever the dtype; None to look in each
            picture, and leave one without noise as it is.
        noise: "white", "camera" (correlated by demosaicking or JPEG, or stronger in the light), or "auto": to
            look, or white if sigma is given.
        strength: Share of the correction that is applied, 0 to 1.
        ensemble: Average over eight orientations: a little better, and eight times the time.
        white: Value that stands for white; None for 255, 65535 or 1, by the dtype.
        weights: NAME, FILE or hf:// address; None for the shipped ones.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps". A tensor comes back on its own device.

    Raises:
        ShapeError: Another shape or dtype, NaN, or a range that is not that of `white`.
        UsageError: A value is out of range, or the weights do not fit.
        InputError: The file cannot be read.
        WeightsError: The weights are unknown or damaged.
        DeviceError: The device is not there.
    """
    restorer = Restorer(weights, RunOptions(device, "auto", ensemble=ensemble), noise=noise)
    return restorer(picture, sigma, strength=strength, white=white)


@overload
def derain(picture: Tensor, **options: Unpack[Running]) -> Tensor: ...
@overload
def derain(picture: NumpyPicture, **options: Unpack[Running]) -> np.ndarray: ...
def derain(
    picture: Tensor | NumpyPicture,
    *,
    strength: float = 1.0,
    ensemble: bool = False,
    white: float | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> Tensor | np.ndarray:
    """Remove rain from a picture, or from each of a batch; arguments and errors as for `denoise`.

    A picture without rain stays as it is, unless weights are given.
    """
    restorer = Restorer(weights, RunOptions(device, "auto", ensemble=ensemble), task="derain")
    return restorer(picture, strength=strength, white=white)


@overload
def restore(picture: Tensor, **options: Unpack[Running]) -> Tensor: ...
@overload
def restore(picture: NumpyPicture, **options: Unpack[Running]) -> np.ndarray: ...
def restore(
    picture: Tensor | NumpyPicture,
    *,
    strength: float = 1.0,
    ensemble: bool = False,
    white: float | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> Tensor | np.ndarray:
    """Remove noise, rain, both or coarse JPEG, whichever is found; arguments and errors as for `denoise`.

    A picture that has none of them stays as it is. With weights that are given one network does all.
    """
    restorer = Restorer(weights, RunOptions(device, "auto", ensemble=ensemble), task="restore")
    return restorer(picture, strength=strength, white=white)


@overload
def dejpeg(picture: Tensor, quality: float | None = None, **options: Unpack[Running]) -> Tensor: ...
@overload
def dejpeg(picture: NumpyPicture, quality: float | None = None, **options: Unpack[Running]) -> np.ndarray: ...
def dejpeg(
    picture: Tensor | NumpyPicture,
    quality: float | None = None,
    *,
    strength: float = 1.0,
    ensemble: bool = False,
    white: float | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> Tensor | np.ndarray:
    """Remove what JPEG has done to a picture, or to each of a batch; other arguments and errors as for
    `denoise`.

    Args:
        picture: As for `denoise`. How strongly it was compressed is read from a JPEG file, and found in the
            pixels of all others; a picture without a trace of JPEG comes back as it is.
        quality: Quality on libjpeg's scale, 1 to 100, in place of what the file or the pixels say.
        strength: Share of the correction that is applied, 0 to 1.
        ensemble: Average over eight orientations, at eight times the time.
        white: Value that stands for white; None for 255, 65535 or 1, by the dtype.
        weights: NAME, FILE or hf:// address; None for the shipped ones.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    """
    restorer = Restorer(weights, RunOptions(device, "auto", ensemble=ensemble), task="dejpeg")
    return restorer.decompress(picture, quality, strength=strength, white=white)


@overload
def upscale(
    picture: Tensor, scale: int = 2, *, method: Method = "deepgsr", **options: Unpack[Running]
) -> Tensor: ...
@overload
def upscale(
    picture: NumpyPicture, scale: int = 2, *, method: Method = "deepgsr", **options: Unpack[Running]
) -> np.ndarray: ...
def upscale(
    picture: Tensor | NumpyPicture,
    scale: int = 2,
    *,
    method: Method = "deepgsr",
    strength: float = 1.0,
    ensemble: bool = False,
    white: float | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> Tensor | np.ndarray:
    """Enlarge a picture, or each of a batch; other arguments and errors as for `denoise`.

    Args:
        picture: As for `denoise`. Alpha is interpolated.
        scale: Sides of the result over those of the picture: 2, 3 or 4.
        method: "deepgsr" for the network; "bicubic" and "lanczos" interpolate, and need no weights.
        strength: Share of what the network adds to bicubic interpolation, 0 to 1.
        ensemble: Average over eight orientations, at eight times the time.
        white: Value that stands for white; None for 255, 65535 or 1, by the dtype.
        weights: NAME, FILE or hf:// address; None for the shipped ones.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    """
    restorer = Restorer(weights, RunOptions(device, "auto", ensemble=ensemble), task="upscale")
    return restorer.enlarge(picture, scale, method=method, strength=strength, white=white)


@with_own_defaults
def find_noise(picture: Tensor | NumpyPicture, *, white: float | None = None) -> NoiseFinding:
    """Find out what noise a picture has: its kind, its level by channel, and how sure that is.

    Args:
        picture: One picture, as `denoise` takes it; alpha does not count.
        white: As of `denoise`.

    Raises:
        ShapeError: As `denoise`, or a batch.
    """
    array = as_array(picture)
    if array.ndim == 4:
        raise ShapeError(f"an array of shape {array.shape} is a batch; give its pictures one by one")
    samples = array.reshape(*array.shape[:2], -1)
    pixels = to_pixels(samples, white_of(array.dtype, white))
    return noise_of(pixels, load_noise_estimator().model)


def estimate_noise(picture: Tensor | NumpyPicture, *, white: float | None = None) -> float:
    """Standard deviation of the noise in a picture, on the 0-255 scale whatever the dtype; 0 without noise.

    Arguments and errors as for `find_noise`.
    """
    found = find_noise(picture, white=white)
    return found.sigma if found.kind in ("white", "camera") else 0.0
