"""Evaluation of metal artifact reduction: slices times metals, all methods on each."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.device import select_device
from deepgsr_cli.compute.precision import settled
from deepgsr_cli.ct.evaluation import SliceEvaluation
from deepgsr_cli.ct.figures import PEAK_ATTENUATION, body, compare
from deepgsr_cli.ct.simulation import FEWEST_PHOTONS, MOST_PHOTONS
from deepgsr_cli.ct.slices import reduced
from deepgsr_cli.errors import UsageError
from deepgsr_cli.evaluation.records import Case, Column, Labels, Mean, Score
from deepgsr_cli.files import fingerprint
from deepgsr_cli.mar.masks import MetalShape, eval_masks
from deepgsr_cli.mar.materials import METALS
from deepgsr_cli.mar.methods import METHODS, MetalMethod, load_network
from deepgsr_cli.mar.nmar import ImageOnly
from deepgsr_cli.mar.simulation import MetalScan
from deepgsr_cli.mar.trace import METAL_HU, metal_mask
from deepgsr_cli.reports.report import ReportItem
from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu
from deepgsr_cli.tomography.fbp import FILTERS
from deepgsr_cli.tomography.geometry import mar_640
from deepgsr_cli.tomography.radon import Radon
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from deepgsr_cli.mar.network import MetalReduction
    from deepgsr_cli.weights.load import Loaded

INPUT, CEILING = "input", "no metal"
# What 12 bits and an intercept of -1024 hold, in HU.
_LEAST_STORED_HU, _MOST_STORED_HU = -1024, 3071
# The papers show five groups of metals by size.
_MOST_GROUPS = 5


@dataclass(frozen=True)
class Metal:
    """A scan of a slice with metal.

    Attributes:
        metal: Where it is, bool, (1, 1, H, W).
        y: The sinogram, (1, 1, V, N).
        image: What is corrected, in 1/mm, (1, 1, H, W).
        free: The same of the scan without metal.
        psnr: Of `image`, in dB.
    """

    metal: Tensor
    y: Tensor
    image: Tensor
    free: Tensor
    psnr: float


@dataclass(frozen=True, kw_only=True)
class MetalArtifacts(SliceEvaluation[Metal]):
    """Metal put into slices of 416 x 416 pixels, by simulation.

    Beside the methods stand `INPUT`, uncorrected, and `CEILING`, scanned without metal. Pixels of metal do
    not count in the figures. Of these `gain` is the PSNR over that of `INPUT`; `free_psnr` and `free_rmse_hu`
    are against the reconstruction of the scan without metal: what the metal did alone.

    Attributes:
        masks: Folder of metal shapes as PNG, what is not zero is metal.
        image_only: Whether the methods see the reconstruction alone, and find the metal in it.
        metal: Of `materials.METALS`.
        photons: Photons a ray of the scans.
        filter: Of `fbp.FILTERS`, of the reconstruction that is corrected if `image_only`.
        threshold_hu: Above is metal if `image_only`.
    """

    masks: Path
    method_names: tuple[str, ...] = ("li", "nmar", "deepgsr")
    image_only: bool = False
    metal: str = "titanium"
    photons: float = 2e7
    filter: str = "ram-lak"
    threshold_hu: float = METAL_HU

    title, pictured = "Evaluation of metal artifact reduction", 20
    known_methods = METHODS
    written = ("psnr", "ssim", "rmse_hu", "bias_hu", "gain", "free_psnr", "free_rmse_hu", "seconds")
    worst = "gain"
    columns = (
        Column("method", "method"),
        Column("psnr", "PSNR (dB)", ".2f"),
        Column("gain", "gain", "+.2f"),
        Column("lowest_gain", "lowest", "+.2f"),
        Column("ssim", "SSIM", ".4f"),
        Column("rmse_hu", "RMSE (HU)", ".1f"),
        Column("bias_hu", "bias (HU)", "+.1f"),
        Column("free_psnr", "to metal-free: PSNR (dB)", ".2f"),
        Column("free_rmse_hu", "RMSE (HU)", ".1f"),
        Column("seconds", "s", ".2f"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metal not in METALS:
            raise UsageError(f"--metal {self.metal}: known are {', '.join(METALS)}")
        if self.filter not in FILTERS:
            raise UsageError(f"--filter {self.filter}: known are {', '.join(FILTERS)}")
        if not FEWEST_PHOTONS <= self.photons <= MOST_PHOTONS:
            raise UsageError(
                f"--photons {self.photons:g}: give photons a ray, {FEWEST_PHOTONS:g} to {MOST_PHOTONS:g}"
            )
        self._method(METHODS[0])

    def _method(self, name: str) -> MetalMethod:
        precision = settled(self.precision, select_device(self.device))
        return MetalMethod(name, self.threshold_hu, False, precision)

    @cached_property
    def shapes(self) -> list[MetalShape]:
        """What is put into each slice, the largest first."""
        return eval_masks(self.masks)

    @cached_property
    def network(self) -> Loaded[MetalReduction] | None:
        """The network, if "deepgsr" is among the methods."""
        if "deepgsr" not in self.method_names:
            return None
        return load_network(self.weights, self.device, offline=self.offline)

    @cached_property
    def scan(self) -> MetalScan:
        """The scanner, ready to measure and to reconstruct: what it prepares is no part of the time."""
        scan = MetalScan(mar_640(), self.metal, photons=self.photons)
        _prepare(scan.operator, self.device)
        return scan

    @cached_property
    def methods(self) -> dict[str, Callable[[Metal], Tensor]]:
        model = self.network.model if self.network else None
        virtual = None
        if self.image_only:
            virtual = ImageOnly(self.scan.operator.domain_shape, self.scan.operator.geometry.pixel_mm)
            _prepare(virtual.operator, self.device)

        def method(name: str) -> Callable[[Metal], Tensor]:
            reduce = self._method(name).reduction(model, virtual=self.image_only)
            if virtual is None:
                return lambda m: reduce(self.scan.operator, m.y, m.metal)

            def correct(m: Metal) -> Tensor:
                found = metal_mask(m.image, self.threshold_hu)
                return virtual(m.image, found, reduce, keep_metal=False) if found.any() else m.image

            return correct

        named = {name: method(name) for name in self.method_names}
        return {INPUT: lambda m: m.image, **named, CEILING: lambda m: m.free}

    def __len__(self) -> int:
        return len(self.slices) * len(self.shapes)

    def cases(self) -> Iterator[Case[Metal, Tensor]]:
        pixel_mm = self.scan.operator.geometry.pixel_mm
        for slice, hu, _ in self.read_slices():
            small = reduced(torch.from_numpy(hu), self.scan.operator.domain_shape[0]).numpy()
            truth = to_attenuation(small, select_device(self.device))
            scanned = partial(self._scanned, truth, zlib.crc32(hu.tobytes()))
            free = self._image(scanned(torch.zeros_like(truth, dtype=torch.bool)))
            inside = body(truth, pixel_mm)
            for shape in self.shapes:
                metal = torch.from_numpy(shape.metal).to(truth.device)[None, None]
                y = scanned(metal)
                image = self._image(y)
                psnr = compare(image, truth, pixel_mm, metal).psnr
                labels: Labels = {
                    "slice": slice.name,
                    "mask": shape.name,
                    "metal_px": shape.num_px,
                    "outside": float(np.mean(~inside[shape.metal])),
                }
                yield Case(labels, Metal(metal, y, image, free, psnr), truth)

    def _scanned(self, truth: Tensor, checksum: int, metal: Tensor) -> Tensor:
        # Of what manual_seed is given, torch uses 32 bits.
        (seed,) = np.random.SeedSequence((self.seed, checksum)).generate_state(1)
        return self.scan.scan(truth, metal, torch.Generator(truth.device).manual_seed(int(seed)))

    def _image(self, y: Tensor) -> Tensor:
        """What is corrected, in 1/mm, (1, 1, H, W)."""
        if not self.image_only:
            return self.scan.operator.fbp(y)
        hu = to_hu(self.scan.operator.fbp(y, self.filter))
        return to_attenuation(np.rint(hu).clip(_LEAST_STORED_HU, _MOST_STORED_HU), y.device)

    def figures(self, case: Case[Metal, Tensor], result: Tensor) -> dict[str, float]:
        given, pixel_mm = case.measurement, self.scan.operator.geometry.pixel_mm
        figures = compare(result, case.truth, pixel_mm, given.metal)
        free = compare(result, given.free, pixel_mm, given.metal)
        return {
            **asdict(figures),
            "gain": figures.psnr - given.psnr,
            "free_psnr": free.psnr,
            "free_rmse_hu": free.rmse_hu,
        }

    def groups(self, scores: Sequence[Score]) -> list[tuple[Labels, list[Score]]]:
        """Groups of metals by size, the largest first, and all."""
        sizes = sorted({(s.labels["metal_px"], s.labels["mask"]) for s in scores}, reverse=True)
        per_group = math.ceil(len(sizes) / _MOST_GROUPS)
        groups: list[tuple[Labels, list[Score]]] = []
        for start in range(0, len(sizes), per_group):
            members = sizes[start : start + per_group]
            masks = {mask for _, mask in members}
            name = ", ".join(str(num_px) for num_px, _ in members)
            groups.append(({"metal": name}, [s for s in scores if s.labels["mask"] in masks]))
        return [*groups, ({"metal": "all"}, list(scores))]

    def tables(self, means: Sequence[Mean]) -> list[list[list[str]]]:
        """PSNR and SSIM of each method, a column each, by the size of the metal; the PSNR to the metal-free
        reconstruction likewise; and all figures over all."""
        by_size = _by_size(means, "dB / SSIM", lambda of: f"{of['psnr']:.2f} / {of['ssim']:.4f}")
        # The scan without metal is the reference.
        corrected = [mean for mean in means if mean.method != CEILING]
        to_free = _by_size(corrected, "dB to metal-free", lambda of: f"{of['free_psnr']:.2f}")
        return [by_size, to_free, *super().tables(_over_all(means))]

    def remark(self, scores: Sequence[Score]) -> str:
        cases = {(s.labels["slice"], s.labels["mask"]) for s in scores if float(s.labels["outside"]) > 0.5}
        if not cases:
            return ""
        return f"in {len(cases)} of {counted(len(self), 'case')} most of the metal is outside the body"

    def protocol(self) -> dict[str, str]:
        shapes = fingerprint([shape.path for shape in self.shapes])
        facts = {
            "data": f"{self.describe_slices()}; by area to 416 x 416 pixels of"
            f" {mar_640().pixel_mm[0]:.4f} mm, whatever their own",
            "metal": f"{self.metal}; {self.masks.name}: {len(self.shapes)} shapes, fingerprint {shapes},"
            " where they are, also outside the body",
            "geometry": "fan beam, 640 views over a full turn, 641 bins of a flat detector",
            "simulation": "120 kVp, water and bone by thresholds, metal in place of tissue; corrected for the"
            " beam hardening of water",
            "noise": f"{self.photons:g} photons a ray, Poisson, 20 counts of scatter, torch, seeded"
            f" by numpy SeedSequence(({self.seed}, crc32 of the slice's HU))",
            "input": "filtered backprojection, ram-lak; the metal is known",
            "PSNR, SSIM": f"attenuation clipped to [0, {PEAK_ATTENUATION:g}] per mm, over"
            f" {PEAK_ATTENUATION:g}; whole slice; metal pixels do not count (in SSIM they are equal); mean of"
            " cases",
            "RMSE, bias": "in HU, in the body without metal: within the skin, lungs included, and in the"
            " largest circle",
            "reference": "the slice; and, under metal-free, the reconstruction of the scan without metal,"
            " from which only artifacts differ",
            "methods": "; ".join(self._method(name).describe() for name in self.method_names),
        }
        if self.image_only:
            facts["input"] = (
                f"filtered backprojection, {self.filter}, as whole HU from {_LEAST_STORED_HU} to"
                f" {_MOST_STORED_HU}; the image alone, metal is what is above {self.threshold_hu:g} HU"
            )
        if self.network is not None:
            facts["weights"] = self.network.weights.label
        return facts

    def item(self, labels: Labels) -> ReportItem:
        return ReportItem(f"{labels['slice']}, {labels['mask']}", metrics={"metal (px)": labels["metal_px"]})

    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        return {f"mean PSNR {mean.method} (dB)": mean.figures["psnr"] for mean in _over_all(means)}


def _prepare(A: Radon, device: str) -> None:
    """Have an operator prepare what it measures and reconstructs with."""
    A.fbp(A(torch.zeros(1, 1, *A.domain_shape, device=select_device(device))))


def _by_size(means: Sequence[Mean], unit: str, cell: Callable[[Mapping[str, float]], str]) -> list[list[str]]:
    """A table with a row for each size of metal and a column for each method.

    Args:
        means: Of all groups and methods.
        unit: Of what a cell shows, for the heading.
        cell: What a cell shows of the figures of a mean.
    """
    methods = list(dict.fromkeys(mean.method for mean in means))
    rows: dict[str, list[str]] = {}
    for mean in means:
        size = str(mean.labels["metal"])
        rows.setdefault(size, [size]).append(cell(mean.figures))
    return [["metal (px)", *(f"{method} ({unit})" for method in methods)], *rows.values()]


def _over_all(means: Sequence[Mean]) -> list[Mean]:
    return [mean for mean in means if mean.labels["metal"] == "all"]
