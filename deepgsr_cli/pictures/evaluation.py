"""Evaluation of tasks on pictures, the classical methods beside ours in the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from deepgsr_cli.errors import ShapeError, UsageError, UserError
from deepgsr_cli.evaluation.metrics import luma_inside, luma_y, psnr, psnr_b, rounded8, ssim
from deepgsr_cli.evaluation.records import Case, Column, Evaluation, Labels, Mean, Score
from deepgsr_cli.files import fingerprint, named
from deepgsr_cli.formats.image import check_range, picture_paths, read_channels, read_image, to_uint8
from deepgsr_cli.formats.jpeg import jpeg_file
from deepgsr_cli.pictures.arrays import is_clipped
from deepgsr_cli.pictures.baselines import BASELINES, baseline
from deepgsr_cli.pictures.compression import Compression, of_coding
from deepgsr_cli.pictures.dataset import pair_paths
from deepgsr_cli.pictures.noise import protocol_noise
from deepgsr_cli.pictures.resampling import interpolated, reduced
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from deepgsr_cli.pictures.tasks import UPSCALE, check_enlargement
from deepgsr_cli.reports.report import ReportImage, ReportItem, fit_for_report
from deepgsr_cli.words import counted

OUTPUT = "clipped to [0, 1], rounded to 8 bits, no border left out"


def _pixels(path: Path) -> np.ndarray:
    """Pixels of a picture, (C, H, W), which must be in [0, 1] but for a few.

    Raises:
        InputError: It cannot be read, or its values are on another scale.
    """
    image = read_image(path)
    check_range(image, str(path))
    return image.pixels


def _pair(paths: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a picture with rain and of its clean partner, (3, H, W) each.

    Raises:
        InputError: One cannot be read.
        ShapeError: They differ in size.
    """
    rainy, clean = (read_channels(path, 3) for path in paths)
    if rainy.shape != clean.shape:
        sizes = [f"{width} x {height}" for _, height, width in (rainy.shape, clean.shape)]
        raise ShapeError(
            f"{paths[0]}: is {sizes[0]}, its clean partner {sizes[1]}; give each picture its own partner"
        )
    return rainy, clean


def _first_channels(paths: list[Path], read: Callable[[Path], np.ndarray]) -> int:
    """Channels of the first picture that can be read; those of the last one, if none can, raise."""
    for path in paths[:-1]:
        with suppress(UserError):
            return len(read(path))
    return len(read(paths[-1]))


@dataclass(frozen=True)
class Degraded:
    """A degraded picture, (C, H, W), and the noise level on the 0-255 scale, 0 for rain."""

    pixels: np.ndarray
    sigma: float


class Speed(Column):
    """Millions of pixels a second; empty for the degraded pictures themselves."""

    def text(self, mean: Mean) -> str:
        given = mean.method in (Denoising.given, Deraining.given, Dejpeg.given)
        return "" if given else f"{mean.figures[self.name] / 1e6:.3f}"


@dataclass(frozen=True, kw_only=True)
class PictureEvaluation(Evaluation[Degraded, np.ndarray, np.ndarray]):
    """What denoising and deraining share.

    The method "restore" is told nothing about the degradation, and does what it finds to be done; `given` is
    the degraded picture itself.

    Attributes:
        tile: As `RunOptions`.
        overlap: As `RunOptions`.
        batch: As `RunOptions`.
        ensemble: As `RunOptions`.
    """

    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    ensemble: bool = False

    task: ClassVar[str]
    given: ClassVar[str]
    known_methods: ClassVar[tuple[str, ...]] = ("deepgsr", "restore")
    written: ClassVar[tuple[str, ...]] = ("psnr", "ssim", "seconds")
    columns: ClassVar[tuple[Column, ...]] = (
        Column("method", "method"),
        Column("psnr", "PSNR (dB)", ".2f"),
        Column("ssim", "SSIM", ".4f"),
        Speed("pixels_per_second", "Mpx/s"),
    )

    @cached_property
    def restorers(self) -> dict[str, Restorer]:
        """Networks among the methods; the weights that were given are those of "deepgsr"."""
        options = RunOptions(
            self.device, self.precision, self.tile, self.overlap, self.batch, self.offline, self.ensemble
        )
        ours = {
            "deepgsr": Restorer(self.weights, options, self.notify, self.task),
            "restore": Restorer(None, options, self.notify, "restore"),
        }
        return {name: restorer for name, restorer in ours.items() if name in self.method_names}

    @cached_property
    def methods(self) -> dict[str, Callable[[Degraded], np.ndarray]]:
        return {self.given: lambda m: m.pixels, **{name: self._method(name) for name in self.method_names}}

    def _method(self, name: str) -> Callable[[Degraded], np.ndarray]:
        restorer = self.restorers[name]

        def restore(m: Degraded) -> np.ndarray:
            clipped = is_clipped(m.pixels, "float32")
            return restorer.route(m.pixels).run(m.pixels.copy(), clipped=clipped)

        return restore

    def figures(self, case: Case[Degraded, np.ndarray], result: np.ndarray) -> dict[str, float]:
        restored = rounded8(result)
        return {
            "psnr": psnr(restored, case.truth),
            "ssim": ssim(restored, case.truth),
            "pixels": restored[0].size,
        }

    def average(self, name: str, scores: Sequence[Score]) -> dict[str, float]:
        if name != "seconds":
            return super().average(name, scores)
        pixels, seconds = (sum(score.figures[n] for score in scores) for n in ("pixels", "seconds"))
        return {"pixels_per_second": pixels / max(seconds, 1e-9)}

    def _labels_of_weights(self, channels: int) -> dict[str, str]:
        facts = {}
        for name in self.method_names:
            if name == "restore":
                facts[name] = "by the weights for what is found in each picture"
            elif name in self.restorers:
                label = self.restorers[name].load(channels).weights.label
                text = label + ("; mean of eight orientations" if self.ensemble else "")
                facts["weights" if name == "deepgsr" else f"weights of {name}"] = text
        return facts

    def item(self, labels: Labels) -> ReportItem:
        return ReportItem(str(labels["picture"]))

    def images(
        self, case: Case[Degraded, np.ndarray], results: Mapping[str, np.ndarray]
    ) -> tuple[list[ReportImage], str]:
        pictures = {name: to_uint8(rounded8(result)) for name, result in results.items()}
        pictures["clean"] = to_uint8(case.truth)
        crops, note = fit_for_report(*pictures.values())
        return [ReportImage(name, crop) for name, crop in zip(pictures, crops)], note


@dataclass(frozen=True, kw_only=True)
class Denoising(PictureEvaluation):
    """Noise added to clean pictures, and removed.

    Attributes:
        sigmas: Noise levels, on the 0-255 scale.
        gray: Convert colour to luma.
        clipped: Clip the noisy pictures and round them to 8 bits, as files hold them, and tell the network.
    """

    sigmas: tuple[float, ...]
    gray: bool = False
    clipped: bool = False

    title, task, given = "Evaluation of denoising", "denoise", "noisy"
    known_methods = (*PictureEvaluation.known_methods, *BASELINES)
    columns = (Column("sigma", "sigma", "g"), *PictureEvaluation.columns)

    def __post_init__(self) -> None:
        super().__post_init__()
        for sigma in self.sigmas:
            if not 0 < sigma <= 255:
                raise UsageError(f"--sigma {sigma:g}: give more than 0 and at most 255")

    @cached_property
    def paths(self) -> list[Path]:
        """The clean pictures."""
        return picture_paths(self.data)[: self.limit]

    def __len__(self) -> int:
        return len(self.paths) * len(self.sigmas)

    def _method(self, name: str) -> Callable[[Degraded], np.ndarray]:
        if name in BASELINES:
            remove = baseline(name)
            return lambda m: remove(m.pixels, m.sigma)
        restorer = self.restorers[name]
        if restorer.task != self.task:
            return super()._method(name)
        return lambda m: restorer.restore_pixels(m.pixels, m.sigma, clipped=self.clipped)

    def cases(self) -> Iterator[Case[Degraded, np.ndarray]]:
        for path, clean in self.usable(self.paths, self._clean):
            for sigma in self.sigmas:
                noisy = clean + protocol_noise(clean.shape, sigma, self.seed)
                labels: Labels = {"picture": str(path.relative_to(self.data)), "sigma": sigma}
                yield Case(labels, Degraded(rounded8(noisy) if self.clipped else noisy, sigma), clean)

    def _clean(self, path: Path) -> np.ndarray:
        """Pixels of a picture, (C, H, W)."""
        return read_channels(path, 1) if self.gray else _pixels(path)

    def protocol(self) -> dict[str, str]:
        colour = "gray (colour to BT.601 luma, rounded to 8 bits)" if self.gray else "as stored (gray or RGB)"
        noise = "clipped, rounded to 8 bits" if self.clipped else "not clipped or rounded"
        return {
            "data": f"{self.data.name}: {named(self.paths, 'picture')}",
            "colour": colour,
            "noise": f"Gaussian, numpy RandomState({self.seed}) for each picture, {noise}",
            "figures": "mean of each picture's PSNR (all channels) and SSIM (Wang 2004, mean of channels)",
            "output": OUTPUT,
            **self._labels_of_weights(_first_channels(self.paths, self._clean)),
        }

    def item(self, labels: Labels) -> ReportItem:
        sigma = float(labels["sigma"])
        return ReportItem(f"{labels['picture']}, sigma {sigma:g}", metrics={"sigma": sigma})

    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        return {f"mean PSNR {m.method} at sigma {m.labels['sigma']:g} (dB)": m.figures["psnr"] for m in means}


@dataclass(frozen=True)
class Decoded(Degraded):
    """A picture as a JPEG file holds it, (C, H, W), and how that was quantised."""

    compression: Compression


@dataclass(frozen=True, kw_only=True)
class Dejpeg(PictureEvaluation):
    """Pictures compressed as JPEG and restored, told what the file says.

    Attributes:
        qualities: Qualities on libjpeg's scale, 1 to 100.
        gray: Compress the luma of colour pictures: Y of MATLAB's rgb2ycbcr, rounded.
        full_chroma: Keep the resolution of chroma, 4:4:4, which is 4:2:0 else.
    """

    qualities: tuple[int, ...]
    gray: bool = False
    full_chroma: bool = False

    title, task, given = "Evaluation of JPEG restoration", "dejpeg", "jpeg"
    known_methods = ("deepgsr",)
    written = (*PictureEvaluation.written, "psnr_b")
    columns = (
        Column("quality", "quality", "g"),
        *PictureEvaluation.columns[:3],
        Column("psnr_b", "PSNR-B (dB)", ".2f"),
        *PictureEvaluation.columns[3:],
    )
    reported: ClassVar = {**PictureEvaluation.reported, "psnr_b": "PSNR-B {} (dB)"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for quality in self.qualities:
            if not 1 <= quality <= 100:
                raise UsageError(f"--quality {quality}: give 1 to 100")

    @cached_property
    def paths(self) -> list[Path]:
        """The clean pictures."""
        return picture_paths(self.data)[: self.limit]

    def __len__(self) -> int:
        return len(self.paths) * len(self.qualities)

    def _method(self, name: str) -> Callable[[Degraded], np.ndarray]:
        restorer = self.restorers[name]

        def restore(m: Degraded) -> np.ndarray:
            assert isinstance(m, Decoded)
            return restorer.restore_compressed(m.pixels, m.compression)

        return restore

    def cases(self) -> Iterator[Case[Degraded, np.ndarray]]:
        for path, clean in self.usable(self.paths, self._clean):
            for quality in self.qualities:
                labels: Labels = {"picture": str(path.relative_to(self.data)), "quality": quality}
                yield Case(labels, self._decoded(clean, quality), clean)

    def _clean(self, path: Path) -> np.ndarray:
        """Pixels of a picture: gray where its channels are equal, as in WebP, or where gray is asked for."""
        pixels = _pixels(path)
        if len(pixels) == 3 and np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2]):
            return pixels[:1]
        if len(pixels) == 3 and self.gray:
            return rounded8(luma_y(pixels)).astype(np.float32)
        return pixels

    def _decoded(self, clean: np.ndarray, quality: int) -> Decoded:
        image = read_image(jpeg_file(to_uint8(clean), quality, subsampled=not self.full_chroma))
        assert image.metadata.jpeg is not None
        return Decoded(image.pixels, 0.0, of_coding(image.metadata.jpeg, len(clean)))

    def figures(self, case: Case[Degraded, np.ndarray], result: np.ndarray) -> dict[str, float]:
        return {**super().figures(case, result), "psnr_b": psnr_b(rounded8(result), case.truth)}

    def protocol(self) -> dict[str, str]:
        colour = "Y of MATLAB's rgb2ycbcr, rounded to 8 bits" if self.gray else "as stored (gray or RGB)"
        chroma = "4:4:4" if self.full_chroma else "4:2:0"
        return {
            "data": f"{self.data.name}: {named(self.paths, 'picture')}",
            "colour": f"{colour}; three equal channels are gray",
            "jpeg": f"by Pillow, whose libjpeg has the tables of MATLAB's imwrite; colour {chroma}",
            "figures": "mean of each picture's PSNR (all channels), SSIM (Wang 2004) and PSNR-B (Yim 2011),"
            " both as means of channels",
            "output": OUTPUT,
            **self._labels_of_weights(_first_channels(self.paths, self._clean)),
        }

    def item(self, labels: Labels) -> ReportItem:
        quality = float(labels["quality"])
        return ReportItem(f"{labels['picture']}, quality {quality:g}", metrics={"quality": quality})

    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        return {
            f"mean PSNR {m.method} at quality {m.labels['quality']:g} (dB)": m.figures["psnr"] for m in means
        }


@dataclass(frozen=True, kw_only=True)
class Deraining(PictureEvaluation):
    """Rain removed from pictures whose clean version is there: `data` has the folders "rain" and "clean"."""

    title, task, given = "Evaluation of deraining", "derain", "rainy"
    written = (*PictureEvaluation.written, "psnr_y", "ssim_y")
    columns = (
        Column("method", "method"),
        Column("psnr_y", "PSNR-Y (dB)", ".2f"),
        Column("ssim_y", "SSIM-Y", ".4f"),
        *PictureEvaluation.columns[1:],
    )
    reported: ClassVar = {**PictureEvaluation.reported, "psnr_y": "PSNR-Y {} (dB)"}

    @cached_property
    def pairs(self) -> list[tuple[Path, Path]]:
        """The rainy and the clean picture of each pair."""
        return pair_paths(self.data, "rain")[: self.limit]

    def __len__(self) -> int:
        return len(self.pairs)

    def cases(self) -> Iterator[Case[Degraded, np.ndarray]]:
        for (rainy, _), (degraded, truth) in self.usable(self.pairs, _pair):
            labels: Labels = {"picture": str(rainy.relative_to(self.data / "rain")), "sigma": 0.0}
            yield Case(labels, Degraded(degraded, 0.0), truth)

    def figures(self, case: Case[Degraded, np.ndarray], result: np.ndarray) -> dict[str, float]:
        y, y_true = luma_y(rounded8(result)), luma_y(case.truth)
        return {**super().figures(case, result), "psnr_y": psnr(y, y_true), "ssim_y": ssim(y, y_true)}

    def protocol(self) -> dict[str, str]:
        paths = [path for pair in self.pairs for path in pair]
        return {
            "data": f"{self.data.name}: {counted(len(self.pairs), 'pair')}, fingerprint {fingerprint(paths)}",
            "rain": "as stored",
            "figures": "mean of each picture's PSNR and SSIM (Wang 2004), of RGB (mean of channels for SSIM) "
            "and of Y (MATLAB rgb2ycbcr, in float)",
            "output": OUTPUT,
            **self._labels_of_weights(3),
        }

    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        names = {"psnr": "PSNR", "psnr_y": "PSNR-Y"}
        return {f"mean {names[n]} {m.method} (dB)": m.figures[n] for m in means for n in names}


@dataclass(frozen=True)
class Reduced(Degraded):
    """A reduced picture, (3, H, W), and by how much it was reduced."""

    scale: int


@dataclass(frozen=True, kw_only=True)
class Upscaling(PictureEvaluation):
    """Pictures reduced and enlarged again.

    Attributes:
        scales: Sides of the pictures over those of the reduced ones.
    """

    scales: tuple[int, ...] = UPSCALE.scales

    title, task, given = "Evaluation of upscaling", "upscale", "bicubic"
    known_methods = ("deepgsr", *UPSCALE.baselines)
    written = ("psnr_y", "ssim_y", "psnr", "seconds")
    columns = (
        Column("scale", "scale"),
        Column("method", "method"),
        Column("psnr_y", "PSNR-Y (dB)", ".2f"),
        Column("ssim_y", "SSIM-Y", ".4f"),
        *PictureEvaluation.columns[1:2],
        *PictureEvaluation.columns[3:],
    )
    reported: ClassVar = {"psnr_y": "PSNR-Y {} (dB)", "ssim_y": "SSIM-Y {}"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for scale in self.scales:
            check_enlargement(scale, "deepgsr")

    @cached_property
    def paths(self) -> list[Path]:
        """The true pictures."""
        return picture_paths(self.data)[: self.limit]

    def __len__(self) -> int:
        return len(self.paths) * len(self.scales)

    @cached_property
    def methods(self) -> dict[str, Callable[[Degraded], np.ndarray]]:
        names = dict.fromkeys((self.given, *self.method_names))
        return {name: self._method(name) for name in names}

    def _method(self, name: str) -> Callable[[Degraded], np.ndarray]:
        restorer = self.restorers.get(name)

        def enlarge(m: Degraded) -> np.ndarray:
            assert isinstance(m, Reduced)
            if restorer is not None:
                return restorer.enlarge_pixels(m.pixels, m.scale)
            return interpolated(m.pixels, m.scale, "lanczos" if name == "lanczos" else "bicubic")

        return enlarge

    def cases(self) -> Iterator[Case[Degraded, np.ndarray]]:
        for path, true in self.usable(self.paths, self._true):
            for scale in self.scales:
                pixels = reduced(torch.from_numpy(true)[None], scale)[0].numpy()
                height, width = (scale * length for length in pixels.shape[1:])
                labels: Labels = {"picture": str(path.relative_to(self.data)), "scale": scale}
                yield Case(labels, Reduced(pixels, 0.0, scale), true[:, :height, :width])

    def _true(self, path: Path) -> np.ndarray:
        """Pixels of a picture, (3, H, W), of which some are left within the edges at every scale."""
        pixels = read_channels(path, 3)
        least = 3 * max(self.scales)
        if min(pixels.shape[1:]) < least:
            _, height, width = pixels.shape
            raise ShapeError(
                f"{path}: is {width} x {height} pixels, and scale {max(self.scales)} asks for {least} a side;"
                " leave it out"
            )
        return pixels

    def figures(self, case: Case[Degraded, np.ndarray], result: np.ndarray) -> dict[str, float]:
        assert isinstance(case.measurement, Reduced)
        border = case.measurement.scale
        y, y_true = luma_inside(result, border), luma_inside(case.truth, border)
        inside = (..., slice(border, -border), slice(border, -border))
        return {
            "psnr_y": psnr(y, y_true),
            "ssim_y": ssim(y, y_true),
            "psnr": psnr(rounded8(result)[inside], case.truth[inside]),
            "pixels": result[0].size,
        }

    def protocol(self) -> dict[str, str]:
        return {
            "data": f"{self.data.name}: {named(self.paths, 'picture')}",
            "input": "cut at the right and below to a multiple of the scale, reduced as RGB by the"
            " antialiased bicubic of MATLAB's imresize, rounded to 8 bits",
            "figures": "mean of each picture's PSNR and SSIM (Wang 2004) of Y (MATLAB rgb2ycbcr, in float),"
            " and PSNR of RGB",
            "output": "clipped to [0, 1], rounded to 8 bits, as many pixels as the scale left out at each"
            " edge",
            **self._labels_of_weights(3),
        }

    def item(self, labels: Labels) -> ReportItem:
        scale = int(labels["scale"])
        return ReportItem(f"{labels['picture']}, scale {scale}", metrics={"scale": scale})

    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        return {
            f"mean PSNR-Y {m.method} at scale {m.labels['scale']} (dB)": m.figures["psnr_y"] for m in means
        }
