"""Metal artifact reduction of files: DICOM slices, from the image alone, and measured sinograms."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.ct import NOTICE
from deepgsr_cli.ct.display import ERROR_WINDOW_HU, window_text, windowed
from deepgsr_cli.ct.figures import body
from deepgsr_cli.ct.jobs import ScanPlan, SinogramJob, SliceJob
from deepgsr_cli.ct.plausibility import doubt_numbers, doubt_slice
from deepgsr_cli.ct.results import ResultWriter, read_result, remark
from deepgsr_cli.ct.truncation import whole_scan
from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.dicom.slices import Slice, read_slice
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import Column, Progress, Result
from deepgsr_cli.mar.masks import MOST_METAL, MetalMasks
from deepgsr_cli.mar.methods import NAMES, TASK, MetalMethod
from deepgsr_cli.mar.nmar import VIRTUAL_VIEWS, ImageOnly, at_least_air, virtual_scan
from deepgsr_cli.mar.trace import metal_mask, metal_trace
from deepgsr_cli.reports.report import ReportImage
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, to_attenuation, to_hu
from deepgsr_cli.tomography.radon import Radon

if TYPE_CHECKING:
    from deepgsr_cli.mar.network import MetalReduction
    from deepgsr_cli.weights.load import Loaded

_METAL_COLOUR = (255, 64, 64)


@dataclass(frozen=True)
class MetalPlan(ScanPlan):
    """Slices to be corrected.

    Attributes:
        masks: Metal marked by the user; None to find it by the threshold.
    """

    masks: MetalMasks | None = None

    @property
    def scan(self) -> str:
        """What is corrected, in words."""
        if self.measured:
            return "measured sinogram"
        return f"image alone, through a virtual parallel scan of {VIRTUAL_VIEWS} views; no measurement"


@dataclass
class MetalCorrection:
    """Metal artifact reduction of one slice after another, with one operator as long as the geometry stays.

    Attributes:
        method: Method and its settings.
        plan: What is corrected, and the metal marked in it.
        metal: Where metal is, in words.
        device: Device that the arrays are on.
        network: Network of the method "deepgsr", with its weights.
        window_hu: Centre and width of the pictures for the report.
    """

    method: MetalMethod
    plan: MetalPlan
    metal: str
    device: torch.device
    network: Loaded[MetalReduction] | None = None
    window_hu: tuple[float, float] = (40.0, 400.0)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("metal_px", "metal (px)"),
        Column("change_hu", "RMS change in body (HU)"),
    )
    _image_only: ImageOnly | None = field(default=None, init=False)
    _A: Radon | None = field(default=None, init=False)
    _write: ResultWriter = field(init=False)

    def __post_init__(self) -> None:
        self._write = ResultWriter(f"deepgsr {TASK} {self.method.name}", self._derivation())

    @property
    def title(self) -> str:
        """Heading of the report."""
        return "Metal artifact reduction from " + ("sinograms" if self.plan.measured else "the image alone")

    @property
    def protocol(self) -> dict[str, str]:
        """All it takes to repeat the run."""
        masks = self.plan.masks
        protocol = {
            "scan": self.plan.scan,
            "method": self.method.describe(),
            "metal": self.metal if masks is None else f"{self.metal}, {masks.origin}",
            "metal pixels": "kept" if self.method.keep_metal else "filled in",
        }
        if self.network is not None:
            protocol["weights"] = self.network.weights.citation
        return {**protocol, "window": window_text(self.window_hu), "notice": NOTICE}

    def _derivation(self) -> str:
        masks, protocol = self.plan.masks, self.protocol
        parts = [f"{TASK}: {protocol['scan']}", f"method {protocol['method']}"]
        parts.append(f"metal pixels {protocol['metal pixels']}")
        parts.append(f"metal {self.metal if masks is None else f'by a mask of {masks.origin}'}")
        if self.network is not None:
            parts.append(f"weights sha256 {self.network.weights.sha256}")
        return "; ".join(parts)

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        """Correct and write the slice of a `SliceJob` or a `SinogramJob`; one without metal is not changed.

        Args:
            job: The slice.
            for_report: Whether to make pictures, with the classical methods beside the one asked for.
            progress: Not called: there are no iterations.

        Raises:
            InputError: It cannot be read, or too much of it is metal.
            OutputError: The result cannot be written.
        """
        assert isinstance(job, SliceJob | SinogramJob)
        started = time.perf_counter()
        case = self._of_slice(job) if isinstance(job, SliceJob) else self._of_sinogram(job)
        hu = case.correct(self.method) if case.metal.any() else case.hu
        self._write(job, hu, case.pixel_mm, case.slice, remark(case.note, case.doubts))
        in_body = body(case.x, case.pixel_mm) & ~case.metal[0, 0].cpu().numpy()
        mean_square = np.square((hu - case.hu)[in_body], dtype=np.float64).sum() / max(in_body.sum(), 1)
        facts: dict[str, Any] = {
            "scan": "image alone" if case.slice else "measured",
            "method": self.method.name,
            "metal_px": int(case.metal.sum()),
            "change_hu": float(np.sqrt(mean_square)),
            "seconds": round(time.perf_counter() - started, 3),  # without the pictures
        }
        caption = "" if case.metal.any() else "no metal, unchanged"
        images = self._images(case, hu) if for_report else []
        return Result(facts, case.note, case.doubts, caption, images)

    def review(self, job: Job) -> Result:
        """Return the pictures of a slice, if it has been measured as one, and of its corrected one.

        Raises:
            InputError: The slice or its result cannot be read.
        """
        assert job.target is not None
        shown = {"Result": read_result(job.target)}
        if isinstance(job, SliceJob):
            shown = {"Input": read_slice(job.series, job.index).hu, **shown}
            if shown["Input"].shape != shown["Result"].shape:
                raise InputError(f"{job.target}: is no result of {job.label}, as it has another size")
        images = [ReportImage(label, windowed(hu, self.window_hu)) for label, hu in shown.items()]
        return Result({}, images=images)

    @property
    def _model(self) -> MetalReduction | None:
        return None if self.network is None else self.network.model

    def _of_slice(self, job: SliceJob) -> _Case:
        slice = read_slice(job.series, job.index)
        x = to_attenuation(slice.hu, self.device)
        metal = self._metal(job, x)
        if self._image_only is None or self._image_only.operator.geometry != virtual_scan(
            job.series.shape, slice.pixel_mm
        ):
            self._image_only = ImageOnly(job.series.shape, slice.pixel_mm)
        image_only = self._image_only

        def correct(method: MetalMethod) -> np.ndarray:
            found = image_only(
                x, metal, method.reduction(self._model, virtual=True), keep_metal=method.keep_metal
            )
            # Added to the values of the file, so that what does not change keeps them exactly.
            change_hu = ((found - x) / WATER_ATTENUATION * 1000)[0, 0].cpu().numpy()
            return at_least_air(slice.hu + np.where(slice.padding, 0, change_hu), slice.hu)

        A = image_only.operator
        doubts = doubt_slice(slice.hu)
        return _Case(x, slice.hu, metal, slice.pixel_mm, slice, A, lambda: A(x), correct, doubts=doubts)

    def _of_sinogram(self, job: SinogramJob) -> _Case:
        geometry = job.geometry
        y = torch.from_numpy(job.sinograms.read(job.index)).to(self.device)[None, None]
        whole = whole_scan(y, geometry)
        if self._A is None or self._A.geometry != geometry:
            self._A = Radon(geometry)
        seen = self._A
        A = seen.of(whole.geometry) if whole.share else seen
        x = whole.cropped(A.fbp(whole.y))
        metal = self._metal(job, x)
        hu = to_hu(x)

        def correct(method: MetalMethod) -> np.ndarray:
            found = whole.cropped(method.reduction(self._model)(A, whole.y, whole.padded(metal)))
            return at_least_air(to_hu(torch.where(metal, x, found) if method.keep_metal else found), hu)

        doubts = doubt_numbers(x, y, geometry)
        return _Case(x, hu, metal, geometry.pixel_mm, None, seen, lambda: y, correct, whole.note, doubts)

    def _metal(self, job: Job, x: Tensor) -> Tensor:
        """Where metal is, bool, (1, 1, H, W), in the slice of a job."""
        if self.plan.masks is not None:
            return torch.from_numpy(self.plan.masks(job)).to(x.device)[None, None]
        metal = metal_mask(x, self.method.threshold_hu)
        share = float(metal.float().mean())
        if share > MOST_METAL:
            raise InputError(
                f"{job.label}: {share:.0%} of the slice is above {self.method.threshold_hu:g} HU, and metal"
                f" covers {MOST_METAL:.0%} at most; raise --metal-threshold, or mark the metal by --mask"
            )
        return metal

    def _images(self, case: _Case, hu: np.ndarray) -> list[ReportImage]:
        """Pictures for the report; the first two are the input and the result, if it has metal."""
        if not case.metal.any():
            return [ReportImage("Input", windowed(hu, self.window_hu))]
        name = self.method.name
        shown = {"Input": case.hu, NAMES[name]: hu}
        for other in ("nmar", "li"):
            if other != name:
                shown[NAMES[other]] = case.correct(replace(self.method, name=other))
        images = [ReportImage(label, windowed(pixels, self.window_hu)) for label, pixels in shown.items()]
        change = windowed(hu - case.hu, (0.0, 2 * ERROR_WINDOW_HU))
        images.append(ReportImage(f"Change by {NAMES[name]}, ±{ERROR_WINDOW_HU:g} HU", change))
        marked = _marked(windowed(case.hu, self.window_hu), case.metal[0, 0].cpu().numpy())
        images.append(ReportImage("Metal", marked))
        y, trace = case.sinogram(), metal_trace(case.A, case.metal)
        y, trace = (_resized(values.float(), case.hu.shape) for values in (y, trace))
        # The brightest rays go through metal.
        gray = (y / y.quantile(0.99).clamp(min=torch.finfo(y.dtype).tiny)).clamp(0, 1) * 255
        pixels = _marked(gray.round().byte().cpu().numpy(), 0.5 * trace.cpu().numpy())
        scan = "Virtual sinogram" if case.slice else "Sinogram"
        return [*images, ReportImage(f"{scan} with the metal's trace, to the slice's size", pixels)]


@dataclass(frozen=True)
class _Case:
    """A slice to be corrected.

    Attributes:
        x: With its artifacts, in 1/mm, (1, 1, H, W).
        hu: The same in HU, (H, W).
        metal: Where metal is, bool, (1, 1, H, W).
        pixel_mm: Distance of rows and of columns.
        slice: Of the file, None for a measured sinogram.
        A: The operator of the scan, or of the virtual one.
        sinogram: Makes the sinogram, (1, 1, V, N).
        correct: Makes HU, (H, W), by a method.
        note: What there is to know of the scan.
        doubts: What cannot be right in the slice.
    """

    x: Tensor
    hu: np.ndarray
    metal: Tensor
    pixel_mm: tuple[float, float]
    slice: Slice | None
    A: Radon
    sinogram: Callable[[], Tensor]
    correct: Callable[[MetalMethod], np.ndarray]
    note: str = ""
    doubts: list[str] = field(default_factory=list)


def _resized(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Values, (1, 1, V, N), averaged to a shape."""
    return F.interpolate(values, shape, mode="bilinear", antialias=True)[0, 0]


def _marked(gray: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Gray values, (H, W), in which the metal's colour has a share in [0, 1], (H, W); uint8, (H, W, 3)."""
    share = share[..., None].astype(np.float32)
    colours = (1 - share) * gray[..., None] + share * np.array(_METAL_COLOUR)
    return np.rint(colours).astype(np.uint8)
