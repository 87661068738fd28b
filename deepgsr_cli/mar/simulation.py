"""Simulated scans of slices with metal in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.errors import OptionError, ShapeError
from deepgsr_cli.mar.materials import BONE, BONE_70_KEV, METALS, SPECTRUM, WATER, WATER_70_KEV
from deepgsr_cli.tomography.attenuation import hu_to_attenuation
from deepgsr_cli.tomography.geometry import Geometry
from deepgsr_cli.tomography.radon import Radon

SCATTER_COUNTS = 20.0
# Below the first all is water, above the second all is bone.
WATER_HU, BONE_HU = 100.0, 1500.0
# Rays a bin's width is sampled with in the shadow of metal. Against sixteen, one errs by a third in the
# outermost bins on the mean, two by a tenth, four by 3 %.
_RAYS_PER_BIN = 4
# Water that the correction of beam hardening is fitted to.
_WATER_CM = np.arange(0, 50.01, 0.05)


class MetalScan:
    """Scans of slices with metal, in line integrals that are corrected for the beam hardening of water.

    Args:
        geometry: Geometry of the scan.
        metals: Names of the metals, of `METALS`.
        photons: Photons a ray that leave the source.

    Raises:
        OptionError: An unknown metal, or less than one photon.
    """

    def __init__(self, geometry: Geometry, *metals: str, photons: float = 2e7) -> None:
        for metal in metals:
            if metal not in METALS:
                raise OptionError("metal", metal, f"give one of {', '.join(METALS)}")
        if not 1 <= photons < math.inf:
            raise OptionError("photons", photons, "give 1 or more, the papers' number is 2e7")
        self.metals, self.photons = [METALS[metal] for metal in metals or ("titanium",)], photons
        self.operator = Radon(geometry)
        self.water_correction = _water_correction()

    def scan(self, x: Tensor, metal: Tensor, generator: torch.Generator) -> Tensor:
        """Sinogram, (B, 1, V, N), with the noise of counting photons.

        Without metal it is the scan that the correction of metal cannot be better than, with the same noise.

        Args:
            x: Attenuation of the slices without metal, in 1/mm, (B, 1, H, W), not negative.
            metal: Masks of the metals in their order, bool, (B, M, H, W), none of which overlap.
            generator: Random generator, on the device of x.

        Raises:
            ShapeError: Another shape or dtype.
        """
        return self.measured(self.line_integrals(x, metal), generator)

    def line_integrals(self, x: Tensor, metal: Tensor) -> Tensor:
        """-log of the part of the photons that passes, (B, 1, V, N), without noise and correction.

        Arguments and errors are those of `scan`.
        """
        shape = (len(x), len(self.metals), *x.shape[2:])
        if metal.shape != shape or metal.dtype != torch.bool:
            raise ShapeError(
                f"the metal is {metal.dtype} of shape {tuple(metal.shape)}, but the slice has"
                f" {tuple(x.shape)}; give bool of the slice's shape, a mask for each metal, {shape}"
            )
        water, bone = _parted(x * ~metal.any(1, keepdim=True))
        # Mass along the rays, in g/cm².
        water_mass, bone_mass = self.operator(torch.cat((water, bone))).chunk(2)
        water_mass, bone_mass = water_mass / WATER_70_KEV, bone_mass / BONE_70_KEV
        lines = polychromatic([water_mass, bone_mass], [WATER, BONE])
        # Of each metal, (B, 1, V, N, rays).
        lengths_mm = [_metal_length_mm(self.operator.geometry, mask) for mask in metal.split(1, dim=1)]
        behind = torch.stack(lengths_mm).amax((0, -1)) > 0
        metal_mass = [
            length[behind] * (of.density_g_cm3 / 10) for length, of in zip(lengths_mm, self.metals)
        ]  # (R, rays) each
        tissue = [mass[behind][:, None].expand_as(metal_mass[0]) for mass in (water_mass, bone_mass)]
        materials = [WATER, BONE, *(of.attenuation_cm2_g for of in self.metals)]
        rays = polychromatic([*tissue, *metal_mass], materials)
        lines[behind] = math.log(_RAYS_PER_BIN) - torch.logsumexp(-rays, dim=-1)
        return lines

    def measured(self, lines: Tensor, generator: torch.Generator) -> Tensor:
        """Sinogram that counting photons gives for these line integrals, corrected for water, same shape.

        Args:
            lines: Line integrals, as `line_integrals` returns them.
            generator: Random generator, on the device of the lines.
        """
        counts = torch.poisson(self.photons * torch.exp(-lines) + SCATTER_COUNTS, generator)
        return self.water_corrected(-torch.log(counts.clamp(min=1) / self.photons))

    def water_corrected(self, lines: Tensor) -> Tensor:
        """What line integrals would be at 70 keV if all were water, of the same shape."""
        first, second, third = self.water_correction
        return lines * (first + lines * (second + lines * third))


def polychromatic(masses: Sequence[Tensor], attenuation_cm2_g: Sequence[Sequence[float]]) -> Tensor:
    """-log of the part of the photons of `SPECTRUM` that passes, of the shape of each of the masses.

    Args:
        masses: Mass of each material along the rays, in g/cm², all of one shape.
        attenuation_cm2_g: Of each material, for each group of energies.
    """
    passed = torch.zeros_like(masses[0])
    for part, *attenuation in zip(SPECTRUM, *attenuation_cm2_g):
        exponent = masses[0] * -attenuation[0]
        for mass, coefficient in zip(masses[1:], attenuation[1:]):
            exponent.sub_(mass, alpha=coefficient)
        passed.add_(exponent.exp_(), alpha=part)
    # Nothing passes a decimetre of gold; the counts of scatter are all that is left then.
    return -torch.log(passed.clamp(min=torch.finfo(passed.dtype).tiny))


def _water_correction() -> tuple[float, float, float]:
    """Coefficients of the cubic that makes the line integrals of water proportional to its thickness.

    Source:
        Herman, Correction for beam hardening in computed tomography, Physics in Medicine and Biology 24(1),
        1979.
    """
    water_cm = torch.from_numpy(_WATER_CM)
    lines = polychromatic([water_cm], [WATER]).numpy()
    powers = np.stack((lines, lines**2, lines**3), axis=1)
    first, second, third = np.linalg.lstsq(powers, _WATER_CM * WATER_70_KEV)[0].tolist()
    return first, second, third


def _parted(x: Tensor) -> tuple[Tensor, Tensor]:
    """Water and bone, which add up to attenuation in 1/mm, of the shape of x; all bone above `BONE_HU`."""
    low, high = (float(hu_to_attenuation(torch.tensor(hu))) for hu in (WATER_HU, BONE_HU))
    bone = x * ((x - low) / (high - low)).clamp(0, 1)
    return x - bone, bone


def _metal_length_mm(geometry: Geometry, metal: Tensor) -> Tensor:
    """Length of metal, (B, 1, V, N, `_RAYS_PER_BIN`), along rays evenly spaced over each bin's width.

    Exact for metal made of pixels: each adds the chord that a ray cuts from its rectangle, a trapezoid over
    the distance of the ray from its centre.
    """
    batch, _, row, column = metal.nonzero(as_tuple=True)
    device, dtype = metal.device, torch.float32
    k = _RAYS_PER_BIN
    fine = geometry.refined(bins=k)
    (height, width), (spacing_y, spacing_x) = geometry.shape, geometry.pixel_mm
    x = (column - (width - 1) / 2) * spacing_x
    y = ((height - 1) / 2 - row) * spacing_y
    theta = np.array(fine.angles_rad)[:, None]
    turned = theta - fine.fan_angles_rad()
    # The rays are the lines cos x + sin y = shift.
    shift = fine.bin_positions_mm() if fine.kind == "parallel" else fine.source_mm * np.sin(theta - turned)
    cos, sin, shift = (
        torch.from_numpy(np.array(np.broadcast_to(a, turned.shape))).to(device, dtype).flatten()
        for a in (np.cos(turned), np.sin(turned), shift)
    )
    lengths = torch.zeros(len(metal) * len(cos), device=device, dtype=dtype)
    nearest, reach = _shadows(fine, x, y)  # (M, V)
    view = torch.arange(fine.num_views, device=device) * fine.num_bins
    for step in range(-reach, reach + 1):
        bin_ = nearest + step
        ray = bin_.clamp(0, fine.num_bins - 1) + view
        across_x, across_y = cos[ray].abs() * spacing_x, sin[ray].abs() * spacing_y
        distance = (x[:, None] * cos[ray] + y[:, None] * sin[ray] - shift[ray]).abs()
        longer = torch.maximum(across_x, across_y)
        overlap = ((across_x + across_y) / 2 - distance).clamp(min=0)
        shorter = torch.minimum(across_x, across_y)
        chord = spacing_x * spacing_y / longer * (overlap / shorter.clamp(min=1e-6)).clamp(max=1)
        chord = torch.where(bin_ == bin_.clamp(0, fine.num_bins - 1), chord, 0)
        lengths.index_add_(0, (ray + batch[:, None] * len(cos)).flatten(), chord.flatten())
    return lengths.view(len(metal), 1, geometry.num_views, geometry.num_bins, k)


def _shadows(geometry: Geometry, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """Bins nearest to the projections of points, (M, V), and how many bins a pixel can reach from there."""
    theta = torch.tensor(geometry.angles_rad, dtype=torch.float32, device=x.device)
    across = x[:, None] * theta.cos() + y[:, None] * theta.sin()
    along = y[:, None] * theta.cos() - x[:, None] * theta.sin()
    reach_mm = math.hypot(*geometry.pixel_mm) / 2
    if geometry.kind == "parallel":
        position = across
    else:
        length = geometry.source_mm + geometry.detector_mm
        tangent = across / (geometry.source_mm + along)
        position = (tangent if geometry.kind == "fan-flat" else tangent.atan()) * length
        widest = float(np.abs(geometry.fan_angles_rad()).max()) if geometry.kind == "fan-flat" else 0.0
        nearest_mm = geometry.source_mm - geometry.radius_mm
        reach_mm *= length / (nearest_mm * math.cos(widest))
    bins = (position / geometry.bin_mm + geometry.centre_bin).round().long()
    return bins, math.floor(reach_mm / geometry.bin_mm + 0.5)
