"""Phase retrieval of measurement files: retrieved, compared with a truth, written."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from deepgsr_cli.compute.device import select_device
from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.evaluation.metrics import psnr, rounded8, ssim
from deepgsr_cli.formats.image import Image, to_uint8, write_image
from deepgsr_cli.formats.patterns import Measurement
from deepgsr_cli.phase.methods import Settings, align, retrieve
from deepgsr_cli.phase.noise import Noise, check_alpha, check_snr
from deepgsr_cli.phase.priors import load_unrolled, weighted_denoiser
from deepgsr_cli.phase.projections import PEAK, Progress, Retrieval
from deepgsr_cli.phase.simulation import operator_of
from deepgsr_cli.pictures.restorer import Restorer
from deepgsr_cli.reports.report import ReportImage


@dataclass
class PhaseResult:
    """What came of one measurement.

    Attributes:
        picture: (1, H, W) in [0, 1].
        facts: Size, residual and metrics; JSON types.
        retrieval: The result with its curve.
        weights: Name and checksum of the weights, if there are any.
        note: What the user should know.
        images: Pictures for a report.
    """

    picture: np.ndarray
    facts: dict[str, float | int | str]
    retrieval: Retrieval
    weights: str = ""
    note: str = ""
    images: list[ReportImage] = field(default_factory=list)


def reconstruct(
    measurement: Measurement,
    restorer: Restorer,
    settings: Settings,
    *,
    seed: int = 0,
    truth: np.ndarray | None = None,
    progress: Progress | None = None,
) -> PhaseResult:
    """Picture of a measurement, and how near it is to the truth if there is one.

    Args:
        measurement: The intensities, and what is known of them.
        restorer: The denoiser of the method "red"; says the device, and the weights of "unrolled", too.
        settings: The method.
        seed: Of the random starts.
        truth: True picture, (1, H, W), in [0, 1].
        progress: Called with finished and all iterations.

    Raises:
        UsageError: Metadata are missing or out of range, or the weights do not fit.
        ShapeError: Masks, support or truth do not fit the measurement.
    """
    if not 0 < measurement.peak < math.inf:
        raise UsageError(f"--peak {measurement.peak:g}: give the largest value of the picture, above 0")
    device = select_device(restorer.options.device)
    A = operator_of(measurement).to(device)
    if truth is not None and truth.shape[1:] != A.domain_shape:
        (height, width), (rows, columns) = A.domain_shape, truth.shape[1:]
        raise ShapeError(
            f"the true picture has {columns} x {rows} pixels, the measurement's {width} x {height}; "
            "give one of that size"
        )
    to_255 = PEAK / measurement.peak
    scaled = measurement.intensity * to_255**2
    intensity = torch.from_numpy(scaled.astype(np.float32)).to(device)
    denoiser = network = None
    weights = ""
    if settings.method == "red":
        weights, denoiser = weighted_denoiser(settings.prior, restorer)
    elif settings.method == "unrolled":
        options = restorer.options
        loaded = load_unrolled(restorer.weights, options.device, offline=options.offline)
        weights, network = loaded.weights.label, loaded.model
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        retrieval = retrieve(
            A,
            intensity,
            settings,
            generator,
            noise=_noise(measurement, to_255, scaled),
            denoiser=denoiser,
            network=network,
            progress=progress,
        )
    height, width = A.domain_shape
    facts: dict[str, float | int | str] = {
        "width": width,
        "height": height,
        "model": str(measurement.model),
        "patterns": len(measurement.intensity),
        "method": settings.method,
        "residual": round(retrieval.residual, 6),
        "iterations": retrieval.curve[-1][0],
    }
    picture = retrieval.picture.cpu()
    result = PhaseResult(picture[0].numpy() / np.float32(PEAK), facts, retrieval, weights)
    if truth is not None:
        _compare(result, measurement, picture, truth)
    result.images = [ReportImage("Retrieved", to_uint8(result.picture))]
    if truth is not None:
        result.images.append(ReportImage("Truth", to_uint8(truth)))
    if measurement.model == "fourier":
        ambiguous = "shift and half-turn are not in the measurement"
        result.note = ambiguous + ("" if truth is None else ", and were resolved against the truth")
    return result


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


def _noise(measurement: Measurement, to_255: float, scaled: np.ndarray) -> Noise | None:
    if measurement.snr_db is not None:
        check_snr(measurement.snr_db)
        # Power of signal and noise together, of which the noise is one part in 1 + the ratio.
        return Noise(sigma=math.sqrt(np.mean(scaled**2) / (1 + 10 ** (measurement.snr_db / 10))))
    if measurement.alpha is None:
        return None
    check_alpha(measurement.alpha * to_255)
    return Noise(alpha=measurement.alpha * to_255)


def _compare(result: PhaseResult, measurement: Measurement, picture: torch.Tensor, truth: np.ndarray) -> None:
    """Align the picture with the truth, and note the metrics."""
    reference = torch.from_numpy(truth)[None] * PEAK
    aligned = align(picture, reference, shifts=measurement.model == "fourier")
    result.picture = aligned[0].numpy() / np.float32(PEAK)
    rounded = rounded8(result.picture)
    result.facts["psnr"] = round(psnr(rounded, truth), 4)
    result.facts["ssim"] = round(ssim(rounded, truth), 6)
