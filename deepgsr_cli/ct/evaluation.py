"""Evaluation of sparse-view CT, all methods on the same simulated scans."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from deepgsr_cli.compute.device import select_device
from deepgsr_cli.compute.precision import settled
from deepgsr_cli.ct.display import slice_images
from deepgsr_cli.ct.figures import PEAK_ATTENUATION, compare
from deepgsr_cli.ct.methods import METHODS, Method, load_network, reconstruct
from deepgsr_cli.ct.simulation import SimulatedScan, check_views
from deepgsr_cli.ct.slices import PNG_FIELD_MM, EvalSlice, eval_slices
from deepgsr_cli.evaluation.records import Case, Column, Evaluation, Labels, M, Mean
from deepgsr_cli.files import fingerprint
from deepgsr_cli.reports.report import ReportImage, ReportItem
from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import sparse_view
from deepgsr_cli.tomography.radon import Radon
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from deepgsr_cli.ct.network import Unrolled
    from deepgsr_cli.weights.load import Loaded


@dataclass(frozen=True, kw_only=True)
class SliceEvaluation(Evaluation[M, Tensor, Tensor]):
    """Slices, scanned by simulation and reconstructed to attenuation in 1/mm, (1, 1, H, W).

    `data` holds DICOM, or 16-bit gray PNG with the value HU + 1024. The noise differs from slice to slice.
    """

    medical = True
    reported: ClassVar = {"psnr": "PSNR {} (dB)", "rmse_hu": "RMSE {} (HU)"}

    @cached_property
    def slices(self) -> list[EvalSlice]:
        """What is scanned."""
        return eval_slices(self.data, self.limit)

    def read_slices(self) -> Iterator[tuple[EvalSlice, np.ndarray, tuple[float, float]]]:
        """Read the slices that can be read: HU, (H, W), and distances of rows and columns.

        What cannot be read is told, and among the `failures`.

        Raises:
            InputError: None can be read.
        """
        for slice, (hu, pixel_mm) in self.usable(self.slices, lambda slice: slice.read()):
            yield slice, hu, pixel_mm

    def describe_slices(self) -> str:
        """The data as the protocol names them."""
        paths = list(dict.fromkeys(slice.path for slice in self.slices))
        return f"{self.data.name}: {counted(len(self.slices), 'slice')}, fingerprint {fingerprint(paths)}"

    def images(self, case: Case[M, Tensor], results: Mapping[str, Tensor]) -> tuple[list[ReportImage], str]:
        pictures = {name: to_hu(x) for name, x in results.items()}
        return slice_images(to_hu(case.truth), pictures, (40.0, 400.0)), "window 40/400 HU"


@dataclass(frozen=True)
class Scan:
    """A simulated scan.

    Attributes:
        A: Its operator.
        y: The sinogram, (1, 1, V, N).
        photons: Photons a ray, infinite for no noise.
    """

    A: Radon
    y: Tensor
    photons: float


@dataclass(frozen=True, kw_only=True)
class SparseViewCT(SliceEvaluation[Scan]):
    """Few views of slices, by simulation.

    Attributes:
        views: Views of the scans.
        photons: Photons a ray of the scans, infinite for no noise.
    """

    views: tuple[int, ...] = (60,)
    photons: tuple[float, ...] = (math.inf,)

    title = "Evaluation of sparse-view CT"
    known_methods = METHODS
    written = ("psnr", "ssim", "rmse_hu", "bias_hu", "seconds")
    worst = "psnr"
    columns = (
        Column("views", "views"),
        Column("photons", "photons", "g"),
        Column("method", "method"),
        Column("psnr", "PSNR (dB)", ".2f"),
        Column("lowest_psnr", "lowest", ".2f"),
        Column("ssim", "SSIM", ".4f"),
        Column("rmse_hu", "RMSE (HU)", ".1f"),
        Column("bias_hu", "bias (HU)", "+.1f"),
        Column("seconds", "s", ".2f"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for views in self.views:
            check_views(views)
        for photons in self.photons:
            self._method("fbp", photons)

    def _method(self, name: str, photons: float) -> Method:
        precision = settled(self.precision, select_device(self.device))
        return Method(name, None if photons == math.inf else photons, precision=precision)

    @cached_property
    def network(self) -> Loaded[Unrolled] | None:
        """The network, if "deepgsr" is among the methods."""
        if "deepgsr" not in self.method_names:
            return None
        return load_network(self.weights, self.device, offline=self.offline)

    @cached_property
    def methods(self) -> dict[str, Callable[[Scan], Tensor]]:
        model = self.network.model if self.network else None

        def method(name: str) -> Callable[[Scan], Tensor]:
            return lambda scan: reconstruct(scan.A, scan.y, self._method(name, scan.photons), model=model)

        return {name: method(name) for name in self.method_names}

    def __len__(self) -> int:
        return len(self.slices) * len(self.views) * len(self.photons)

    def cases(self) -> Iterator[Case[Scan, Tensor]]:
        device = select_device(self.device)
        for slice, hu, pixel_mm in self.read_slices():
            truth = to_attenuation(hu, device)
            seed = self.seed, zlib.crc32(hu.tobytes())
            for views in self.views:
                A = Radon(sparse_view((hu.shape[0], hu.shape[1]), pixel_mm, views))
                A.fbp(A(truth))  # what it prepares is no part of the time
                for photons in self.photons:
                    scan = SimulatedScan(A.geometry, self._method("fbp", photons).photons)
                    labels: Labels = {"slice": slice.name, "views": views, "photons": photons}
                    yield Case(labels, Scan(A, scan(truth, seed), photons), truth)

    def figures(self, case: Case[Scan, Tensor], result: Tensor) -> dict[str, float]:
        return asdict(compare(result, case.truth, case.measurement.A.geometry.pixel_mm))

    def protocol(self) -> dict[str, str]:
        methods = (self._method(name, math.inf).describe() for name in self.method_names)
        facts = {
            "data": self.describe_slices(),
            "geometry": "fan beam over a full turn; for 512 x 512 pixels on 400 mm the source 600 and a flat"
            " detector 290 mm from the isocentre, 800 bins of 1.2 mm; in proportion for others",
            "simulation": "monochromatic, pixels parted 2 x 2 and bins in 2 (no inverse crime)",
            "noise": f"Poisson, at least 1 count, numpy default_rng(({self.seed}, crc32 of the slice's HU));"
            " no scatter",
            "attenuation": "0.0192 (1 + HU / 1000) per mm, HU of -1000 or more",
            "PSNR, SSIM": f"attenuation clipped to [0, {PEAK_ATTENUATION:g}] per mm, over"
            f" {PEAK_ATTENUATION:g}; whole slice; mean of slices",
            "RMSE, bias": "in HU, in the body: within the skin, lungs included, and in the largest circle",
            "methods": "; ".join(methods),
        }
        if any(slice.series is None for slice in self.slices):
            facts["pixels of PNG"] = f"{PNG_FIELD_MM:g} mm across the slice"
        if self.network is not None:
            facts["weights"] = self.network.weights.label
        return facts

    def item(self, labels: Labels) -> ReportItem:
        return ReportItem(f"{labels['slice']}, {_scan_name(labels)}")

    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        return {f"mean PSNR {m.method}, {_scan_name(m.labels)} (dB)": m.figures["psnr"] for m in means}


def _scan_name(labels: Labels) -> str:
    photons = float(labels["photons"])
    return f"{labels['views']} views, {'no noise' if math.isinf(photons) else f'{photons:g} photons'}"
