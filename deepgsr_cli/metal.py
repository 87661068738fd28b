"""Simulated scans of slices with metal in them, and the shapes of metal.

The protocol is that of the metal artifact papers (Zhang and Yu, Convolutional neural network based metal
artifact reduction in X-ray computed tomography, IEEE Transactions on Medical Imaging 37(6), 2018): a 120 kVp
spectrum, water and bone by thresholds, 2e7 photons a ray, 20 counts of scatter, and a correction of the beam
hardening of water. Two things are nearer to nature than in the papers. Metal takes the place of the tissue.
And at its edge intensities are averaged over the width of a bin, where the papers divide the metal's part of
the outermost bins by four, however much of them it covers. No response of the detector, no scatter that
depends on the slice, no blur by the focal spot, no motion; all in one plane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.errors import ShapeError, UserError
from deepgsr_cli.geometry import Geometry
from deepgsr_cli.physics import Radon, hu_to_attenuation

# Part of the photons in each group of energies. The groups' bounds are 20, 25 ... 75, 80.7 (the K edge of
# gold), 85, 90 ... 120 keV. For 120 kVp, a tungsten anode at 12 degrees and 7 mm of aluminium; calculated by
# SpekPy 2.5.4, model casim (Poludniowski et al., SpekPy v2.0, Medical Physics 48(7), 2021).
SPECTRUM = (
    0.00348, 0.02082, 0.04831, 0.07176, 0.08486, 0.08886, 0.08687, 0.16206, 0.07450, 0.09091,
    0.05129, 0.05172, 0.03426, 0.03468, 0.02920, 0.02383, 0.01853, 0.01327, 0.00801, 0.00278,
)  # fmt: skip

# Mass attenuation with coherent scattering, in cm²/g, the mean over each group's photons, from xraylib 4.3
# (Schoonjans et al., Spectrochimica Acta B 66, 2011); bone is its "Bone, Cortical (ICRP)". Line integrals of
# up to 50 cm of water are within 0.004 of those of fifty times as many energies, of 2 cm of iron within 0.02.
WATER = (
    0.5771, 0.4207, 0.3349, 0.2854, 0.2549, 0.2348, 0.2207, 0.2092, 0.2023, 0.1958,
    0.1904, 0.1855, 0.1815, 0.1783, 0.1751, 0.1722, 0.1695, 0.1670, 0.1648, 0.1628,
)  # fmt: skip
BONE = (
    2.474, 1.549, 1.038, 0.7450, 0.5687, 0.4569, 0.3825, 0.3256, 0.2939, 0.2664,
    0.2455, 0.2282, 0.2153, 0.2056, 0.1968, 0.1894, 0.1831, 0.1777, 0.1730, 0.1692,
)  # fmt: skip
# The same at 70 keV, the energy whose attenuation a slice shows.
WATER_70_KEV, BONE_70_KEV = 0.1929, 0.2549


@dataclass(frozen=True)
class Metal:
    """A metal: its density, and its mass attenuation, in cm²/g, for each group of `SPECTRUM`."""

    density_g_cm3: float
    attenuation_cm2_g: tuple[float, ...]


# Densities: CRC Handbook of Chemistry and Physics. Programs that follow the papers give gold 2.0 g/cm³.
METALS = {
    "titanium": Metal(4.506, (
        10.10, 6.133, 3.920, 2.647, 1.880, 1.395, 1.075, 0.8312, 0.6975, 0.5833,
        0.4983, 0.4295, 0.3792, 0.3424, 0.3102, 0.2840, 0.2624, 0.2445, 0.2296, 0.2178,
    )),
    "iron": Metal(7.874, (
        16.49, 10.07, 6.452, 4.351, 3.074, 2.263, 1.724, 1.315, 1.089, 0.8961,
        0.7524, 0.6362, 0.5512, 0.4894, 0.4354, 0.3916, 0.3557, 0.3259, 0.3012, 0.2818,
    )),
    "gold": Metal(19.3, (
        52.26, 33.25, 22.09, 15.35, 11.11, 8.326, 6.422, 4.934, 4.095, 3.361,
        2.805, 2.348, 8.350, 7.269, 6.309, 5.520, 4.863, 4.314, 3.854, 3.489,
    )),
}  # fmt: skip

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
        geometry: Of the scan.
        metal: Of `METALS`.
        photons: Photons a ray that leave the source.

    Raises:
        UserError: An unknown metal, or less than one photon.
    """

    def __init__(self, geometry: Geometry, metal: str = "titanium", photons: float = 2e7) -> None:
        if metal not in METALS:
            raise UserError(f"the metal is {metal!r}; give one of {', '.join(METALS)}")
        if not 1 <= photons < math.inf:
            raise UserError(f"photons is {photons:g}; give 1 or more, the papers' number is 2e7")
        self.metal, self.photons = METALS[metal], photons
        self.operator = Radon(geometry)
        self.water_correction = _water_correction()

    def scan(self, x: Tensor, metal: Tensor, generator: torch.Generator) -> Tensor:
        """Sinogram, (B, 1, V, N), with the noise of counting photons.

        Without metal it is the scan that the correction of metal cannot be better than, with the same noise.

        Args:
            x: Attenuation of the slices without metal, in 1/mm, (B, 1, H, W), not negative.
            metal: Where the metal is, bool, of the same shape.
            generator: On the device of x.

        Raises:
            ShapeError: Another shape or dtype.
        """
        return self.measured(self.line_integrals(x, metal), generator)

    def line_integrals(self, x: Tensor, metal: Tensor) -> Tensor:
        """-log of the part of the photons that passes, (B, 1, V, N), without noise and correction.

        Arguments and errors are those of `scan`.
        """
        if metal.shape != x.shape or metal.dtype != torch.bool:
            raise ShapeError(
                f"the metal is {metal.dtype} of shape {tuple(metal.shape)}, but the slice has"
                f" {tuple(x.shape)}; give bool of the slice's shape"
            )
        water, bone = _parted(x * ~metal)
        # Mass along the rays, in g/cm².
        water_mass, bone_mass = self.operator(torch.cat((water, bone))).chunk(2)
        water_mass, bone_mass = water_mass / WATER_70_KEV, bone_mass / BONE_70_KEV
        lines = polychromatic([water_mass, bone_mass], [WATER, BONE])
        length_mm = _metal_length_mm(self.operator.geometry, metal)  # (B, 1, V, N, rays)
        behind = length_mm.amax(-1) > 0
        metal_mass = length_mm[behind] * (self.metal.density_g_cm3 / 10)  # (R, rays)
        tissue = [mass[behind][:, None].expand_as(metal_mass) for mass in (water_mass, bone_mass)]
        rays = polychromatic([*tissue, metal_mass], [WATER, BONE, self.metal.attenuation_cm2_g])
        lines[behind] = math.log(_RAYS_PER_BIN) - torch.logsumexp(-rays, dim=-1)
        return lines

    def measured(self, lines: Tensor, generator: torch.Generator) -> Tensor:
        """Sinogram that counting photons gives for these line integrals, corrected for water, same shape.

        Args:
            lines: As of `line_integrals`.
            generator: On their device.
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
        masses: Of each material along the rays, in g/cm², all of one shape.
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
    fine = replace(
        geometry,
        num_bins=k * geometry.num_bins,
        bin_mm=geometry.bin_mm / k,
        offset_bins=k * geometry.offset_bins,
    )
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


def fit_shape(mask: Tensor, size: int) -> Tensor:
    """Shape of metal, bool (size, size), from one of another size, (H, W): at least half by bilinear
    interpolation.

    The papers' test metals, of 512 x 512 pixels, come out with at most six pixels less or more than published
    for 416 x 416.
    """
    return F.interpolate(mask[None, None].float(), (size, size), mode="bilinear")[0, 0] >= 0.5


def random_metal(size: int, generator: torch.Generator, shapes: Sequence[Tensor] = ()) -> Tensor:
    """Metal as implants look in a slice, bool (size, size): at least three pixels, none near the border.

    Screws, plates, balls, hip heads, fillings or wires, one to four of a kind; half of the time one of the
    shapes instead, if there are any: turned, moved and scaled.

    Args:
        size: Rows and columns.
        generator: On the CPU.
        shapes: Of metal, bool (H, W), which keep their size relative to the slice up to a factor of 1.4.
    """
    inside = _Frame(size, 0.5, 0.5, 0.0).radius() < 0.45
    while True:
        u = torch.rand(4, generator=generator).tolist()
        if shapes and u[0] < 0.5:
            metal = _moved(shapes[int(u[1] * len(shapes))], size, generator)
        else:
            draw = _IMPLANTS[int(u[2] * len(_IMPLANTS))]
            metal = torch.zeros(size, size, dtype=torch.bool)
            for _ in range(1 + int(u[3] * 4)):
                place = torch.rand(7, generator=generator).tolist()
                frame = _Frame(size, 0.2 + 0.6 * place[0], 0.2 + 0.6 * place[1], 2 * math.pi * place[2])
                metal |= draw(frame, *place[3:])
        metal &= inside
        if metal.sum() >= 3:
            return metal


class _Frame:
    """Coordinates of the pixels about a point, along and across a direction, (size, size) each.

    In units of the side, as all lengths of implants below; the point is given from the top left corner.
    """

    def __init__(self, size: int, row: float, column: float, turn: float) -> None:
        axis = (torch.arange(size) + 0.5) / size
        down, right = axis[:, None] - row, axis[None] - column
        self.along = down * math.sin(turn) + right * math.cos(turn)
        self.across = down * math.cos(turn) - right * math.sin(turn)

    def radius(self) -> Tensor:
        """Distance from the point."""
        return torch.hypot(self.along, self.across)


# Implants at the frame's origin, bool (size, size), with four numbers in [0, 1) for their form. In a slice
# 350 mm wide shafts are 4 to 9 mm thick, balls 3 to 17, hip heads 10 to 19 and wires 1 to 2 mm in radius.


def _screw(frame: _Frame, u: float, v: float, w: float, _: float) -> Tensor:
    length, width = 0.05 + 0.12 * u, 0.012 + 0.013 * v
    shaft = (frame.along.abs() < length / 2) & (frame.across.abs() < width / 2)
    head = ((frame.along - length / 2).abs() < width / 2) & (frame.across.abs() < width * (0.5 + w))
    return shaft | head


def _plate(frame: _Frame, u: float, v: float, w: float, _: float) -> Tensor:
    length, width, bend = 0.08 + 0.2 * u, 0.01 + 0.015 * v, 4 * (w - 0.5)
    return (frame.along.abs() < length / 2) & ((frame.across - bend * frame.along**2).abs() < width / 2)


def _ball(frame: _Frame, u: float, _v: float, _w: float, _: float) -> Tensor:
    return frame.radius() < 0.008 * 6**u


def _hip_head(frame: _Frame, u: float, v: float, w: float, z: float) -> Tensor:
    radius = 0.03 + 0.025 * u
    length, width = radius * (1 + 1.5 * v), radius * (0.5 + 0.4 * w)
    neck = (frame.along > 0) & (frame.along < length) & (frame.across.abs() < width / 2)
    cup = (frame.radius() - 1.2 * radius).abs() < 0.1 * radius
    return (frame.radius() < radius) | neck | (cup & (frame.along < 0) & (z < 0.3))


def _filling(frame: _Frame, u: float, v: float, w: float, z: float) -> Tensor:
    radius = 0.006 + 0.014 * u
    lobe = torch.hypot(frame.along - radius * (0.4 + 0.6 * v), (frame.across - radius * (z - 0.5)))
    return (frame.radius() < radius) | (lobe < radius * (0.4 + 0.6 * w))


def _wire(frame: _Frame, u: float, v: float, w: float, z: float) -> Tensor:
    radius = 0.003 + 0.003 * u
    if v < 0.7:
        return frame.radius() < radius
    bow = 0.02 + 0.05 * w
    return ((frame.radius() - bow).abs() < radius / 2) & (frame.along > bow * (1.8 * z - 0.9))


_IMPLANTS = (_screw, _plate, _ball, _hip_head, _filling, _wire)


def _moved(shape: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The shape turned and scaled, with its middle moved to a random place, bool (size, size)."""
    u = torch.rand(5, generator=generator).tolist()
    scale = 1.4 ** (2 * u[0] - 1)
    frame = _Frame(size, 0.2 + 0.6 * u[1], 0.2 + 0.6 * u[2], 2 * math.pi * u[3])
    row, column = (
        (indices.min() + indices.max() + 1).item() / (2 * n)
        for indices, n in zip(shape.nonzero(as_tuple=True), shape.shape)
    )
    flip = 1 if u[4] < 0.5 else -1
    grid = torch.stack(
        (2 * (frame.along / scale + column) - 1, 2 * (flip * frame.across / scale + row) - 1), -1
    )
    return F.grid_sample(shape[None, None].float(), grid[None], align_corners=False)[0, 0] >= 0.5
