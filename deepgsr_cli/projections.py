"""Measured projections in DICOM-CT-PD, one file a projection, as fan beams of the slices of the scan.

The format has the geometry in private elements. Its coordinates are seen from the patient's table towards
the gantry: x to the right, y up, z into the gantry. At angle phi, counter-clockwise from 12 o'clock, the
source is at (-rho sin phi, rho cos phi); with the detector at 6 o'clock, column 1 is the leftmost and row 1
the farthest. PatientPosition says how these are the patient's coordinates.

A slice is rebinned from the rows that its rays lie nearest to: each ray of the fan is taken from the measured
cone beam's ray above it that meets the slice where both pass the axis of rotation nearest. That is exact for
what does not change along the axis, and else errs the more, the larger cone angle and pitch are.

Sources:
    Chen et al., Technical note: Development and validation of an open data format for CT projection data,
    Medical Physics 42(12), 2015, and the DICOM-CT-PD user manual, version 3, 2020; the reading of its
    coordinates is that of helix2fan (Wagner et al., 2022) and PyTomography.
    Noo, Defrise, Clackdoyle, Single-slice rebinning method for helical cone-beam CT, Physics in Medicine and
    Biology 44, 1999.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import generate_uid

from deepgsr_cli.dicom import files_below
from deepgsr_cli.errors import InputError, UsageError
from deepgsr_cli.geometry import Geometry

SIZE = 512  # rows and columns of the slices

# Decoded projections kept for the next slice: a turn of 2304 views by 736 x 64 elements.
_CACHE_BYTES = 2**28
# Two focal spots closer than this, in rad and mm, are one.
_SAME_ANGLE, _SAME_MM = 1e-5, 1e-2
# Flying focal spots have up to four positions; more is jitter.
_MOST_SPOTS = 8
# 1/mm at the energies of CT; a value in 1/cm is far beyond.
_WATER_RANGE = (0.01, 0.04)

_NATIVE = (uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian)
_ANGLE = (0x7031, 0x1001)
_TAGS = {
    "NumberofDetectorRows": (0x7029, 0x1010),
    "NumberofDetectorColumns": (0x7029, 0x1011),
    "DetectorElementTransverseSpacing": (0x7029, 0x1002),
    "DetectorElementAxialSpacing": (0x7029, 0x1006),
    "DetectorShape": (0x7029, 0x100B),
    "DetectorFocalCenterAngularPosition": _ANGLE,
    "DetectorFocalCenterAxialPosition": (0x7031, 0x1002),
    "DetectorFocalCenterRadialDistance": (0x7031, 0x1003),
    "ConstantRadialDistance": (0x7031, 0x1031),
    "DetectorCentralElement": (0x7031, 0x1033),
    "SourceAngularPositionShift": (0x7033, 0x100B),
    "SourceAxialPositionShift": (0x7033, 0x100C),
    "SourceRadialDistanceShift": (0x7033, 0x100D),
    "SpectrumIndex": (0x7033, 0x1063),
    "LogFlag": (0x7039, 0x1009),
    "WaterAttenuationCoefficient": (0x7041, 0x1001),
}
_SHAPES = {"CYLINDRICAL": "fan-arc", "SPHERICAL": "fan-arc", "FLAT": "fan-flat"}
# Turn of the patient about the axis, from supine, counter-clockwise as the picture of a slice shows it.
_TURNS = {"S": 0.0, "P": math.pi, "DR": -math.pi / 2, "DL": math.pi / 2}
# Elements of the projections that hold for the slices too.
_CARRIED = """
    SpecificCharacterSet PatientName PatientID PatientBirthDate PatientSex PatientAge PatientWeight
    PatientIdentityRemoved DeidentificationMethod StudyInstanceUID StudyID StudyDate StudyTime
    StudyDescription AccessionNumber ReferringPhysicianName SeriesInstanceUID SeriesNumber
    SeriesDescription FrameOfReferenceUID PositionReferenceIndicator Manufacturer ManufacturerModelName
    InstitutionName BodyPartExamined ProtocolName PatientPosition AcquisitionNumber AcquisitionDate
    AcquisitionTime TimezoneOffsetFromUTC KVP XRayTubeCurrent ExposureTime ContrastBolusAgent
    DataCollectionDiameter ReconstructionDiameter SpiralPitchFactor
"""


@dataclass(frozen=True)
class Detector:
    """What all projections of a scan have in common.

    Attributes:
        kind: "fan-arc" or "fan-flat".
        num_rows: Along the axis of rotation.
        num_columns: Around it.
        row_mm: Distance of two rows, on the detector.
        column_mm: Distance of two columns, on the detector.
        central_row: Row that faces the isocentre from the focal centre, from 0.
        central_column: Column that does, from 0.
        focus_mm: Distance from the focal centre, the source unless it flies, to the isocentre.
        reach_mm: Distance from the focal centre to the detector.
    """

    kind: str
    num_rows: int
    num_columns: int
    row_mm: float
    column_mm: float
    central_row: float
    central_column: float
    focus_mm: float
    reach_mm: float

    @property
    def row_at_isocentre_mm(self) -> float:
        """Distance of two rows, seen at the isocentre."""
        return self.row_mm * self.focus_mm / self.reach_mm

    def fan_angles_rad(self) -> np.ndarray:
        """Angles of the columns' rays, (N,), to the central one."""
        position = (np.arange(self.num_columns) - self.central_column) * self.column_mm / self.reach_mm
        return position if self.kind == "fan-arc" else np.arctan(position)

    def heights_per_offset(self, fan: np.ndarray) -> np.ndarray:
        """Height on the detector, over the height at the ray's point nearest to the axis."""
        along = self.reach_mm if self.kind == "fan-arc" else self.reach_mm / np.cos(fan)
        return along / (self.focus_mm * np.cos(fan))


@dataclass(frozen=True)
class _View:
    """One file: where its pixels are from, and where its source was."""

    path: Path
    number: int
    series: str
    detector: Detector
    position: str
    angle: float
    z_mm: float
    shift: tuple[float, float, float]  # of the source from the focal centre: rad, mm along z, mm outwards
    slope: float
    intercept: float


class _Pixels:
    """Reads stored values, and keeps `_CACHE_BYTES` of those asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, np.ndarray] = OrderedDict()

    def __call__(self, path: Path, shape: tuple[int, int]) -> np.ndarray:
        """Stored values, (rows, columns) of the detector.

        Raises:
            InputError: The file cannot be read, or has another shape.
        """
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = pydicom.dcmread(path).pixel_array
        except Exception as error:  # anything, on hostile bytes
            raise InputError(
                f"{path}: the pixel data are missing, damaged or cut short; copy or export it again"
            ) from error
        if pixels.shape not in (shape, shape[::-1]):
            raise InputError(f"{path}: is {pixels.shape} now; give the folder again")
        # As the collection at TCIA has them, a row of the picture is a column of the detector.
        pixels = pixels.T if pixels.shape == shape[::-1] else pixels
        self._kept[path] = pixels
        while len(self._kept) > 1 and len(self._kept) * pixels.nbytes > _CACHE_BYTES:
            self._kept.popitem(last=False)
        return pixels


class Projections:
    """One scan, axial or helical, in DICOM-CT-PD files.

    Reads no pixels before a slice is asked for, and keeps 256 MiB of them for the next.

    Attributes:
        folder: Where the files are.
        header: What holds for the slices too: patient, study, equipment.
        detector: The detector.
        water_attenuation: In 1/mm, for the spectrum of the scan; None if the files do not say.
        views_per_turn: Projections a turn.
        helical: Whether the table moved during the turns.
        feed_mm: Distance the table moved in a turn; 0 for axial scans.
        turn_share: Share of a turn around each slice that the rows cover; 1 for axial scans.
        num_spots: Positions of the focal spot; 1 if it rests.
        diameter_mm: Of the field that every view sees.
        reconstruction_mm: Of the field the scanner reconstructed, where the files say so.
        z_mm: Where the slices are in the patient's coordinates, ascending.
        spacing_mm: Distance of two rows at the isocentre, and of two slices of a helical scan.
        notes: What the user should know, one sentence each.
    """

    def __init__(
        self, folder: Path, views: list[_View], header: Dataset, water: float | None, pixels: _Pixels
    ) -> None:
        """
        Args:
            folder: Where the files are.
            views: The files, in any order.
            header: As the attribute.
            water: As `water_attenuation`.
            pixels: Reads them; scans may share it.

        Raises:
            InputError: They are not a scan that slices can be reconstructed from.
        """
        self.folder, self.header, self.water_attenuation = folder, header, water
        self.notes: list[str] = []
        self._chosen_from = 0
        self._views = sorted(views, key=lambda view: (view.number, view.path))
        self.detector = self._views[0].detector
        self._pixels = pixels
        self._orient(self._views[0].position)
        self._locate()
        self._place_slices()

    def _orient(self, position: str) -> None:
        """How the coordinates of the format are the patient's."""
        if position[:2] not in ("HF", "FF") or position[2:] not in _TURNS:
            self.notes.append(
                f"{self.folder}: PatientPosition is {position or 'not given'}; head first supine is taken"
            )
            position = "HFS"
        self._head_first, self._turn = position[:2] == "HF", _TURNS[position[2:]]

    def _locate(self) -> None:
        """Angles, heights and distances of focal centres and sources."""
        views = self._views
        numbers = np.array([view.number for view in views])
        if len(views) < 3 or len(np.unique(numbers)) < len(numbers):
            numbers = np.arange(len(views))
        phi = np.array([view.angle for view in views])
        strides = np.diff(numbers)
        stride = np.median(strides) if len(strides) else 1
        turns = _wrapped(np.diff(phi))
        step = float(np.median(turns[strides == stride])) if len(turns) else 0.0
        if abs(step) < 1e-6:
            raise InputError(
                f"{self.folder}: its {len(views)} projections are of one angle, which is no CT scan; give the"
                " folder with all projections"
            )
        expected = step * strides / stride
        phi = phi[0] + np.concatenate(([0.0], np.cumsum(expected + _wrapped(np.diff(phi) - expected))))
        mean_step = (phi[-1] - phi[0]) / (numbers[-1] - numbers[0]) * stride
        self.views_per_turn = round(2 * math.pi / abs(mean_step))
        gaps = np.flatnonzero(strides > stride)
        if len(gaps):
            missing = round(float((strides[gaps] / stride - 1).sum()))
            where = f"between InstanceNumber {numbers[gaps[0]]} and {numbers[gaps[0] + 1]}"
            self.notes.append(
                f"{self.folder}: {missing} projection{'s are' if missing > 1 else ' is'} missing,"
                f" {'the first ' if len(gaps) > 1 else ''}{where}; slices there are made of the others"
            )
        shift = np.array([view.shift for view in views])
        self._focus_z = np.array([view.z_mm for view in views])
        self._source_z = self._focus_z + shift[:, 1]
        self._source_mm = self.detector.focus_mm + shift[:, 2]
        sense = 1 if self._head_first else -1
        self._focus_angle = math.pi + sense * phi + self._turn
        self._source_angle = self._focus_angle + sense * shift[:, 0]
        rounded = np.rint(shift / (_SAME_ANGLE, _SAME_MM, _SAME_MM))
        spots, self._spot = np.unique(rounded, axis=0, return_inverse=True)
        self._spot = self._spot.ravel()  # numpy 2.0 returned a column
        self.num_spots = len(spots)
        if self.num_spots > _MOST_SPOTS:
            self.num_spots, self._spot = 1, np.zeros(len(views), int)
        self._of_spot = [np.flatnonzero(self._spot == spot) for spot in range(self.num_spots)]
        self._steps = [
            float(np.median(np.diff(self._source_angle[of]))) if len(of) > 1 else 0.0 for of in self._of_spot
        ]

    def _place_slices(self) -> None:
        """Whether the scan is helical, and where its slices are."""
        detector, z = self.detector, self._focus_z
        spacing = detector.row_at_isocentre_mm
        quarter = max(1, self.views_per_turn // 4)
        moved = np.abs(z[quarter:] - z[:-quarter]) if len(z) > quarter else np.zeros(1)
        self.helical = bool(np.median(moved) > spacing / 10)
        self.feed_mm, self.turn_share = 0.0, 1.0
        if self.helical:
            self._place_on_helix(spacing)
        else:
            starts = np.concatenate(([0], np.flatnonzero(np.abs(np.diff(z)) > spacing / 10) + 1, [len(z)]))
            runs = [range(a, b) for a, b in pairwise(starts) if b - a >= quarter]
            self._runs = sorted(runs, key=lambda run: self._patient_z(z[run[0]]))
            if not runs:
                raise InputError(
                    f"{self.folder}: nowhere are there projections of a quarter turn; give all of the scan"
                )
            self._z = np.array([z[run].mean() for run in self._runs])
        self.spacing_mm = spacing
        self.z_mm = tuple(float(self._patient_z(at)) for at in self._z)
        fan = np.abs(detector.fan_angles_rad()[[0, -1]]).min()
        self.diameter_mm = 2 * detector.focus_mm * math.sin(fan)
        stated = float(self.header.get("ReconstructionDiameter") or 0)
        self.reconstruction_mm = stated if stated > 0 else None

    def _place_on_helix(self, spacing: float) -> None:
        detector, z = self.detector, self._focus_z
        if detector.num_rows < 2:
            raise InputError(
                f"{self.folder}: a helical scan by one row, which is not supported; give one by several rows"
            )
        self.feed_mm = abs(float(np.polyfit(self._focus_angle, z, 1)[0])) * 2 * math.pi
        fan = detector.fan_angles_rad()
        half_rows = min(detector.central_row, detector.num_rows - 1 - detector.central_row) + 0.5
        reach = half_rows * detector.row_mm / float(detector.heights_per_offset(fan).max())
        self.turn_share = min(1.0, 2 * reach / self.feed_mm)
        needed = 0.5 + float(np.abs(fan).max()) / math.pi
        if self.turn_share < needed:
            raise InputError(
                f"{self.folder}: the table moves {self.feed_mm:.1f} mm a turn, so the rows see a slice during"
                f" {self.turn_share:.2f} turns, and {needed:.2f} are needed; rebin it by an exact method"
            )
        half_mm = self.turn_share * self.feed_mm / 2
        step_mm = self.feed_mm / self.views_per_turn  # a view stands for the angles around it
        low, high = z.min() + half_mm - step_mm / 2, z.max() - half_mm + step_mm / 2
        count = math.floor((high - low) / spacing + 1e-6) + 1
        if count < 1:
            turns = (z.max() - z.min()) / self.feed_mm
            raise InputError(
                f"{self.folder}: the projections are of {turns:.2f} turns, and a slice takes"
                f" {self.turn_share:.2f}; give the folder with all projections"
            )
        first = (low + high - (count - 1) * spacing) / 2
        self._z = first + spacing * np.arange(count)
        if not self._head_first:
            self._z = self._z[::-1]

    def _patient_z(self, z: float) -> float:
        return z if self._head_first else -z

    @property
    def num_slices(self) -> int:
        """Slices that can be reconstructed, `spacing_mm` apart in a helical scan."""
        return len(self.z_mm)

    @property
    def views_text(self) -> str:
        """Views a turn, and of how many they are chosen."""
        chosen = f"{self.views_per_turn} of " if self._chosen_from else ""
        return f"{chosen}{self._chosen_from or self.views_per_turn} views a turn"

    def describe(self) -> str:
        """The scan in a few words."""
        detector = self.detector
        text = f"{'helical' if self.helical else 'axial'}, {self.views_text}"
        text += f", {detector.num_rows} row{'s' if detector.num_rows > 1 else ''}"
        text += f", {self.num_spots} focal spots" if self.num_spots > 1 else ""
        if self.helical:
            pitch = self.feed_mm / (detector.num_rows * detector.row_at_isocentre_mm)
            text += f", pitch {pitch:.2f}, slices {self.spacing_mm:.2f} mm apart by single-slice rebinning"
            if self.turn_share < 1:
                text += f" of {self.turn_share:.2f} turns"
        elif detector.num_rows > 1:
            text += ", of which the central are reconstructed"
        return text

    def thinned(self, num_views: int) -> Projections:
        """The scan of about `num_views` of its projections each turn, evenly spaced, as if they were all.

        They are of one focal spot, if it has so many.

        Raises:
            UsageError: A turn has fewer.
            InputError: The projections are not evenly spaced.
        """
        if num_views > self.views_per_turn:
            raise UsageError(
                f"--views {num_views}: the projections in {self.folder} are {self.views_per_turn} a turn;"
                " give as many or fewer, or leave it out for all"
            )
        steps = np.abs(np.diff(self._focus_angle))
        typical = np.median(steps)
        if np.mean(np.abs(steps - typical) > typical / 5) > 0.1:
            raise InputError(
                f"{self.folder}: its projections are not evenly spaced, and --views cannot choose from them;"
                " leave it out"
            )
        chosen = np.arange(len(self._views))
        if num_views <= self.views_per_turn // self.num_spots:
            chosen = chosen[self._spot == np.bincount(self._spot).argmax()]
        travelled = np.abs(self._source_angle[chosen] - self._source_angle[chosen[0]])
        wanted = np.arange(0, travelled[-1] + 1e-9, 2 * math.pi / num_views)
        nearest = np.searchsorted(travelled, wanted).clip(max=len(chosen) - 1)
        before = (nearest - 1).clip(0)
        nearest = np.where(wanted - travelled[before] < travelled[nearest] - wanted, before, nearest)
        # Numbered anew: none of these is missing.
        views = [replace(self._views[i], number=k) for k, i in enumerate(chosen[np.unique(nearest)])]
        thin = Projections(self.folder, views, self.header, self.water_attenuation, self._pixels)
        thin.notes, thin._chosen_from = self.notes, self.views_per_turn
        return thin

    def nearest_file(self, i: int) -> Path:
        """The projection whose source is nearest to slice i: no two slices have the same."""
        if not self.helical:
            return self._views[self._runs[i][0]].path
        return self._views[int(np.abs(self._focus_z - self._z[i]).argmin())].path

    def fan_beam(self, i: int, diameter_mm: float | None = None) -> tuple[Geometry, np.ndarray]:
        """Geometry of slice i, 512 x 512 pixels, and its sinogram, (V, N), float32, line integrals.

        The views are the projections at their source's true angles. Rays of a source that is displaced along
        the radius, as flying focal spots are, are those of a source at the mean distance at other angles and
        bins: they are interpolated linearly between the bins, and between the views of the same spot.

        Args:
            i: From 0.
            diameter_mm: Side of the slice; None for the diameter of the field that all views see.

        Raises:
            InputError: A file cannot be read.
        """
        detector = self.detector
        if self.helical:
            centre = float(np.interp(self._z[i], *self._angle_by_z()))
            distance = self._source_angle - centre
            half = self.turn_share * math.pi
            chosen = np.flatnonzero((distance >= -half - 1e-6) & (distance < half - 1e-6))
        else:
            chosen = np.array(self._runs[i])
        nominal_mm = float(self._source_mm.mean())
        pixel_mm = (self.diameter_mm if diameter_mm is None else diameter_mm) / SIZE
        centre_bin = detector.central_column
        if self._head_first:  # bins are counted as the slice is seen, from the patient's feet
            centre_bin = detector.num_columns - 1 - centre_bin
        geometry = Geometry(
            kind=detector.kind,
            shape=(SIZE, SIZE),
            pixel_mm=(pixel_mm, pixel_mm),
            num_bins=detector.num_columns,
            bin_mm=detector.column_mm,
            angles_rad=tuple(self._source_angle[chosen]),
            source_mm=nominal_mm,
            detector_mm=detector.reach_mm - nominal_mm,
            offset_bins=(detector.num_columns - 1) / 2 - centre_bin,
        )
        fan = geometry.fan_angles_rad()
        sinogram = np.empty((len(chosen), detector.num_columns), np.float32)
        for row, view in zip(sinogram, chosen):
            row[:] = self._rays_of(int(view), fan, nominal_mm, float(self._z[i]))
        return geometry, sinogram

    def _angle_by_z(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self._focus_z, kind="stable")
        return self._focus_z[order], self._focus_angle[order]

    def _rays_of(self, view: int, fan: np.ndarray, nominal_mm: float, z: float) -> np.ndarray:
        """Line integrals, (N,), along the rays in the plane z of a source at a nominal distance."""
        true_fan = np.arcsin(nominal_mm / self._source_mm[view] * np.sin(fan))
        spot = self._spot[view]
        alike, step = self._of_spot[spot], self._steps[spot]
        if np.abs(true_fan - fan).max() < 1e-6 or not step:
            return self._sampled(view, true_fan, z)
        at = int(np.searchsorted(alike, view))
        # The line in the plane that the source at its distance sees is one of another view, so many away.
        away = (true_fan - fan) / step
        values = np.zeros_like(fan)
        for k in range(math.floor(away.min()), math.floor(away.max()) + 2):
            weight = (1 - np.abs(away - k)).clip(min=0)
            other = int(alike[min(max(at + k, 0), len(alike) - 1)])
            values += weight * self._sampled(other, true_fan, z)
        return values

    def _sampled(self, view: int, fan: np.ndarray, z: float) -> np.ndarray:
        """Line integrals of a projection, (N,), at angles to its source's central ray, for the plane z."""
        detector = self.detector
        source_mm, source_z = self._source_mm[view], self._source_z[view]
        turned = self._source_angle[view] - self._focus_angle[view]
        # From the focal centre, across and along the line to the isocentre: the source, the rays' directions.
        across, along = source_mm * math.sin(turned), detector.focus_mm - source_mm * math.cos(turned)
        sin, cos = np.sin(fan - turned), np.cos(fan - turned)
        if detector.kind == "fan-arc":
            towards = across * sin + along * cos
            length = np.sqrt(towards**2 - across**2 - along**2 + detector.reach_mm**2) - towards
            position = np.arctan2(across + length * sin, along + length * cos) * detector.reach_mm
        else:
            length = (detector.reach_mm - along) / cos
            position = across + length * sin
        sense = -1 if self._head_first else 1
        column = detector.central_column + sense * position / detector.column_mm
        slope = (z - source_z) / (source_mm * np.cos(fan))
        height = source_z + slope * length - self._focus_z[view]
        row = detector.central_row - height / detector.row_mm
        file = self._views[view]
        pixels = self._pixels(file.path, (detector.num_rows, detector.num_columns))
        values = file.slope * _interpolated(pixels, row, column) + file.intercept
        return values / np.sqrt(1 + slope**2)


def holds_projections(path: Path, without: Path | None = None) -> bool:
    """Whether the first DICOM file of a folder, or of each folder below it, is a DICOM-CT-PD projection.

    Args:
        path: A file or a folder.
        without: A folder that does not count.

    Raises:
        InputError: Some are, and some are images.
    """
    kinds: dict[bool, Path] = {}
    seen: set[Path] = set()
    for file in files_below(path, [], without):  # what cannot be listed is told where the files are read
        if file.parent in seen:
            continue
        found = _header(file)
        if found is not None:
            seen.add(file.parent)
            kinds.setdefault(_ANGLE in found[0], file.parent)
    if len(kinds) > 1:
        raise InputError(
            f"{path}: holds projections, in {kinds[True]}, and images, in {kinds[False]}; give one of them"
        )
    return True in kinds


def find_projections(path: Path, without: Path | None = None) -> tuple[list[Projections], list[InputError]]:
    """Scans in a folder of DICOM-CT-PD files, and what cannot be used, one error a file, folder or scan.

    Reads headers only. A scan is what shares SeriesInstanceUID, spectrum and detector.

    Args:
        path: The folder, searched to any depth.
        without: A folder below it that does not count.
    """
    views: dict[tuple[str, Detector, str], list[_View]] = {}
    failures: list[InputError] = []
    headers: dict[tuple[str, Detector, str], tuple[Dataset, float | None]] = {}
    for file in files_below(path, failures, without):
        found = _header(file)
        if found is None or _ANGLE not in found[0]:
            continue
        header, num_bytes = found
        try:
            view = _view(file, header, num_bytes)
            key = (view.series, view.detector, view.position)
            if key not in headers:
                headers[key] = _carried(file, header), _water(file, header)
            views.setdefault(key, []).append(view)
        except InputError as error:
            failures.append(error)
        except Exception as error:  # anything, on hostile bytes
            detail = " ".join(str(error).split())[:120] or type(error).__name__
            failures.append(
                InputError(f"{file}: the DICOM header is damaged ({detail}); copy or export it again")
            )
    scans = []
    pixels = _Pixels()
    for key, group in views.items():
        try:
            scans.append(Projections(path, group, *headers[key], pixels))
        except InputError as error:
            failures.append(error)
    return scans, failures


def _header(path: Path) -> tuple[FileDataset, int] | None:
    """Elements before the pixel data, and the bytes from there on; None for what is no DICOM file."""
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(stream, stop_before_pixels=True)
            return header, path.stat().st_size - stream.tell()
    except Exception:  # anything, on hostile bytes: told where it is read as an image
        return None


def _view(path: Path, header: FileDataset, num_bytes: int) -> _View:
    """What the header of a projection says, with so many bytes after it.

    Raises:
        InputError: An element is missing or impossible, or the pixel data are cut short.
    """
    tags = _Elements(path, header)
    if tags.text("LogFlag", "YES").upper() == "NO":
        raise InputError(f"{path}: LogFlag is NO, so it has no line integrals; give them after the logarithm")
    shape = tags.text("DetectorShape").upper()
    rows, columns = tags.count("NumberofDetectorRows"), tags.count("NumberofDetectorColumns")
    if shape not in _SHAPES or (shape == "SPHERICAL" and rows > 1):
        raise InputError(
            f"{path}: DetectorShape is {shape}, with {rows} rows, which is not supported; give projections by"
            " a CYLINDRICAL or FLAT detector"
        )
    stored = (header.get("Rows"), header.get("Columns"))
    if stored not in ((rows, columns), (columns, rows)):
        raise InputError(
            f"{path}: has {stored[0]} x {stored[1]} pixels for {rows} x {columns} elements; export it again"
        )
    if header.get("BitsAllocated") != 16:
        raise InputError(f"{path}: has {header.get('BitsAllocated')} bits a pixel, not 16; export it again")
    if header.file_meta.TransferSyntaxUID in _NATIVE and num_bytes < 2 * rows * columns:
        raise InputError(f"{path}: the pixel data are cut short; copy or export it again")
    central = tags.numbers("DetectorCentralElement", 2)
    detector = Detector(
        kind=_SHAPES[shape],
        num_rows=rows,
        num_columns=columns,
        row_mm=tags.length("DetectorElementAxialSpacing"),
        column_mm=tags.length("DetectorElementTransverseSpacing"),
        central_row=central[1] - 1,
        central_column=central[0] - 1,
        focus_mm=tags.length("DetectorFocalCenterRadialDistance"),
        reach_mm=tags.length("ConstantRadialDistance"),
    )
    shift = [
        tags.numbers(f"Source{name}Shift", 1, 0.0)[0]
        for name in ("AngularPosition", "AxialPosition", "RadialDistance")
    ]
    try:
        slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: lacks RescaleSlope or RescaleIntercept, so its values mean nothing; export it again"
        ) from error
    spectrum = tags.count("SpectrumIndex", 1)
    return _View(
        path,
        int(header.get("InstanceNumber") or 0),
        f"{header.get('SeriesInstanceUID') or path.parent.resolve()} {spectrum}",
        detector,
        str(header.get("PatientPosition") or "").strip(),
        tags.numbers("DetectorFocalCenterAngularPosition", 1)[0],
        tags.numbers("DetectorFocalCenterAxialPosition", 1)[0],
        (shift[0], shift[1], shift[2]),
        slope,
        intercept,
    )


class _Elements:
    """Private elements of a file, by name; without a dictionary their values may be the raw bytes."""

    def __init__(self, path: Path, header: Dataset) -> None:
        self._path, self._header = path, header

    def _raw(self, name: str, default: Any) -> Any:
        tag = _TAGS[name]
        value = self._header[tag].value if tag in self._header else None
        if value is None or value in (b"", ""):
            if default is None:
                raise InputError(
                    f"{self._path}: lacks {name} ({tag[0]:04X},{tag[1]:04X}), so its rays are not known;"
                    " export it again"
                )
            return default
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._raw(name, default)
        return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")

    def numbers(
        self, name: str, count: int, default: float | None = None, dtype: str = "<f4"
    ) -> tuple[float, ...]:
        """Finite numbers."""
        value = self._raw(name, default)
        try:
            numbers = np.frombuffer(value, dtype) if isinstance(value, bytes) else np.atleast_1d(value)
            listed = tuple(float(number) for number in numbers)
        except (TypeError, ValueError):
            listed = ()
        if len(listed) != count or not np.isfinite(listed).all():
            many = f"{count} finite number{'s' if count > 1 else ''}"
            raise InputError(f"{self._path}: {name} is not {many}; export it again")
        return listed

    def length(self, name: str) -> float:
        (number,) = self.numbers(name, 1)
        if number <= 0:
            raise InputError(f"{self._path}: {name} is {number:g} mm, not above 0; export it again")
        return number

    def count(self, name: str, default: int | None = None) -> int:
        (number,) = self.numbers(name, 1, default, "<u2")
        return int(number)


def _water(path: Path, header: Dataset) -> float | None:
    """Attenuation of water in 1/mm, None if the file does not say."""
    text = _Elements(path, header).text("WaterAttenuationCoefficient", "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _WATER_RANGE[0] <= value <= _WATER_RANGE[1]:
        raise InputError(
            f"{path}: WaterAttenuationCoefficient is {text}, but in 1/mm it is {_WATER_RANGE[0]} to"
            f" {_WATER_RANGE[1]}; correct it"
        )
    return value


def _carried(path: Path, header: Dataset) -> Dataset:
    """What holds for the slices too, with UIDs where they are missing."""
    carried = Dataset()
    for keyword in _CARRIED.split():
        if keyword in header:
            carried[keyword] = header[keyword]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not carried.get(keyword):
            setattr(carried, keyword, generate_uid(entropy_srcs=[keyword, str(path.resolve().parent)]))
    return carried


def _wrapped(angles: np.ndarray) -> np.ndarray:
    """Angles within half a turn."""
    return (angles + math.pi) % (2 * math.pi) - math.pi


def _interpolated(pixels: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Values of pixels, (R, C), at positions, (N,), linear; beyond the edges those of the edge."""
    value = np.zeros(len(row))
    parts = []
    for position, size in ((row, pixels.shape[0]), (column, pixels.shape[1])):
        inside = position.clip(0, size - 1)
        whole = np.floor(inside).astype(int)
        parts.append(((whole, 1 - (inside - whole)), ((whole + 1).clip(max=size - 1), inside - whole)))
    for rows, row_weight in parts[0]:
        for columns, column_weight in parts[1]:
            value += row_weight * column_weight * pixels[rows, columns]
    return value
