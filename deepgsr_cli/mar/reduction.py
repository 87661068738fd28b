"""Metal artifact reduction of files: DICOM slices, from the image alone, and measured sinograms."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.compute.device import wait
from deepgsr_cli.ct import NOTICE
from deepgsr_cli.ct.batches import AtOnce, grouped
from deepgsr_cli.ct.display import ERROR_WINDOW_HU, window_text, windowed
from deepgsr_cli.ct.figures import body
from deepgsr_cli.ct.jobs import ScanPlan, SinogramJob, SliceJob
from deepgsr_cli.ct.plausibility import doubt_numbers, doubt_slice
from deepgsr_cli.ct.results import ResultWriter, read_result, remark
from deepgsr_cli.ct.truncation import WholeScan, whole_scan
from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.dicom.slices import Slice, read_slice
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import BatchWork, Column, Progress, Result
from deepgsr_cli.mar.masks import MOST_METAL, MetalMasks, doubt_mask
from deepgsr_cli.mar.methods import NAMES, TASK, MetalMethod
from deepgsr_cli.mar.nmar import VIRTUAL_VIEWS, ImageOnly, virtual_scan, within_tissue
from deepgsr_cli.mar.trace import metal_mask, metal_trace
from deepgsr_cli.reports.report import ReportImage
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import Geometry
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


@dataclass(frozen=True)
class _Case:
    """A slice to be corrected.

    Attributes:
        job: Where it is from, and where the result goes.
        for_report: Whether pictures are made of it.
        geometry: Geometry of its scan, or of the virtual one.
        slice: The slice of a file; None for a measured sinogram.
        sinogram: What was measured, (V, N); None for a slice.
        marked: Where the user says metal is, bool, (H, W); None to find it.
    """

    job: SliceJob | SinogramJob
    for_report: bool
    geometry: Geometry
    slice: Slice | None
    sinogram: np.ndarray | None
    marked: np.ndarray | None


@dataclass(frozen=True)
class _Alike:
    """Slices whose scan is one, to be corrected at once.

    Attributes:
        cases: The slices.
        A: The operator of the scan, or of the virtual one.
        x: With their artifacts, in 1/mm, (B, 1, H, W).
        y: Their measured sinograms, (B, 1, V, N); None for slices of files.
        metal: Where metal is, bool, (B, 1, H, W).
        correct: Makes slices in 1/mm, by a method, of those with some indices.
        notes: What there is to know of each scan.
    """

    cases: list[_Case]
    A: Radon
    x: Tensor
    y: Tensor | None
    metal: Tensor
    correct: Callable[[MetalMethod, list[int]], Tensor]
    notes: list[str]


@dataclass(frozen=True)
class _Computed:
    """What was computed of a case.

    Attributes:
        case: The case.
        x: The slice with its artifacts, in 1/mm, (1, 1, H, W).
        y: Its sinogram, measured or virtual, (1, 1, V, N); None where it is not looked at.
        metal: Where metal is, bool, (1, 1, H, W).
        corrected: The slice in 1/mm, (1, 1, H, W), by the names of methods; empty without metal.
        trace: Rays through metal, bool, (1, 1, V, N), for a report.
        note: What there is to know of the scan.
        seconds: Time that it took.
    """

    case: _Case
    x: Tensor
    y: Tensor | None
    metal: Tensor
    corrected: dict[str, Tensor]
    trace: Tensor | None
    note: str
    seconds: float

    @property
    def hu(self) -> np.ndarray:
        """The slice with its artifacts in HU, (H, W); of a file, as it is there."""
        return to_hu(self.x) if self.case.slice is None else self.case.slice.hu


@dataclass
class MetalCorrection(BatchWork[_Case, _Computed]):
    """Metal artifact reduction of slices, with one operator as long as the geometry stays.

    Attributes:
        method: Method and its settings.
        plan: What is corrected, and the metal marked in it.
        metal: Where metal is, in words.
        device: Device that the arrays are on.
        network: Network of the method "deepgsr", with its weights.
        window_hu: Centre and width of the pictures for the report.
        at_once: How many slices are corrected at once.
    """

    method: MetalMethod
    plan: MetalPlan
    metal: str
    device: torch.device
    network: Loaded[MetalReduction] | None = None
    window_hu: tuple[float, float] = (40.0, 400.0)
    at_once: AtOnce = field(default_factory=AtOnce)
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

    def read(self, job: Job, *, for_report: bool) -> _Case:
        """Read a `SliceJob` or a `SinogramJob`, and the metal that is marked in it.

        Raises:
            InputError: It cannot be read.
        """
        assert isinstance(job, SliceJob | SinogramJob)
        marked = None if self.plan.masks is None else self.plan.masks(job)
        if isinstance(job, SinogramJob):
            return _Case(job, for_report, job.geometry, None, job.sinograms.read(job.index), marked)
        slice = read_slice(job.series, job.index)
        geometry = virtual_scan(job.series.shape, slice.pixel_mm)
        return _Case(job, for_report, geometry, slice, None, marked)

    def room(self, case: _Case) -> int:
        """Return how many slices like this one are to be corrected at once."""
        per_pixel = None if self.network is None else self.network.model.prior.bytes_per_pixel
        return self.at_once(case.geometry, self.device, per_pixel)

    def compute(self, cases: Sequence[_Case], progress: Progress | None) -> list[_Computed]:
        """Correct slices, those of equal geometry at once; those without metal are not changed.

        Args:
            cases: The slices.
            progress: Not called: there are no iterations.

        Raises:
            InputError: Too much of one is metal.
        """
        found: dict[int, _Computed] = {}
        compute = self._of_sinograms if self.plan.measured else self._of_slices
        for group in grouped([case.geometry for case in cases]):
            found |= zip(group, compute([cases[i] for i in group]), strict=True)
        return [found[i] for i in range(len(cases))]

    def finish(self, computed: _Computed) -> Result:
        """Measure and write a corrected slice; make pictures where they are asked for.

        Raises:
            OutputError: The result cannot be written.
        """
        case, before = computed.case, computed.hu
        any_metal = bool(computed.corrected)
        hu = self._hu(computed, self.method.name) if any_metal else before
        if case.slice is not None:
            doubts = doubt_slice(case.slice.hu)
        else:
            assert computed.y is not None
            doubts = doubt_numbers(computed.x, computed.y, case.geometry)
        metal = computed.metal[0, 0].cpu().numpy()
        doubts += doubt_mask(before, metal)
        pixel_mm = case.geometry.pixel_mm
        self._write(case.job, hu, pixel_mm, case.slice, remark(computed.note, doubts))
        in_body = body(computed.x, pixel_mm) & ~metal
        mean_square = np.square((hu - before)[in_body], dtype=np.float64).sum() / max(in_body.sum(), 1)
        facts: dict[str, Any] = {
            "scan": "image alone" if case.slice else "measured",
            "method": self.method.name,
            "metal_px": int(computed.metal.sum()),
            "change_hu": float(np.sqrt(mean_square)),
            "seconds": computed.seconds,  # without the pictures
        }
        caption = "" if any_metal else "no metal, unchanged"
        images = self._images(computed, hu) if case.for_report else []
        return Result(facts, computed.note, doubts, caption, images)

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

    def _of_slices(self, cases: list[_Case]) -> list[_Computed]:
        """What is computed of slices of files whose virtual scan is one."""
        started = time.perf_counter()
        x = torch.cat(
            [to_attenuation(case.slice.hu, self.device) for case in cases if case.slice is not None]
        )
        metal = self._metal(cases, x)
        geometry = cases[0].geometry
        if self._image_only is None or self._image_only.operator.geometry != geometry:
            self._image_only = ImageOnly(geometry.shape, geometry.pixel_mm)
        image_only = self._image_only

        def correct(method: MetalMethod, chosen: list[int]) -> Tensor:
            reduction = method.reduction(self._model, virtual=True)
            return image_only(x[chosen], metal[chosen], reduction, keep_metal=method.keep_metal)

        alike = _Alike(cases, image_only.operator, x, None, metal, correct, [""] * len(cases))
        return self._corrected(alike, started)

    def _of_sinograms(self, cases: list[_Case]) -> list[_Computed]:
        """What is computed of measured sinograms whose geometry is one."""
        geometry = cases[0].geometry
        if self._A is None or self._A.geometry != geometry:
            self._A = Radon(geometry)
        sinograms = [torch.from_numpy(case.sinogram) for case in cases if case.sinogram is not None]
        y = torch.stack(sinograms).to(self.device)[:, None]
        scans = [whole_scan(one, geometry) for one in y.split(1)]
        found: dict[int, _Computed] = {}
        for group in grouped([scan.geometry for scan in scans]):
            same = [scans[i] for i in group]
            results = self._of_scans([cases[i] for i in group], y[group], same, self._A)
            found |= zip(group, results, strict=True)
        return [found[i] for i in range(len(cases))]

    def _of_scans(
        self, cases: list[_Case], y: Tensor, scans: list[WholeScan], seen: Radon
    ) -> list[_Computed]:
        """What is computed of measured sinograms, (B, 1, V, N), that are cut off alike, or not at all."""
        started = time.perf_counter()
        whole = scans[0]
        A = seen.of(whole.geometry) if whole.share else seen
        wide = torch.cat([scan.y for scan in scans])
        x = whole.cropped(A.fbp(wide))
        metal = self._metal(cases, x)

        def correct(method: MetalMethod, chosen: list[int]) -> Tensor:
            reduced = method.reduction(self._model)(A, wide[chosen], whole.padded(metal[chosen]))
            found = whole.cropped(reduced)
            return torch.where(metal[chosen], x[chosen], found) if method.keep_metal else found

        alike = _Alike(cases, seen, x, y, metal, correct, [scan.note for scan in scans])
        return self._corrected(alike, started)

    def _corrected(self, alike: _Alike, started: float) -> list[_Computed]:
        """What is computed of slices, by the method asked for and, for a report, by others."""
        cases, metal = alike.cases, alike.metal
        with_metal = [i for i in range(len(cases)) if metal[i].any()]
        shown = [i for i in with_metal if cases[i].for_report]
        corrected: list[dict[str, Tensor]] = [{} for _ in cases]
        name = self.method.name
        if with_metal:
            for i, x in zip(with_metal, alike.correct(self.method, with_metal).split(1), strict=True):
                corrected[i][name] = x
        wait(self.device)
        seconds = round((time.perf_counter() - started) / len(cases), 3)
        for other in ("nmar", "li") if shown else ():
            if other != name:
                images = alike.correct(replace(self.method, name=other), shown)
                for i, x in zip(shown, images.split(1), strict=True):
                    corrected[i][other] = x
        found = []
        for i, case in enumerate(cases):
            x, mask = alike.x[i : i + 1], metal[i : i + 1]
            y = None if alike.y is None else alike.y[i : i + 1]
            trace = None
            if i in shown:
                y, trace = alike.A(x) if y is None else y, metal_trace(alike.A, mask)
            found.append(_Computed(case, x, y, mask, corrected[i], trace, alike.notes[i], seconds))
        return found

    def _hu(self, computed: _Computed, name: str) -> np.ndarray:
        """The slice, (H, W), corrected by a method that it was corrected by."""
        found, slice = computed.corrected[name], computed.case.slice
        if slice is None:
            return within_tissue(to_hu(found), computed.hu)
        # Added to the values of the file, so that what does not change keeps them exactly.
        change_hu = ((found - computed.x) / WATER_ATTENUATION * 1000)[0, 0].cpu().numpy()
        return within_tissue(slice.hu + np.where(slice.padding, 0, change_hu), slice.hu)

    def _metal(self, cases: list[_Case], x: Tensor) -> Tensor:
        """Where metal is, bool, (B, 1, H, W), in slices in 1/mm of that shape.

        Raises:
            InputError: It covers too much of one.
        """
        marked = [torch.from_numpy(case.marked) for case in cases if case.marked is not None]
        if marked:
            return torch.stack(marked).to(x.device)[:, None]
        metal = metal_mask(x, self.method.threshold_hu)
        for case, share in zip(cases, metal.float().mean((1, 2, 3)).tolist(), strict=True):
            if share > MOST_METAL:
                raise InputError(
                    f"{case.job.label}: {share:.0%} of the slice is above {self.method.threshold_hu:g} HU,"
                    f" and metal covers {MOST_METAL:.0%} at most; raise --metal-threshold, or mark the metal"
                    " by --mask"
                )
        return metal

    def _images(self, computed: _Computed, hu: np.ndarray) -> list[ReportImage]:
        """Pictures for the report; the first two are the input and the result, if it has metal."""
        before, mask = computed.hu, computed.metal[0, 0].cpu().numpy()
        if computed.trace is None or computed.y is None:
            return [ReportImage("Input", windowed(hu, self.window_hu))]
        name = self.method.name
        shown = {"Input": before, NAMES[name]: hu}
        shown |= {NAMES[other]: self._hu(computed, other) for other in computed.corrected if other != name}
        images = [ReportImage(label, windowed(pixels, self.window_hu)) for label, pixels in shown.items()]
        change = windowed(hu - before, (0.0, 2 * ERROR_WINDOW_HU))
        images.append(ReportImage(f"Change by {NAMES[name]}, ±{ERROR_WINDOW_HU:g} HU", change))
        images.append(ReportImage("Metal", _marked(windowed(before, self.window_hu), mask)))
        y, trace = (_resized(values.float(), before.shape) for values in (computed.y, computed.trace))
        # The brightest rays go through metal.
        gray = (y / y.quantile(0.99).clamp(min=torch.finfo(y.dtype).tiny)).clamp(0, 1) * 255
        pixels = _marked(gray.round().byte().cpu().numpy(), 0.5 * trace.cpu().numpy())
        scan = "Virtual sinogram" if computed.case.slice else "Sinogram"
        return [*images, ReportImage(f"{scan} with the metal's trace, to the slice's size", pixels)]


def _resized(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Values, (1, 1, V, N), averaged to a shape."""
    return F.interpolate(values, shape, mode="bilinear", antialias=True)[0, 0]


def _marked(gray: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Gray values, (H, W), in which the metal's colour has a share in [0, 1], (H, W); uint8, (H, W, 3)."""
    share = share[..., None].astype(np.float32)
    colours = (1 - share) * gray[..., None] + share * np.array(_METAL_COLOUR)
    return np.rint(colours).astype(np.uint8)
