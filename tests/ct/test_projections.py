"""Promises of deepgsr_cli.ct.projections, and of ct-recon on DICOM-CT-PD files.

The files are written from analytic line integrals along the rays in three dimensions, as the format's manual
defines them and independent of the module.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, generate_uid
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.ct.projections import FanBeams, find_projections
from deepgsr_cli.errors import InputError, OptionError
from deepgsr_cli.formats.dicom.projections import holds_projections
from deepgsr_cli.formats.dicom.series import find_series
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, attenuation_to_hu
from deepgsr_cli.tomography.geometry import Geometry
from deepgsr_cli.tomography.radon import Radon
from tests.samples import body_hu, ct, saved, saved_slice

FOCUS, REACH = 595.0, 1085.0  # mm
COLUMNS, COLUMN_MM = 96, 3.2
ROW_MM = 4.0
# The manual's coordinates, as rows of the patient's, by PatientPosition: to the right, up, and into the
# gantry, as seen from the table. The rest of the tests is in the patient's: left, back, head.
SEEN = {
    "HFS": ((1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "HFP": ((-1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "HFDR": ((0, 1, 0), (1, 0, 0), (0, 0, 1)),
    "HFDL": ((0, -1, 0), (-1, 0, 0), (0, 0, 1)),
    "FFS": ((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "FFP": ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "FFDR": ((0, -1, 0), (1, 0, 0), (0, 0, -1)),
    "FFDL": ((0, 1, 0), (-1, 0, 0), (0, 0, -1)),
}
# Centre and half axes in mm, and attenuation over water's: an infinite axis makes a cylinder.
Body = tuple[tuple[float, float, float], tuple[float, float, float], float]
WATER: Body = ((0, 0, 0), (60, 60, math.inf), 1.0)
ROD: Body = ((35, -20, 0), (6, 6, math.inf), 0.5)


def integrals(bodies: list[Body], source: np.ndarray, element: np.ndarray) -> np.ndarray:
    """Line integrals from a source, (3,), to elements, (..., 3), in the patient's coordinates."""
    total = np.zeros(element.shape[:-1])
    direction = element - source
    length = np.linalg.norm(direction, axis=-1)
    for centre, axes, value in bodies:
        p, d = (source - centre) / axes, direction / axes
        a, b, c = (d * d).sum(-1), (d * p).sum(-1), (p * p).sum() - 1
        total += value * WATER_ATTENUATION * 2 * np.sqrt((b * b - a * c).clip(min=0)) / a * length
    return total


def write_scan(
    folder: Path,
    bodies: list[Body],
    *,
    views: int = 180,
    turns: float = 1,
    feed: float = 0.0,
    rows: int = 1,
    spots: tuple[tuple[float, float, float], ...] = ((0, 0, 0),),
    position: str = "HFS",
    shape: str = "CYLINDRICAL",
    central: tuple[float, float] | None = None,
    start: float = 0.3,
    sense: int = 1,
    syntax: UID = uids.ImplicitVRLittleEndian,
    transposed: bool = True,
    water: float | None = WATER_ATTENUATION,
    tables: tuple[float, ...] | None = None,
    change: Callable[[Dataset], object] = lambda file: None,
    columns: int = COLUMNS,
) -> Path:
    """Write one file a projection; the heights of the sources are centred on 0.

    The files tell the table positions of `tables`, in mm, one a turn, in the place of those heights. What
    `change` does to the first file, all have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    column_x, row_y = central or ((columns + 1) / 2, (rows + 1) / 2)
    count = round(views * turns)
    seen = np.array(SEEN[position])
    u = (np.arange(1, columns + 1) - column_x) * COLUMN_MM
    angle = u / REACH
    across, depth = REACH * np.sin(angle), REACH * np.cos(angle)
    if shape == "FLAT":
        across, depth = u, np.full(columns, REACH)
    form: Form | None = None
    for k in range(count):
        phi = start + sense * 2 * math.pi * k / views
        z = feed * (k - (count - 1) / 2) / views
        turn, rise, out = spots[k % len(spots)]
        source = (FOCUS + out) * np.array([-math.sin(phi + turn), math.cos(phi + turn), 0]) + (0, 0, z + rise)
        to_isocentre = np.array([math.sin(phi), -math.cos(phi), 0])
        along_columns = np.array([math.cos(phi), math.sin(phi), 0])
        plane = -FOCUS * to_isocentre + depth[:, None] * to_isocentre + across[:, None] * along_columns
        height = z - (np.arange(1, rows + 1) - row_y) * ROW_MM
        element = np.broadcast_to(plane, (rows, columns, 3)).copy()
        element[..., 2] = height[:, None]
        values = integrals(bodies, source @ seen, element @ seen)
        slope = max(float(values.max()), 0.1) / 65535
        stored = np.rint(values / slope)
        pixels = stored.T if transposed else stored
        told_z = z if tables is None else tables[k // views]
        facts = Facts(k + 1, slope, phi, told_z, (turn, rise, out))
        if form is None:
            file = projection(pixels, (rows, columns), facts, syntax.is_implicit_VR)
            file.PatientPosition = position
            private(file, 0x70311033, (column_x, row_y), syntax.is_implicit_VR)
            private(file, 0x7029100B, shape, syntax.is_implicit_VR)
            if water is not None:
                private(file, 0x70411001, f"{water:g}", syntax.is_implicit_VR)
            form = Form(file, facts, syntax, change)
        (folder / f"{k + 1:05}.dcm").write_bytes(form.filled(facts, pixels))
    return folder


@dataclass(frozen=True)
class Facts:
    """What the files of a scan differ in, beside their pixels."""

    number: int
    slope: float
    phi: float
    z: float
    shift: tuple[float, float, float]  # of the focal spot: angle, along the axis, radius

    def texts(self) -> dict[int, str]:
        """Elements of text, as long in every file, by tag."""
        return {0x00200013: f"{self.number:06}", 0x00281053: f"{self.slope:.9e} "}

    def floats(self) -> dict[int, float]:
        """Private elements, by tag."""
        tags = (0x70311001, 0x70311002, 0x7033100B, 0x7033100C, 0x7033100D)
        return dict(zip(tags, (self.phi, self.z, *self.shift)))


class Form:
    """The bytes of a scan's first file; the others differ from it in their facts and pixels alone."""

    def __init__(self, file: Dataset, facts: Facts, syntax: UID, change: Callable[[Dataset], object]) -> None:
        before = {tag: file[tag].value for tag in facts.floats()}
        change(file)
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = syntax
        written = io.BytesIO()
        file.save_as(written, enforce_file_format=True)
        self._head = written.getvalue()[: -len(file.PixelData)]
        self._uid = file.SOPInstanceUID.encode()
        self._places = {tag: self._place(tag) for tag in (*facts.texts(), *before)}
        for tag, value in before.items():
            if file[tag].value != value:
                del self._places[tag]  # as `change` has it

    def _place(self, tag: int) -> int:
        """Where an element's value begins, behind its tag and 4 bytes that hold its length."""
        mark = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        assert self._head.count(mark) == 1
        return self._head.index(mark) + 8

    def filled(self, facts: Facts, pixels: np.ndarray) -> bytes:
        """A file with these facts and pixels, and a UID of its own."""
        head = bytearray(self._head.replace(self._uid, self._uid[:-5] + b"%05d" % facts.number))
        values = {tag: text.encode() for tag, text in facts.texts().items()}
        values |= {tag: struct.pack("<f", value) for tag, value in facts.floats().items()}
        for tag, at in self._places.items():
            head[at : at + len(values[tag])] = values[tag]
        return bytes(head) + pixels.astype("<u2").tobytes()


def projection(pixels: np.ndarray, shape: tuple[int, int], facts: Facts, raw: bool) -> Dataset:
    """A file as the collection at TCIA has them; its private elements without a known VR if they are raw."""
    file = ct(pixels.astype(int), signed=False)
    for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        del file[keyword]
    file.RescaleIntercept = "0"
    for tag, text in facts.texts().items():
        file[tag].value = text
    private(file, 0x70291010, shape[0], raw)
    private(file, 0x70291011, shape[1], raw)
    constants = {0x70291002: COLUMN_MM, 0x70291006: ROW_MM, 0x70311003: FOCUS, 0x70311031: REACH}
    for tag, value in (constants | facts.floats()).items():
        private(file, tag, float(value), raw)
    return file


def private(file: Dataset, tag: int, value: object, raw: bool) -> None:
    if isinstance(value, str):
        file.add_new(
            tag, "UN" if raw else "DS" if tag == 0x70411001 else "CS", value.encode() if raw else value
        )
    elif isinstance(value, int):
        file.add_new(tag, "UN" if raw else "US", struct.pack("<H", value) if raw else value)
    else:
        numbers = list(value) if isinstance(value, tuple) else [value]
        file.add_new(
            tag, "UN" if raw else "FL", struct.pack(f"<{len(numbers)}f", *numbers) if raw else numbers
        )


def scan_of(folder: Path) -> FanBeams:
    scans, failures = find_projections(folder)
    assert not failures
    assert len(scans) == 1
    return scans[0]


def along_rays(bodies: list[Body], geometry: Geometry) -> np.ndarray:
    """Line integrals, (V, N), along a geometry's rays, whose y is up and so the patient's down."""
    theta = np.array(geometry.angles_rad)[:, None]
    turned = theta - geometry.fan_angles_rad()
    source = geometry.source_mm * np.stack([np.sin(theta), np.cos(theta), 0 * theta], -1)
    far = source + 2000 * np.stack([-np.sin(turned), -np.cos(turned), 0 * turned], -1)
    return np.stack([integrals(bodies, at[0], ends) for at, ends in zip(source, far)])


def reconstructed(scan: FanBeams, i: int = 0) -> tuple[np.ndarray, float]:
    """HU, (128, 128), of a slice, and its pixel size in mm."""
    geometry, y = scan.fan_beam(i)
    geometry = replace(geometry, shape=(128, 128), pixel_mm=(4 * geometry.pixel_mm[0],) * 2)
    x = Radon(geometry).fbp(torch.from_numpy(y)[None, None], "hann")
    return attenuation_to_hu(x)[0, 0].numpy(), geometry.pixel_mm[0]


def mean_hu(hu: np.ndarray, pixel_mm: float, x: float, y: float, radius: float = 4) -> float:
    """Mean around a place in the patient's coordinates, in a slice as DICOM shows it."""
    grid = (np.arange(len(hu)) - (len(hu) - 1) / 2) * pixel_mm
    return float(hu[np.hypot(grid[None] - x, grid[:, None] - y) < radius].mean())


# Axial


@pytest.mark.parametrize("shape", ["CYLINDRICAL", "FLAT", "SPHERICAL"])
@pytest.mark.parametrize("position", ["HFS", "FFS"])
def test_the_sinogram_of_a_single_row_is_the_analytic_one(tmp_path, shape, position):
    bodies: list[Body] = [((8, -20, 0), (11, 7, math.inf), 0.5)]
    central = (COLUMNS / 2 + 1.625, 1.0)
    folder = write_scan(tmp_path / "scan", bodies, views=30, shape=shape, position=position, central=central)
    geometry, y = scan_of(folder).fan_beam(0)
    np.testing.assert_allclose(y, along_rays(bodies, geometry), atol=1e-5)
    assert geometry.kind == ("fan-flat" if shape == "FLAT" else "fan-arc")
    assert y.max() > 0.1


@pytest.mark.parametrize("syntax", [uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian])
@pytest.mark.parametrize("transposed", [True, False])
def test_every_way_to_write_the_elements_reads_the_same(tmp_path, syntax, transposed):
    other = write_scan(tmp_path / "a", [WATER, ROD], views=12, rows=2)
    folder = write_scan(tmp_path / "b", [WATER, ROD], views=12, rows=2, syntax=syntax, transposed=transposed)
    np.testing.assert_array_equal(scan_of(folder).fan_beam(0)[1], scan_of(other).fan_beam(0)[1])


@pytest.mark.parametrize("position", list(SEEN))
def test_water_is_0_hu_and_a_rod_is_where_it_was(tmp_path, position):
    folder = write_scan(
        tmp_path / "scan", [WATER, ROD], views=90, rows=2, position=position, central=(47.2, 1.5)
    )
    hu, pixel_mm = reconstructed(scan_of(folder))
    assert abs(mean_hu(hu, pixel_mm, 0, 0, 20)) < 3
    assert abs(mean_hu(hu, pixel_mm, 35, -20) - 500) < 25
    for x, y in ((-35, -20), (35, 20), (-35, 20)):
        assert abs(mean_hu(hu, pixel_mm, x, y)) < 15


def test_an_axial_scan_gives_a_slice_a_table_position(tmp_path):
    folder = write_scan(tmp_path / "scan", [WATER, ROD], views=60, turns=2, rows=4, tables=(7.0, -3.0))
    scan = scan_of(folder)
    assert not scan.helical
    assert scan.z_mm == pytest.approx((-3, 7))
    np.testing.assert_allclose(scan.fan_beam(0)[1], scan.fan_beam(1)[1], atol=1e-4)
    assert scan.fan_beam(0)[0].num_views == 60


# Helical

SPOTS_Z = ((0.0, 0.6, 4.0), (0.0, -0.6, -4.0))
SPOTS_XY = ((0.0009, 0.0, 0.0), (-0.0009, 0.0, 0.0))
SPHERE: Body = ((20, 30, 5), (8, 8, 8), 1.0)


@pytest.mark.parametrize(
    ("position", "feed", "sense", "spots"),
    [
        ("HFS", 12.0, 1, ((0.0, 0.0, 0.0),)),
        ("HFS", -12.0, -1, SPOTS_Z),
        ("FFS", 12.0, 1, SPOTS_Z + SPOTS_XY),
        ("FFS", -12.0, 1, SPOTS_XY),
    ],
)
def test_a_helical_scan_is_rebinned_to_slices(tmp_path, position, feed, sense, spots):
    folder = write_scan(
        tmp_path / "scan",
        [WATER, ROD, SPHERE],
        views=60,
        turns=2.2,
        feed=feed,
        sense=sense,
        rows=8,
        spots=spots,
        position=position,
    )
    scan = scan_of(folder)
    assert scan.helical
    assert scan.num_spots == len(spots)
    assert scan.z_mm == tuple(sorted(scan.z_mm))
    assert np.diff(scan.z_mm) == pytest.approx(ROW_MM * FOCUS / REACH, rel=1e-5)
    nearest = int(np.abs(np.array(scan.z_mm) - 5).argmin())
    hu, pixel_mm = reconstructed(scan, nearest)
    assert abs(mean_hu(hu, pixel_mm, -20, -20, 15)) < 6
    assert abs(mean_hu(hu, pixel_mm, 35, -20) - 500) < 30
    assert mean_hu(hu, pixel_mm, 20, 30, 3) > 800
    away, _ = reconstructed(scan, 0)
    assert scan.z_mm[0] < -6
    assert abs(mean_hu(away, pixel_mm, 20, 30, 3)) < 60


FLYING = {
    "none": ((0.0, 0.0, 0.0),),
    "z": SPOTS_Z,
    "xy": SPOTS_XY,
    "far": ((0.0, 0.0, 60.0), (0.0, 0.0, -60.0)),
    "xyz": ((0.003, 0.6, 4.0), (-0.003, 0.6, 4.0), (0.003, -0.6, -4.0), (-0.003, -0.6, -4.0)),
}


@pytest.mark.parametrize("position", ["HFS", "FFS"])
@pytest.mark.parametrize("name", list(FLYING))
def test_a_flying_focal_spot_is_followed(tmp_path, name, position):
    # Where the cylinder's chords are smooth, only the interpolation errs; a spot that flies and is taken for
    # resting errs by 0.008, 0.013 and 0.052 of 1.7.
    bodies: list[Body] = [((15, -10, 0), (45, 45, math.inf), 1.0)]
    views, spots = (180 if name == "far" else 90), FLYING[name]
    folder = write_scan(
        tmp_path / "scan", bodies, views=views, turns=1.2, feed=12, rows=8, spots=spots, position=position
    )
    geometry, y = scan_of(folder).fan_beam(0)
    expected = along_rays(bodies, geometry)
    inside = expected > 0.6 * expected.max()
    assert np.abs(y - expected)[inside].max() < (3e-5 if name == "none" else 2e-3)


def test_rays_of_a_spot_that_flies_along_the_axis_meet_the_slice_on_it(tmp_path):
    bodies: list[Body] = [((0, 0, 10), (20, 20, 20), 1.0)]
    spots = ((0.0, 5.0, 0.0), (0.0, -5.0, 0.0))
    geometry, y = scan_of(write_scan(tmp_path / "scan", bodies, views=40, rows=8, spots=spots)).fan_beam(0)
    expected = along_rays(bodies, geometry)
    inside = expected > 0.6 * expected.max()
    # The rays of one spot alone, taken for those of a resting one, err by 0.07 of the largest.
    assert np.abs(y - expected)[inside].max() < 0.01 * expected.max()


def test_a_scan_of_high_pitch_takes_the_part_of_a_turn_that_the_rows_see(tmp_path):
    covered = 8 * ROW_MM * FOCUS / REACH
    folder = write_scan(tmp_path / "scan", [WATER, ROD], views=60, turns=1.5, feed=1.3 * covered, rows=8)
    scan = scan_of(folder)
    assert 0.6 < scan.turn_share < 0.8
    hu, pixel_mm = reconstructed(scan, scan.num_slices // 2)
    assert abs(mean_hu(hu, pixel_mm, 0, 0, 20)) < 6
    assert abs(mean_hu(hu, pixel_mm, 35, -20) - 500) < 30
    write_scan(tmp_path / "fast", [WATER], turns=1.5, feed=2 * covered, rows=8, views=60)
    _, failures = find_projections(tmp_path / "fast")
    assert "the rows see a slice during" in str(failures[0])


# Fewer views


def test_fewer_views_are_evenly_spaced_projections_of_one_focal_spot(tmp_path):
    folder = write_scan(tmp_path / "scan", [WATER], turns=2, feed=12, rows=8, spots=SPOTS_Z, views=90)
    scan = scan_of(folder).thinned(30)
    geometry, _ = scan.fan_beam(scan.num_slices // 2)
    assert geometry.num_views == 30
    assert scan.num_spots == 1
    assert not scan.notes
    steps = np.diff(np.unwrap(geometry.angles_rad))
    assert np.abs(steps - 2 * np.pi / 30).max() < 2 * np.pi / 45
    with pytest.raises(OptionError, match=r"num_views is 91: .* 90 a turn"):
        scan_of(folder).thinned(91)


def test_a_scan_goes_to_another_process_without_its_pixels(tmp_path):
    scan = scan_of(write_scan(tmp_path / "scan", [WATER], views=20))
    _, y = scan.fan_beam(0)
    sent = pickle.dumps(scan)
    assert len(sent) < 40_000
    np.testing.assert_array_equal(pickle.loads(sent).fan_beam(0)[1], y)


# Files that are not as they should be


def test_a_missing_element_is_named(tmp_path):
    def without(file: Dataset) -> None:
        del file[0x7031, 0x1031]

    _, failures = find_projections(write_scan(tmp_path / "scan", [WATER], views=3, change=without))
    assert len(failures) == 3
    assert "lacks ConstantRadialDistance (7031,1031)" in str(failures[0])


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    locked, listed = tmp_path / "locked", os.scandir
    locked.mkdir()

    def refusing(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    scans, failures = find_projections(tmp_path)
    assert scans == []
    assert [str(failure) for failure in failures] == [
        f"{locked}: cannot be listed, Permission denied; change its mode"
    ]


def test_missing_and_broken_projections_are_told_and_the_rest_is_used(tmp_path):
    folder = write_scan(tmp_path / "scan", [WATER, ROD])
    for number in (21, 22, 23):
        (folder / f"{number:05}.dcm").unlink()
    broken = folder / "00051.dcm"
    broken.write_bytes(broken.read_bytes()[:-100])
    scans, failures = find_projections(folder)
    assert [str(error).split(":")[0] for error in failures] == [str(broken)]
    assert "cut short" in str(failures[0])
    (scan,) = scans
    assert "4 projections are missing, the first between InstanceNumber 20 and 24" in scan.notes[0]
    hu, pixel_mm = reconstructed(scan)
    assert abs(mean_hu(hu, pixel_mm, 0, 0, 20)) < 6


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        (0x70391009, "NO", "LogFlag is NO"),
        (0x7029100B, "CUBE", "DetectorShape is CUBE"),
        (0x70411001, "0.192", "WaterAttenuationCoefficient is 0.192"),
        (0x70311003, -1.0, "DetectorFocalCenterRadialDistance is -1 mm"),
        (0x70311001, math.nan, "DetectorFocalCenterAngularPosition is not 1 finite number"),
    ],
)
def test_impossible_elements_are_one_sentence(tmp_path, tag, value, words):
    def wrong(file: Dataset) -> None:
        private(file, tag, value, raw=True)

    scans, failures = find_projections(write_scan(tmp_path / "scan", [WATER], views=3, change=wrong))
    assert not scans
    assert words in str(failures[0])


def test_images_are_no_projections_and_both_together_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    saved(ct(np.zeros((8, 8), int)), tmp_path / "images/1.dcm")
    (tmp_path / "images/notes.txt").write_text("no DICOM")
    assert not holds_projections(tmp_path)
    write_scan(tmp_path / "scan", [WATER], views=2)
    assert holds_projections(tmp_path / "scan")
    with pytest.raises(InputError, match=r"holds projections, in .*scan, and images, in .*images"):
        holds_projections(tmp_path)


def test_scans_of_two_series_are_told_apart(tmp_path):
    for name in ("a", "b"):

        def series(file: Dataset, name: str = name) -> None:
            file.SeriesInstanceUID = generate_uid(entropy_srcs=[name])

        write_scan(tmp_path / name, [WATER], views=20, change=series)
    scans, failures = find_projections(tmp_path)
    assert not failures
    assert [scan.views_per_turn for scan in scans] == [20, 20]


def test_one_projection_is_no_scan(tmp_path):
    folder = write_scan(tmp_path / "scan", [WATER], views=5, turns=0.2)
    _, failures = find_projections(folder)
    assert "of one angle, which is no CT scan" in str(failures[0])


# The command


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command line in this process, in an empty folder, on the CPU."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object):
        return CliRunner().invoke(
            app, ["ct-recon", *map(str, arguments), "--device", "cpu", "--method", "fbp"]
        )

    return invoke


def test_a_folder_of_projections_becomes_a_derived_series(run, tmp_path):
    def stated(file: Dataset) -> None:
        file.ReconstructionDiameter = "150"

    write_scan(
        tmp_path / "scan", [WATER, ROD], views=60, turns=1.5, feed=10, rows=8, water=0.02, change=stated
    )
    result = run("scan", "-o", "out", "--json")
    assert result.exit_code == 0, result.output
    assert "measured DICOM-CT-PD projections, helical, 60 views a turn, 8 rows" in result.stderr
    assert "water 0.02 /mm" in result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(line["scan"] == "measured" and line["views"] == 60 for line in lines)
    slices = [pydicom.dcmread(line["output"]) for line in lines]
    assert len(slices) == scan_of(tmp_path / "scan").num_slices > 1
    assert len({slice.SeriesInstanceUID for slice in slices}) == 1
    assert len({slice.SOPInstanceUID for slice in slices}) == len(slices)
    assert slices[0].PatientName == "Doe^Jane"
    assert slices[0].ImageType[0] == "DERIVED"
    assert slices[0].Rows == 512
    positions = [float(slice.ImagePositionPatient[2]) for slice in slices]
    assert positions == pytest.approx(scan_of(tmp_path / "scan").z_mm, abs=1e-3)
    assert not any(element.tag.is_private for element in slices[0])
    middle = slices[len(slices) // 2]
    hu = middle.pixel_array * float(middle.RescaleSlope) + float(middle.RescaleIntercept)
    spacing = float(middle.PixelSpacing[0])
    assert spacing == pytest.approx(150 / 512)
    assert middle.ImagePositionPatient[0] == pytest.approx(-511 / 2 * spacing, abs=1e-3)
    # By the files' coefficient the cylinder of our water is at -40 HU.
    assert abs(mean_hu(hu, spacing, -20, -20, 15) - -40) < 8


def test_projections_can_be_resumed_thinned_and_written_as_arrays(run, tmp_path):
    write_scan(tmp_path / "scan", [WATER], views=60, turns=1.5, feed=10, rows=8, water=None)
    result = run("scan", "-o", "out", "--views", 20, "--format", "npy", "--json")
    assert result.exit_code == 0, result.output
    assert "20 of 60 views a turn" in result.stderr
    assert "attenuation of water is not in the files" in result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(abs(line["views"] - 20) <= 1 for line in lines)
    assert np.load(lines[0]["output"]).shape == (512, 512)
    Path(lines[0]["output"]).unlink()
    again = run("scan", "-o", "out", "--views", 20, "--format", "npy", "--json", "--skip-existing")
    statuses = [json.loads(line)["status"] for line in again.stdout.splitlines()]
    assert statuses == ["done"] + ["skipped"] * (len(lines) - 1)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--geometry", "scan.toml"), 2, "projections have their geometry"),
        (("--views", 100), 2, "--views 100"),
        (("-o", "scan"), 2, "give another -o"),
        (("other.npy",), 2, "do not go together"),
    ],
)
def test_wrong_use_of_projections_is_one_sentence(run, tmp_path, options, code, words):
    write_scan(tmp_path / "scan", [WATER], views=30)
    np.save("other.npy", np.zeros((3, 3)))
    result = run("scan", "-o", "out", *options)
    assert result.exit_code == code, result.output
    assert words in result.stderr


def test_metal_is_not_taken_out_of_projections(tmp_path):
    write_scan(tmp_path / "scan", [WATER], views=3)
    result = CliRunner().invoke(app, ["mar", str(tmp_path / "scan"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "reconstruct them first, with ct-recon" in result.stderr


def test_projections_beside_other_files_are_no_slices(run, tmp_path):
    scan = write_scan(tmp_path / "scan", [WATER], views=12)
    report = ct(np.zeros((2, 2)), SOPClassUID=uids.XRayRadiationDoseSRStorage, Modality="SR", PixelData=None)
    del report.Rows
    saved(report, scan / "00000.dcm")
    result = run("scan", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "measured DICOM-CT-PD projections, axial, 12 views a turn" in result.stderr
    (scan / "00000.dcm").unlink()
    saved_slice(scan / "00000.dcm", body_hu())
    found = find_series(scan, pixel_mm=(1.0, 1.0))
    assert [len(series.slices) for series in found.series] == [1]
    assert len(found.skipped) == 12
    assert "is a DICOM-CT-PD projection and no slice; give the folder of all" in str(found.skipped[0])
