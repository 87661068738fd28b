"""Cases of metal artifact reduction to train on: slices with metal in them, scanned by simulation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.ct.cutouts import CutOuts
from deepgsr_cli.ct.slices import reduced
from deepgsr_cli.mar.implants import random_metal
from deepgsr_cli.mar.network import START_TENSORS, MetalStart, metal_start
from deepgsr_cli.mar.nmar import virtual_scan
from deepgsr_cli.mar.simulation import MetalScan
from deepgsr_cli.mar.trace import metal_mask
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION
from deepgsr_cli.tomography.geometry import Geometry, mar_640
from deepgsr_cli.tomography.radon import Radon

# Pixels across a slice of the metal artifact papers, and its side.
NOMINAL_SIZE, NOMINAL_FIELD_MM = 416, 416 * 512 / 416 * 0.3
# What 12 bits hold, 3071 HU: reconstructed metal is cut off there.
_HIGHEST = (1 + 3071 / 1000) * WATER_ATTENUATION
# Cases that are kept, and the steps after which one gives way to another: on a CPU a fourth of the time of a
# run goes to simulation then, and each is seen a few times, turned otherwise.
_NUM_CASES, _LIFE = 240, 1920
# Tissue is cut off at 1800 HU, so that a slice has no metal but what is put in.
_DENSEST = (1 + 1800 / 1000) * WATER_ATTENUATION
# Of a slice, at most this part is metal, and of metal at least this part is in tissue.
_LARGEST_SHARE, _IN_TISSUE, _ATTEMPTS = 0.018, 0.6, 12


@dataclass(frozen=True)
class MetalCase:
    """Slices with metal as they are scanned, and as they are without.

    Attributes:
        operator: Operator that the sinogram was measured with; virtual, for a case of the image alone.
        sinogram: (B, 1, V, N).
        truth: What an image of the case should be, in 1/mm, (B, 1, H, W): the slice where the sinogram is
            known, and `clean` where the image alone is, which is to keep the resolution that it has.
        clean: Reconstruction of the scan without metal, in 1/mm, (B, 1, H, W): only artifacts differ from it.
        metal: Mask of all metal that was put in, bool, (B, 1, H, W).
        start: Images and masks that the network starts from.
    """

    operator: Radon
    sinogram: Tensor
    truth: Tensor
    clean: Tensor
    metal: Tensor
    start: MetalStart


@dataclass(frozen=True)
class Setting:
    """The scan that cases are simulated by.

    Attributes:
        field_mm: Side of the slice.
        metals: Names in `materials.METALS`, each of implants of its own.
        kernel: Filter of the reconstruction that alone is known of the scan, one of `fbp.FILTERS`; None
            where the sinogram is known.
    """

    field_mm: float
    metals: tuple[str, ...]
    kernel: str | None


# A third of them as in the metal artifact papers, whose slices are small; the others as wide as heads and
# bodies are. Half from the sinogram, half from the image alone. Iron, at 30,000 HU, stands for steel and the
# alloys of cobalt, gold with titanium for what is in teeth and jaws.
SETTINGS = (
    Setting(NOMINAL_FIELD_MM, ("titanium",), None),
    Setting(NOMINAL_FIELD_MM, ("titanium",), "ram-lak"),
    Setting(NOMINAL_FIELD_MM, ("titanium",), None),
    Setting(NOMINAL_FIELD_MM, ("titanium",), "hann"),
    Setting(200.0, ("gold", "titanium"), None),
    Setting(200.0, ("gold", "titanium"), "hann"),
    Setting(250.0, ("iron",), None),
    Setting(250.0, ("iron",), "hann"),
    Setting(350.0, ("titanium",), None),
    Setting(350.0, ("titanium",), "hann"),
    Setting(350.0, ("iron", "titanium"), None),
    Setting(350.0, ("iron", "titanium"), "hann"),
)


class CaseScan:
    """Simulated scans of slices of one size.

    A scan of fewer than 416 x 416 pixels is alike pixel by pixel: with as many views and bins per pixel.

    Args:
        size: Rows and columns.
        setting: Metals, field and filter of the scans.
    """

    def __init__(self, size: int, setting: Setting) -> None:
        self.kernel = setting.kernel
        geometry = _fan(size, setting.field_mm)
        self._scan = MetalScan(geometry, *setting.metals)
        self.operator = self._scan.operator
        if setting.kernel is not None:
            virtual = virtual_scan(geometry.shape, geometry.pixel_mm)
            num_views = _scaled(virtual.num_views, size)
            angles = tuple(math.pi * (i + 0.5) / num_views for i in range(num_views))
            self.operator = Radon(dataclasses.replace(virtual, angles_rad=angles))

    def __call__(self, x: Tensor, metals: Tensor, generator: torch.Generator) -> MetalCase:
        """The case of slices in 1/mm, (B, 1, H, W), with masks of the metals in them, bool, (B, M, H, W).

        The metal of an image alone is what `metal_mask` finds in it, or the true one where it finds none. The
        noise of the scan without metal is drawn from the same numbers.
        """
        state = generator.get_state()
        y = self._scan.scan(x, metals, generator)
        after = generator.get_state()
        free = self._image(self._scan.scan(x, torch.zeros_like(metals), generator.set_state(state)))
        generator.set_state(after)
        metal, A = metals.any(1, keepdim=True), self.operator
        found = metal
        virtual = self.kernel is not None
        if virtual:
            image = self._image(y)
            y, found = A(image), metal_mask(image)
            found = torch.where(found.flatten(1).any(1)[:, None, None, None], found, metal)
        truth = free if virtual else x
        return MetalCase(A, y, truth, free, metal, metal_start(A, y, found, virtual=virtual))

    def _image(self, y: Tensor) -> Tensor:
        """Reconstruction of a sinogram of the scan, in 1/mm, (B, 1, H, W), as files hold it if it alone is
        known."""
        if self.kernel is None:
            return self._scan.operator.fbp(y)
        return self._scan.operator.fbp(y, self.kernel).clamp(0, _HIGHEST)


def _scaled(count: int, size: int) -> int:
    return max(3, round(count * size / NOMINAL_SIZE))


def _fan(size: int, field_mm: float) -> Geometry:
    """`mar_640` for slices of size x size pixels: the same rays, fewer of them."""
    nominal = mar_640(field_mm / NOMINAL_SIZE, _scaled(640, size))
    num_bins = _scaled(nominal.num_bins, size)
    return dataclasses.replace(
        nominal,
        shape=(size, size),
        pixel_mm=(field_mm / size, field_mm / size),
        num_bins=num_bins,
        bin_mm=nominal.bin_mm * nominal.num_bins / num_bins,
    )


class MetalCases:
    """Cases of random cut-outs with random metal, a function of the seed and the step; each is made on first
    use and kept until its place is another's.

    Args:
        slices: Slices in HU, (H, W) each.
        shapes: Metal shapes to use beside generated ones, bool, (H, W) each.
        size: Rows and columns of a case.
        seed: Seed of the cases.
        device: Device where cases are made and kept.
    """

    def __init__(
        self,
        slices: list[np.ndarray],
        shapes: Sequence[Tensor],
        size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.shapes, self.size, self.seed, self.device = shapes, size, seed, device
        # Whole slices, from which a cut-out takes little away.
        whole = [
            reduced(torch.from_numpy(hu), side).numpy() for hu in slices for side in (size, 9 * size // 8)
        ]
        self.cut_outs = CutOuts(whole, size, device, masked=0.1, with_objects=0.2)
        self._scans: dict[int, CaseScan] = {}
        self._cases: dict[int, tuple[int, MetalCase]] = {}

    def __call__(self, batch: int, generator: torch.Generator, step: int) -> MetalCase:
        """A batch of cases of one setting, turned by quarters and mirrored at random alike."""
        u = torch.rand(batch + 3, generator=generator).tolist()
        setting, each = int(u[0] * len(SETTINGS)), _NUM_CASES // len(SETTINGS)
        cases = [self._case(setting, setting + len(SETTINGS) * int(v * each), step) for v in u[3:]]
        return turned(_batch(cases), int(4 * u[1]), mirror=u[2] < 0.5)

    def _case(self, setting: int, place: int, step: int) -> MetalCase:
        """The case of a place at a step; one place after another is renewed."""
        i = place + _NUM_CASES * ((step + _LIFE * place // _NUM_CASES) // _LIFE)
        if place not in self._cases or self._cases[place][0] != i:
            if setting not in self._scans:
                self._scans[setting] = CaseScan(self.size, SETTINGS[setting])
            streams = np.random.SeedSequence([self.seed, i]).generate_state(2, np.uint64)
            generator = torch.Generator().manual_seed(int(streams[0] >> 1))
            x = self.cut_outs(1, generator).clamp(max=_DENSEST)
            metals = implanted_metals(len(SETTINGS[setting].metals), x, self.shapes, generator)
            noise = torch.Generator(self.device).manual_seed(int(streams[1] >> 1))
            self._cases[place] = i, self._scans[setting](x, metals, noise)
        return self._cases[place][1]


def implanted_metals(count: int, x: Tensor, shapes: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Masks of random implants of so many metals, bool, (1, count, H, W), none of which overlap.

    The other arguments are those of `implanted_metal`.
    """
    masks: list[Tensor] = []
    for _ in range(count):
        metal = implanted_metal(x, shapes, generator)
        masks.append(metal & ~torch.cat(masks, 1).any(1, keepdim=True) if masks else metal)
    return torch.cat(masks, 1)


def implanted_metal(x: Tensor, shapes: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Random metal as implants lie in a slice, bool, (1, 1, H, W): small, and most of it in tissue.

    The last of `_ATTEMPTS` draws is taken as it is.

    Args:
        x: The slice in 1/mm, (1, 1, H, W), H = W.
        shapes: Shapes of metal, as for `implants.random_metal`.
        generator: Random generator, on the CPU.
    """
    tissue = x > 0.7 * WATER_ATTENUATION
    for _ in range(_ATTEMPTS):
        metal = random_metal(x.shape[-1], generator, shapes)[None, None].to(x.device)
        small = metal.sum() <= _LARGEST_SHARE * metal.numel()
        if small and (metal & tissue).sum() > _IN_TISSUE * metal.sum():
            break
    return metal


def _batch(cases: list[MetalCase]) -> MetalCase:
    """Cases of one operator as one."""
    first = cases[0]
    if len(cases) == 1:
        return first
    tensors = {name: torch.cat([getattr(case, name) for case in cases]) for name in _TENSORS}
    starts = [case.start for case in cases]
    start: dict[str, Any] = {name: torch.cat([getattr(s, name) for s in starts]) for name in START_TENSORS}
    return MetalCase(first.operator, start=dataclasses.replace(first.start, **start), **tensors)


_TENSORS = ("sinogram", "truth", "clean", "metal")


class _Turned:
    """Stands for an operator where slices are turned: gives the sinogram of the slice that is not."""

    def __init__(self, A: Radon, quarters: int, mirror: bool) -> None:
        self._A, self._quarters, self._mirror = A, quarters, mirror

    def __call__(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        x = x.flip(-1) if self._mirror else x
        return self._A(x.rot90(-self._quarters, (-2, -1)).contiguous(), where)

    def fbp(self, y: Tensor) -> Tensor:
        return _turn(self._A.fbp(y), self._quarters, self._mirror)


def _turn(x: Tensor, quarters: int, mirror: bool) -> Tensor:
    x = x.rot90(quarters, (-2, -1))
    return (x.flip(-1) if mirror else x).contiguous()


def turned(case: MetalCase, quarters: int, *, mirror: bool) -> MetalCase:
    """The case with its slices turned counterclockwise, then mirrored; the sinogram stays."""
    start = case.start
    images: dict[str, Any] = {
        name: _turn(getattr(start, name), quarters, mirror)
        for name in ("uncorrected", "interpolated", "normalised", "metal")
    }
    return MetalCase(
        cast(Radon, _Turned(case.operator, quarters, mirror)),
        case.sinogram,
        _turn(case.truth, quarters, mirror),
        _turn(case.clean, quarters, mirror),
        _turn(case.metal, quarters, mirror),
        dataclasses.replace(start, **images),
    )
