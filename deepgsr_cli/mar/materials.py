"""What rays meet in a scan with metal: a spectrum, and how water, bone and metals attenuate it."""

from __future__ import annotations

from dataclasses import dataclass

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
