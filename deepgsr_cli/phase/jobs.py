"""Phase retrieval of measurement files: retrieved, compared with a truth, written."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import PIL.Image
import torch

from deepgsr_cli.compute.device import select_device
from deepgsr_cli.compute.precision import autocast, settled
from deepgsr_cli.errors import InputError, OptionError, ShapeError, UsageError
from deepgsr_cli.evaluation.metrics import psnr, rounded8, ssim
from deepgsr_cli.files import make_folder
from deepgsr_cli.formats.image import Image, to_uint8, write_image
from deepgsr_cli.formats.patterns import Measurement, read_measurement, write_measurement
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import Column, Progress, Result
from deepgsr_cli.phase.diffraction import Diffraction
from deepgsr_cli.phase.evaluation import read_gray
from deepgsr_cli.phase.message_passing import Denoiser
from deepgsr_cli.phase.methods import Settings, align, retrieve
from deepgsr_cli.phase.network import UnrolledPhase
from deepgsr_cli.phase.noise import Noise, check_alpha, check_snr
from deepgsr_cli.phase.plausibility import doubt_picture, has_centred_zero, with_zero_first
from deepgsr_cli.phase.priors import load_unrolled, weighted_denoiser
from deepgsr_cli.phase.projections import PEAK, Constraints, Retrieval
from deepgsr_cli.phase.simulation import Simulation, operator_of
from deepgsr_cli.pictures.jobs import reference_of
from deepgsr_cli.pictures.restorer import Restorer
from deepgsr_cli.reports.report import ReportImage, ReportItem

if TYPE_CHECKING:
    from deepgsr_cli.compute.precision import Precision


class Source(Protocol):
    """Where the measurements of jobs come from."""

    def measure(self, job: Job) -> tuple[Measurement, np.ndarray | None]:
        """Return the measurement of a job, and the true picture, (1, H, W), in [0, 1], if it is known.

        Raises:
            UserError: A file cannot be read, or a value is out of range.
        """

    def truth(self, job: Job) -> np.ndarray | None:
        """Return the true picture alone."""

    def says(self, option: str) -> bool:
        """Whether the command line says this of all measurements, so that no file is to blame."""


@dataclass(frozen=True)
class Measured:
    """Measurement files, and what is said of all of them in place of what each says itself.

    Attributes:
        model: "fourier" or "cdp".
        masks: Masks of "cdp", (J, H, W).
        support: Where the object may be, (H, W), not 0, for "fourier".
        oversampling: Samples a pixel in each direction, for "fourier".
        scaling: Scaling of the Fourier transform.
        peak: Largest value of the picture, as magnitude.
        noise: Noise level alpha for pictures in 0-255, whatever their peak, and in dB; where one is given it
            takes the place of both.
        reference: True picture, or folder of true pictures with the names of the inputs.
    """

    model: str | None = None
    masks: np.ndarray | None = None
    support: np.ndarray | None = None
    oversampling: float | None = None
    scaling: str | None = None
    peak: float | None = None
    noise: tuple[float | None, float | None] = (None, None)
    reference: Path | None = None

    def measure(self, job: Job) -> tuple[Measurement, np.ndarray | None]:
        """As `Source.measure`."""
        assert job.source is not None
        measurement = read_measurement(
            job.source,
            model=self.model,
            masks=self.masks,
            oversampling=self.oversampling,
            support=self.support,
            peak=self.peak,
            scaling=self.scaling,
        )
        alpha, snr_db = self.noise
        if alpha is not None:
            check_alpha(alpha)
            alpha = alpha * measurement.peak / PEAK
        if self.noise != (None, None):
            measurement = replace(measurement, alpha=alpha, snr_db=snr_db)
        return measurement, self.truth(job)

    def truth(self, job: Job) -> np.ndarray | None:
        """As `Source.truth`."""
        return None if self.reference is None else read_gray(reference_of(job, self.reference))

    def says(self, option: str) -> bool:
        """As `Source.says`."""
        alpha, snr_db = self.noise
        return (vars(self) | {"alpha": alpha, "snr_db": snr_db}).get(option) is not None


@dataclass(frozen=True)
class Simulated:
    """Pictures whose measurements are simulated.

    Attributes:
        simulation: How.
        size: Side that pictures are resized to; None for their own.
        keep: File that gets the measurement.
    """

    simulation: Simulation
    size: int | None = None
    keep: Path | None = None

    def measure(self, job: Job) -> tuple[Measurement, np.ndarray | None]:
        """As `Source.measure`."""
        truth = self.truth(job)
        measurement = self.simulation.measure(truth)
        if self.keep is not None:
            write_measurement(self.keep, measurement)
        return measurement, truth

    def truth(self, job: Job) -> np.ndarray:
        """As `Source.truth`."""
        assert job.source is not None
        return read_gray(job.source, self.size)

    def says(self, option: str) -> bool:
        """As `Source.says`."""
        return True


@dataclass
class PhaseRetrieval:
    """Phase retrieval of one measurement after another.

    Attributes:
        source: Where the measurements come from.
        settings: The method and its settings.
        restorer: Denoiser of the method "red"; says the device, and the weights of "unrolled", too.
        seed: Seed of the random starts.
    """

    source: Source
    settings: Settings
    restorer: Restorer
    seed: int = 0
    title: ClassVar[str] = "Phase retrieval"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("residual", "residual"),
        Column("psnr", "PSNR (dB)"),
        Column("ssim", "SSIM"),
        Column("iterations", "iterations", mean=False),
    )
    _prior: Prior | None = field(default=None, init=False)
    _measured: dict[str, list[str]] = field(default_factory=dict, init=False)

    @property
    def protocol(self) -> dict[str, str]:
        """All it takes to repeat the run, with the measurements so far."""
        protocol = {"tile": "auto"}
        protocol |= {name: "; ".join(dict.fromkeys(values)) for name, values in self._measured.items()}
        protocol |= {"seed": str(self.seed), "figures": "clipped to [0, 1], rounded to 8 bits"}
        if self._prior is not None and self._prior.weights:
            protocol["weights"] = self._prior.weights
        return protocol

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        """Make and write the picture of one measurement; see how near it is to the truth if there is one.

        Args:
            job: Where from and where to.
            for_report: Whether to make pictures for a report.
            progress: Called with finished and all iterations.

        Raises:
            InputError: The measurement or the true picture cannot be read, or metadata are missing or out of
                range.
            OutputError: The result cannot be written.
            UsageError: An option is out of range, or the weights do not fit.
            ShapeError: Masks, support or truth do not fit the measurement.
        """
        assert job.target is not None
        started = time.perf_counter()
        measurement, truth = self.source.measure(job)
        with self._of_file(job):
            A = checked_operator(measurement, truth)
        before = time.perf_counter()
        prior = self._prior = self._prior or load_prior(self.settings, self.restorer)
        started += time.perf_counter() - before  # no time of this measurement
        running = self.restorer.options
        with self._of_file(job):
            retrieval = retrieve_picture(
                A.to(select_device(running.device)),
                measurement,
                self.settings,
                prior,
                precision=settled(running.precision, select_device(running.device)),
                seed=self.seed,
                progress=progress,
            )
        picture = retrieval.picture.cpu()
        shifts = measurement.model == "fourier"
        if truth is not None:
            picture = align(picture, torch.from_numpy(truth)[None] * PEAK, shifts=shifts)
        pixels = picture[0].numpy() / np.float32(PEAK)
        make_folder(job.target.parent)
        write_picture(job.target, pixels)
        height, width = A.domain_shape
        facts = {
            "width": width,
            "height": height,
            "model": str(measurement.model),
            "patterns": len(measurement.intensity),
            "method": self.settings.method,
            "residual": round(retrieval.residual, 6),
            "iterations": retrieval.curve[-1][0],
            **_figures(pixels, truth),
            "seconds": time.perf_counter() - started,
        }
        for name, text in _described(measurement).items():
            self._measured.setdefault(name, []).append(text)
        notes = [retrieval.note]
        if shifts:
            resolved = "" if truth is None else ", and were resolved against the truth"
            notes.append(f"shift and half-turn are not in the measurement{resolved}")
        note = "; ".join(filter(None, notes))
        result = Result(facts, note, retrieval.doubts, images=_images(pixels, truth))
        if for_report:
            curve = ReportImage("Residual", curve_picture(retrieval))
            result.plots = [ReportItem("residual by iteration", [curve])]
        return result

    @contextmanager
    def _of_file(self, job: Job) -> Generator[None]:
        """Take what is missing or wrong in a measurement that is read for a fault of its file, not of the
        options: the next file may have it."""
        try:
            yield
        except UsageError as error:
            if self.source.says(error.option if isinstance(error, OptionError) else ""):
                raise
            raise InputError(f"{job.label}: {error.for_command_line()}") from error

    def review(self, job: Job) -> Result:
        """Compare what an earlier run has written with the truth, if there is one.

        Raises:
            InputError: A picture cannot be read.
        """
        assert job.target is not None
        pixels, truth = read_gray(job.target), self.source.truth(job)
        if truth is not None and truth.shape != pixels.shape:
            raise InputError(f"{job.target}: is no result of {job.label}, as it has another size")
        return Result(_figures(pixels, truth), images=_images(pixels, truth))


@dataclass(frozen=True)
class Prior:
    """What a method knows of pictures: a denoiser for "red", a network for "unrolled", or nothing.

    Attributes:
        weights: Name and checksum of the weights, if there are any.
        denoiser: Removes noise of a given deviation.
        network: The network that is trained end to end.
    """

    weights: str = ""
    denoiser: Denoiser | None = None
    network: UnrolledPhase | None = None


def load_prior(settings: Settings, restorer: Restorer) -> Prior:
    """Load what a method needs.

    Raises:
        WeightsError: The weights are unknown or damaged, or there are none for the method.
        UsageError: The weights are for another task, or a package is missing.
    """
    if settings.method == "red":
        weights, denoiser = weighted_denoiser(settings.prior, restorer)
        return Prior(weights, denoiser=denoiser)
    if settings.method == "unrolled":
        options = restorer.options
        loaded = load_unrolled(restorer.weights, options.device, offline=options.offline)
        return Prior(loaded.weights.label, network=loaded.model)
    return Prior()


def retrieve_picture(
    A: Diffraction,
    measurement: Measurement,
    settings: Settings,
    prior: Prior,
    *,
    precision: Precision = "fp32",
    seed: int = 0,
    progress: Progress | None = None,
) -> Retrieval:
    """Return the picture of a measurement, in [0, 255], whose zero frequency may be in the middle.

    Args:
        A: The measurement's operator, on the device to work on.
        measurement: The intensities, and what is known of them.
        settings: The method.
        prior: What it needs.
        precision: Arithmetic of the network of "unrolled".
        seed: Seed of the random starts.
        progress: Called with finished and all iterations.

    Raises:
        UsageError: There is no noise level, or one out of range.
    """
    centred = has_centred_zero(A, measurement.intensity)
    if centred:
        measurement = replace(measurement, intensity=with_zero_first(measurement.intensity))
    retrieval = _retrieved(A, measurement, settings, prior, precision, seed, progress)
    doubts = _doubts(A, measurement, retrieval)
    if A.mixes and doubts and settings.method != "unrolled":
        # Coded patterns have no largest value at the zero frequency: what explains them tells.
        shifted = replace(measurement, intensity=with_zero_first(measurement.intensity))
        other = _retrieved(A, shifted, settings, prior, precision, seed, progress)
        if other.residual < retrieval.residual / 2:
            centred, retrieval, doubts = True, other, _doubts(A, shifted, other)
    retrieval.doubts = doubts
    if centred:
        retrieval.note = "the zero frequency is in the middle of the patterns, and was moved to [0, 0]"
    return retrieval


def _retrieved(
    A: Diffraction,
    measurement: Measurement,
    settings: Settings,
    prior: Prior,
    precision: Precision,
    seed: int,
    progress: Progress | None,
) -> Retrieval:
    """The picture of a measurement as it is."""
    device = A.masks.device
    with torch.inference_mode(), autocast(device, precision):
        return retrieve(
            A,
            torch.from_numpy(_scaled(measurement).astype(np.float32)).to(device),
            settings,
            torch.Generator().manual_seed(seed),
            noise=_noise(measurement),
            denoiser=prior.denoiser,
            network=prior.network,
            progress=progress,
        )


def _doubts(A: Diffraction, measurement: Measurement, retrieval: Retrieval) -> list[str]:
    magnitudes = torch.from_numpy(np.sqrt(_scaled(measurement)).astype(np.float32)).to(A.masks.device)
    with torch.inference_mode():
        return doubt_picture(Constraints(A, magnitudes), retrieval, _noise(measurement))


def _scaled(measurement: Measurement) -> np.ndarray:
    """Intensities, (J, M, N), of the picture in [0, 255]."""
    return measurement.intensity * (PEAK / measurement.peak) ** 2


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture, (1, H, W), in [0, 1]: floating point as .tif, 8 bits in the other formats.

    Raises:
        OutputError: The file cannot be written.
    """
    depth = "float32" if path.suffix.lower() in (".tif", ".tiff") else "uint8"
    write_image(path, Image(picture, depth, "PNG"))


def curve_picture(retrieval: Retrieval) -> np.ndarray:
    """Plot of the residual by iteration, (H, W, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.semilogy(*zip(*retrieval.curve), marker=".")
    axes.set(xlabel="iteration", ylabel="residual ‖|A x| − y‖ / ‖y‖")
    axes.grid(visible=True, which="both", alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(PIL.Image.open(buffer).convert("RGB"))


def _noise(measurement: Measurement) -> Noise | None:
    """Noise of the `_scaled` intensities."""
    if measurement.snr_db is not None:
        check_snr(measurement.snr_db)
        # Power of signal and noise together, of which the noise is one part in 1 + the ratio.
        power = np.mean(_scaled(measurement) ** 2)
        return Noise(sigma=math.sqrt(power / (1 + 10 ** (measurement.snr_db / 10))))
    if measurement.alpha is None:
        return None
    check_alpha(measurement.alpha, measurement.peak)
    return Noise(alpha=measurement.alpha * PEAK / measurement.peak)


def checked_operator(measurement: Measurement, truth: np.ndarray | None = None) -> Diffraction:
    """Return the operator of a measurement.

    Raises:
        OptionError: The measurement's peak is not above 0.
        ShapeError: The true picture, (1, H, W), has another size than the measurement's.
    """
    if not 0 < measurement.peak < math.inf:
        raise OptionError("peak", measurement.peak, "give the largest value of the picture, above 0")
    A = operator_of(measurement)
    if truth is not None and truth.shape[1:] != A.domain_shape:
        (height, width), (rows, columns) = A.domain_shape, truth.shape[1:]
        raise ShapeError(
            f"the true picture has {columns} x {rows} pixels, the measurement's {width} x {height}; "
            "give one of that size"
        )
    return A


def _described(measurement: Measurement) -> dict[str, str]:
    """Return what a protocol says of a measurement."""
    count, height, width = measurement.intensity.shape
    if measurement.snr_db is not None:
        noise = f"SNR {measurement.snr_db:g} dB"
    elif measurement.alpha is not None:
        noise = f"alpha {measurement.alpha * PEAK / measurement.peak:g}"
    else:
        noise = "of a level that is not known"
    return {
        "model": str(measurement.model),
        "patterns": f"{count} of {width} x {height}",
        "noise": noise,
    }


def _figures(pixels: np.ndarray, truth: np.ndarray | None) -> dict[str, float]:
    """Return PSNR and SSIM of a picture, rounded to 8 bits, to the truth."""
    if truth is None:
        return {}
    rounded = rounded8(pixels)
    return {"psnr": round(psnr(rounded, truth), 4), "ssim": round(ssim(rounded, truth), 6)}


def _images(pixels: np.ndarray, truth: np.ndarray | None) -> list[ReportImage]:
    images = [ReportImage("Retrieved", to_uint8(pixels))]
    return images if truth is None else [*images, ReportImage("Truth", to_uint8(truth))]
