import math

import numpy as np
import pytest
import torch
from torch import Tensor

from deepgsr_cli.errors import OptionError, ShapeError
from deepgsr_cli.mar import simulation
from deepgsr_cli.mar.implants import fit_shape, random_metal
from deepgsr_cli.mar.materials import BONE, BONE_70_KEV, METALS, SPECTRUM, WATER, WATER_70_KEV
from deepgsr_cli.mar.simulation import SCATTER_COUNTS, MetalScan, polychromatic
from deepgsr_cli.mar.trace import metal_trace
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION
from deepgsr_cli.tomography.geometry import KINDS, Geometry


def small(kind: str = "fan-flat") -> Geometry:
    """Odd, not square, with oblong pixels, a shifted detector and angles in no order."""
    fan = {} if kind == "parallel" else {"source_mm": 90.0, "detector_mm": 40.0}
    return Geometry(
        kind=kind,
        shape=(37, 53),
        pixel_mm=(0.9, 0.7),
        num_bins=81,
        bin_mm=0.8 if kind == "parallel" else 1.3,
        angles_rad=(0.0, math.pi / 2, 0.3, 5.1, -2.2, math.pi / 4, 3.0),
        offset_bins=0.25,
        **fan,
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tissue(batch: int = 1, seed: int = 0) -> Tensor:
    """From air to bone, (batch, 1, 37, 53)."""
    return torch.rand(batch, 1, 37, 53, generator=generator(seed)) * 3 * WATER_ATTENUATION


def block(rows: slice = slice(12, 21), columns: slice = slice(30, 36)) -> Tensor:
    metal = torch.zeros(1, 1, 37, 53, dtype=torch.bool)
    metal[..., rows, columns] = True
    return metal


NO_METAL = torch.zeros(1, 1, 37, 53, dtype=torch.bool)


def chord_mm(geometry: Geometry, metal: Tensor) -> np.ndarray:
    """Length of each ray in the rectangle that the metal fills, (V, N): the slab method."""
    rows, columns = (np.flatnonzero(metal[0, 0].any(1 - axis).numpy()) for axis in (0, 1))
    (height, width), (dy, dx) = geometry.shape, geometry.pixel_mm
    x_range = (columns[0] - width / 2) * dx, (columns[-1] + 1 - width / 2) * dx
    y_range = (height / 2 - rows[-1] - 1) * dy, (height / 2 - rows[0]) * dy
    lengths = np.zeros((geometry.num_views, geometry.num_bins))
    bins_mm = geometry.bin_positions_mm()
    for v, theta in enumerate(geometry.angles_rad):
        for n, t in enumerate(bins_mm):
            across = np.array([math.cos(theta), math.sin(theta)])
            along = np.array([-math.sin(theta), math.cos(theta)])
            if geometry.kind == "parallel":
                point, direction = t * across, along
            else:
                length = geometry.source_mm + geometry.detector_mm
                fan = math.atan(t / length) if geometry.kind == "fan-flat" else t / length
                point = -geometry.source_mm * along
                direction = math.cos(fan) * along + math.sin(fan) * across
            enter, leave = -math.inf, math.inf
            for p, d, (low, high) in zip(point, direction, (x_range, y_range)):
                if abs(d) < 1e-12:
                    enter, leave = (enter, leave) if low < p < high else (1.0, 0.0)
                    continue
                near, far = sorted(((low - p) / d, (high - p) / d))
                enter, leave = max(enter, near), min(leave, far)
            lengths[v, n] = max(leave - enter, 0)
    return lengths


def test_spectrum_and_tables_agree_with_published_attenuation() -> None:
    assert sum(SPECTRUM) == pytest.approx(1, abs=1e-4)
    tables = {"water": WATER, "bone": BONE} | {name: m.attenuation_cm2_g for name, m in METALS.items()}
    assert {len(table) for table in tables.values()} == {len(SPECTRUM)}
    # NIST, X-ray mass attenuation coefficients, at 60 keV, which two groups share as a bound.
    for name, published in {"water": 0.2059, "titanium": 0.7661, "iron": 1.205, "gold": 4.528}.items():
        assert math.sqrt(tables[name][7] * tables[name][8]) == pytest.approx(published, rel=0.015)


def test_correction_makes_water_linear() -> None:
    water_cm = torch.linspace(0.5, 50, 200, dtype=torch.float64)
    lines = polychromatic([water_cm], [WATER])
    assert (lines / water_cm).std() > 0.005
    corrected = MetalScan(small()).water_corrected(lines)
    torch.testing.assert_close(corrected, WATER_70_KEV * water_cm, rtol=0, atol=0.01)


@pytest.mark.parametrize("group", [3, 12])
def test_one_energy_gives_plain_line_integrals(monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    monkeypatch.setattr(simulation, "SPECTRUM", [float(i == group) for i in range(len(SPECTRUM))])
    scan = MetalScan(small())
    x = tissue().clamp(max=WATER_ATTENUATION)
    expected = scan.operator(x) * (WATER[group] / WATER_70_KEV)
    torch.testing.assert_close(scan.line_integrals(x, NO_METAL), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_metal_alone_attenuates_by_its_chords(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(simulation, "SPECTRUM", [float(i == 9) for i in range(len(SPECTRUM))])
    monkeypatch.setattr(simulation, "_RAYS_PER_BIN", 1)
    iron, geometry, metal = METALS["iron"], small(kind), block()
    lines = MetalScan(geometry, "iron").line_integrals(torch.zeros(1, 1, 37, 53), metal)
    expected = chord_mm(geometry, metal) / 10 * iron.density_g_cm3 * iron.attenuation_cm2_g[9]
    assert expected.max() > 3
    # At a corner, and along an edge, a ray may be counted to either side.
    off = np.abs(lines[0, 0].numpy() - expected) > 1e-3
    assert off.sum() <= 1


def test_edge_of_metal_passes_the_part_of_the_photons_beside_it() -> None:
    geometry = Geometry("parallel", (9, 9), (1.0, 1.0), 9, 1.0, (0.0,), offset_bins=0.5)
    metal = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    metal[..., 3:6] = True
    lines = MetalScan(geometry, "gold").line_integrals(torch.zeros(1, 1, 9, 9), metal)
    # Bins are half a bin off the pixels: two are behind metal, two behind its edges, the others beside it.
    expected = torch.tensor([math.log(2), math.inf, math.inf, math.log(2)])
    behind = lines[0, 0, 0].nonzero().flatten()
    assert len(behind) == 4
    values = lines[0, 0, 0, behind]
    torch.testing.assert_close(values[[0, 3]], expected[[0, 3]], rtol=1e-4, atol=0)
    assert (values[1:3] > 5).all()


def test_without_metal_the_tissue_alone_attenuates() -> None:
    x, scan = tissue(), MetalScan(small())
    low, high = 1.1 * WATER_ATTENUATION, 2.5 * WATER_ATTENUATION
    bone = x * ((x - low) / (high - low)).clamp(0, 1)
    masses = [scan.operator(x - bone) / WATER_70_KEV, scan.operator(bone) / BONE_70_KEV]
    torch.testing.assert_close(scan.line_integrals(x, NO_METAL), polychromatic(masses, [WATER, BONE]))


@pytest.mark.parametrize("kind", KINDS)
def test_metal_takes_the_place_of_tissue_and_changes_only_its_trace(kind: str) -> None:
    x, metal, scan = tissue(), block(), MetalScan(small(kind))
    lines = scan.line_integrals(x, metal)
    without = scan.line_integrals(x.masked_fill(metal, 0), NO_METAL)
    changed = lines != without
    assert changed.any()
    assert not (changed & ~metal_trace(scan.operator, metal)).any()
    torch.testing.assert_close(scan.line_integrals(x.masked_fill(metal, 1), metal), lines)


def test_denser_metal_attenuates_more() -> None:
    titanium, iron, gold = (MetalScan(small(), name).line_integrals(tissue(), block()) for name in METALS)
    trace = titanium != MetalScan(small()).line_integrals(tissue().masked_fill(block(), 0), NO_METAL)
    assert (iron[trace] > titanium[trace]).all()
    assert (gold[trace] > iron[trace]).all()
    assert gold.isfinite().all()


def test_two_metals_attenuate_as_each_does_in_its_place() -> None:
    none, both = torch.zeros(1, 1, 37, 53), torch.cat((block(), block(slice(3, 6), slice(10, 20))), 1)
    lines = MetalScan(small(), "gold", "titanium").line_integrals(none, both)
    alone = [
        MetalScan(small(), name).line_integrals(none, mask)
        for name, mask in zip(("gold", "titanium"), both.split(1, dim=1))
    ]
    overlap = (alone[0] > 0) & (alone[1] > 0)
    assert overlap.any()
    torch.testing.assert_close(lines[~overlap], (alone[0] + alone[1])[~overlap], rtol=1e-5, atol=1e-5)
    assert (lines >= torch.maximum(*alone) - 1e-4)[overlap].all()
    with pytest.raises(ShapeError, match="a mask for each metal"):
        MetalScan(small(), "gold", "titanium").line_integrals(none, block())


def test_noise_is_that_of_the_counts() -> None:
    scan = MetalScan(small(), photons=1e4)
    lines = torch.full((1, 1, 400, 500), 1.5)
    y = scan.measured(lines, generator())
    first, second, third = scan.water_correction
    counts = 1e4 * math.exp(-1.5) + SCATTER_COUNTS
    mean = -math.log(counts / 1e4)
    slope = first + 2 * second * mean + 3 * third * mean**2
    expected_mean = float(scan.water_corrected(torch.tensor(mean)))
    assert float(y.mean()) == pytest.approx(
        expected_mean, abs=4 * slope / math.sqrt(counts * y.numel()) + 3e-4
    )
    assert float(y.var()) == pytest.approx(slope**2 / counts, rel=0.02)


def test_opaque_metal_leaves_the_scatter() -> None:
    scan = MetalScan(small())
    y = scan.measured(torch.full((1, 1, 200, 200), 60.0), generator())
    assert y.isfinite().all()
    expected = scan.water_corrected(torch.tensor(math.log(scan.photons / SCATTER_COUNTS)))
    assert float(y.mean()) == pytest.approx(float(expected), rel=0.01)


def test_one_seed_gives_the_same_scan() -> None:
    scan, x = MetalScan(small()), tissue()
    first, again, other = (scan.scan(x, block(), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batch_of_two_equals_two_runs() -> None:
    scan, x = MetalScan(small()), tissue(2)
    metal = torch.cat((block(), block(slice(3, 6), slice(10, 20))))
    both = scan.line_integrals(x, metal)
    for i in range(2):
        one = scan.line_integrals(x[i : i + 1], metal[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], one, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_scanned_is_refused() -> None:
    with pytest.raises(OptionError, match="titanium, iron, gold"):
        MetalScan(small(), "copper")
    with pytest.raises(OptionError, match="photons is 0"):
        MetalScan(small(), photons=0)
    with pytest.raises(ShapeError, match="bool of the slice's shape"):
        MetalScan(small()).line_integrals(tissue(), block().float())
    with pytest.raises(ShapeError, match="bool of the slice's shape"):
        MetalScan(small()).line_integrals(tissue(2), block())


def test_random_metal_is_within_bounds_and_a_function_of_the_seed() -> None:
    areas = set()
    for seed in range(150):
        metal = random_metal(128, generator(seed))
        assert metal.dtype == torch.bool
        assert metal.shape == (128, 128)
        assert torch.equal(metal, random_metal(128, generator(seed)))
        rows, columns = metal.nonzero(as_tuple=True)
        assert torch.hypot(rows - 63.5, columns - 63.5).max() < 0.45 * 128
        areas.add(int(metal.sum()))
    assert min(areas) >= 3
    assert max(areas) < 0.1 * 128**2
    assert len(areas) > 50


def test_random_metal_moves_given_shapes() -> None:
    shape = torch.zeros(200, 200, dtype=torch.bool)
    shape[150:170, 20:50] = True
    found = []
    for seed in range(60):
        metal = random_metal(100, generator(seed), [shape])
        if torch.equal(metal, random_metal(100, generator(seed))):
            continue
        rows, columns = metal.nonzero(as_tuple=True)
        found.append((int(metal.sum()), float(rows.float().mean()), float(columns.float().mean())))
    areas, rows, columns = zip(*found)
    # A few are cut at the bounds; half of the masks are drawn.
    assert 15 < len(areas) <= 60
    assert np.median(areas) == pytest.approx(150, rel=0.4)
    assert 1.45 * 150 < max(areas) < 1.1 * 150 * 1.4**2
    assert min(areas) < 0.65 * 150
    assert np.ptp(rows) > 30
    assert np.ptp(columns) > 30


@pytest.mark.parametrize(("size", "radius"), [(416, 20.0), (416, 5.0), (301, 60.0)])
def test_fitted_shape_keeps_its_part_of_the_slice(size: int, radius: float) -> None:
    row, column = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    disc = torch.hypot(row - 200.3, column - 310.7) < radius
    fitted = fit_shape(disc, size)
    assert fitted.dtype == torch.bool
    assert fitted.shape == (size, size)
    assert int(fitted.sum()) == pytest.approx(int(disc.sum()) * (size / 512) ** 2, rel=0.08)
    middle = [float(i.float().mean() + 0.5) * 512 / size for i in fitted.nonzero(as_tuple=True)]
    assert middle == pytest.approx([200.8, 311.2], abs=0.5)
