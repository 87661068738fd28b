"""Measured projections of a helical scan as fan beams of the slices of the scan."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from deepgsr_cli.errors import InputError, OptionError
from deepgsr_cli.files import files_below
from deepgsr_cli.formats.dicom.projections import (
    ANGLE,
    Detector,
    View,
    ViewPixels,
    carried_by,
    projection_header,
    view_of,
    water_of,
)
from deepgsr_cli.tomography.geometry import Geometry
from deepgsr_cli.words import counted

SIZE = 512  # rows and columns of the slices

# Two focal spots closer than this, in rad and mm, are one.
_SAME_ANGLE, _SAME_MM = 1e-5, 1e-2
# Flying focal spots have up to four positions; more is jitter.
_MOST_SPOTS = 8

# Turn of the patient about the axis, from supine, counter-clockwise as the picture of a slice shows it.
_TURNS = {"S": 0.0, "P": math.pi, "DR": -math.pi / 2, "DL": math.pi / 2}


class FanBeams:
    """One scan, axial or helical, in DICOM-CT-PD files.

    Reads no pixels before a slice is asked for, and keeps 256 MiB of them for the next.

    Attributes:
        folder: Folder of the files.
        header: Header elements that hold for the slices too: patient, study, equipment.
        detector: The detector.
        water_attenuation: Attenuation of water in 1/mm, for the spectrum of the scan; None if the files do
            not say.
        views_per_turn: Projections a turn.
        helical: Whether the table moved during the turns.
        feed_mm: Distance the table moved in a turn; 0 for axial scans.
        turn_share: Share of a turn around each slice that the rows cover; 1 for axial scans.
        num_spots: Positions of the focal spot; 1 if it rests.
        diameter_mm: Diameter of the field that every view sees.
        reconstruction_mm: Diameter of the field the scanner reconstructed, if the files say it.
        z_mm: Positions of the slices in the patient's coordinates, ascending.
        spacing_mm: Distance of two rows at the isocentre, and of two slices of a helical scan.
        notes: Facts that the user should know, one sentence each.
    """

    def __init__(
        self, folder: Path, views: list[View], header: Dataset, water: float | None, pixels: ViewPixels
    ) -> None:
        """
        Args:
            folder: Folder of the files.
            views: The files, in any order.
            header: Header elements that hold for the slices too.
            water: Attenuation of water in 1/mm, if known.
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
        text += f", {counted(detector.num_rows, 'row')}"
        text += f", {self.num_spots} focal spots" if self.num_spots > 1 else ""
        if self.helical:
            pitch = self.feed_mm / (detector.num_rows * detector.row_at_isocentre_mm)
            text += f", pitch {pitch:.2f}, slices {self.spacing_mm:.2f} mm apart by single-slice rebinning"
            if self.turn_share < 1:
                text += f" of {self.turn_share:.2f} turns"
        elif detector.num_rows > 1:
            text += ", of which the central are reconstructed"
        return text

    def thinned(self, num_views: int) -> FanBeams:
        """The scan of about `num_views` of its projections each turn, evenly spaced, as if they were all.

        They are of one focal spot, if it has so many.

        Raises:
            UsageError: A turn has fewer.
            InputError: The projections are not evenly spaced.
        """
        if num_views > self.views_per_turn:
            raise OptionError(
                "num_views",
                num_views,
                f"the projections in {self.folder} are {self.views_per_turn} a turn;"
                " give as many or fewer, or leave it out for all",
                flag="--views",
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
        thin = FanBeams(self.folder, views, self.header, self.water_attenuation, self._pixels)
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
            i: Number of the slice, from 0.
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


def find_projections(path: Path, without: Path | None = None) -> tuple[list[FanBeams], list[InputError]]:
    """Scans in a folder of DICOM-CT-PD files, and what cannot be used, one error a file, folder or scan.

    Reads headers only. A scan is what shares SeriesInstanceUID, spectrum and detector.

    Args:
        path: The folder, searched to any depth.
        without: A folder below it that does not count.
    """
    views: dict[tuple[str, Detector, str], list[View]] = {}
    failures: list[InputError] = []
    headers: dict[tuple[str, Detector, str], tuple[Dataset, float | None]] = {}
    for file in files_below(path, failures, without):
        found = projection_header(file)
        if found is None or ANGLE not in found[0]:
            continue
        header, num_bytes = found
        try:
            view = view_of(file, header, num_bytes)
            key = (view.series, view.detector, view.position)
            if key not in headers:
                headers[key] = carried_by(file, header), water_of(file, header)
            views.setdefault(key, []).append(view)
        except InputError as error:
            failures.append(error)
        except Exception as error:  # anything, on hostile bytes
            detail = " ".join(str(error).split())[:120] or type(error).__name__
            failures.append(
                InputError(f"{file}: the DICOM header is damaged ({detail}); copy or export it again")
            )
    scans = []
    pixels = ViewPixels()
    for key, group in views.items():
        try:
            scans.append(FanBeams(path, group, *headers[key], pixels))
        except InputError as error:
            failures.append(error)
    return scans, failures


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
