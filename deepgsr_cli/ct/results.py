"""Reconstructed slices in files: derived DICOM series, TIFF and NPY."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from deepgsr_cli.ct.jobs import ProjectionJob, SinogramJob, SliceJob
from deepgsr_cli.ct.projections import FanBeams
from deepgsr_cli.errors import InputError
from deepgsr_cli.files import atomic_write, make_folder
from deepgsr_cli.formats.dicom.derived import DerivedSeries, write_new
from deepgsr_cli.formats.dicom.series import Series, SliceFile, find_series
from deepgsr_cli.formats.dicom.slices import Slice, read_slice
from deepgsr_cli.formats.sinograms import Sinograms
from deepgsr_cli.jobs.plan import Job


def derivation_of(task: str, protocol: Mapping[str, str]) -> str:
    """Return what DICOM files say of their derivation: a protocol without names of files."""
    parts = [f"{task}: {protocol['scan']}"]
    parts += [f"{key} {protocol[key]}" for key in ("method", "geometry", "seed") if key in protocol]
    if "weights" in protocol:
        parts.append(f"weights {protocol['weights'].rpartition(', ')[2]}")
    return "; ".join(parts)


def remark(note: str, warnings: Sequence[str]) -> str:
    """Return what a file says of its slice: warnings first, then what else there is to know."""
    return "; ".join(filter(None, (*(f"warning: {warning}" for warning in warnings), note)))


@dataclass
class ResultWriter:
    """Writes the results of jobs in HU, as DICOM, TIFF or NPY by the suffix of their targets.

    Attributes:
        description: What was done, in a few words from "deepgsr" on, for the SeriesDescription.
        derivation: What was done, with all it takes to repeat it, for DICOM.
    """

    description: str
    derivation: str
    _measurement: tuple[Path, str] | None = field(default=None, init=False)

    def __call__(
        self,
        job: Job,
        hu: np.ndarray,
        pixel_mm: tuple[float, float],
        slice: Slice | None = None,
        remark: str = "",
    ) -> None:
        """Write the result, (H, W), of a `SliceJob`, from `slice`, a `SinogramJob` or a `ProjectionJob`.

        Args:
            job: Where to.
            hu: The result.
            pixel_mm: Distance of rows and of columns.
            slice: What a `SliceJob` was read as.
            remark: What there is to know of this slice; DICOM files say it.

        Raises:
            OutputError: It cannot be written.
        """
        target = job.target
        assert target is not None
        make_folder(target.parent)
        if target.suffix.lower() == ".npy":
            with atomic_write(target) as temporary, temporary.open("wb") as file:
                np.save(file, hu)
        elif target.suffix.lower() in (".tif", ".tiff"):
            _write_tiff(hu, pixel_mm, target)
        elif isinstance(job, SliceJob):
            assert slice is not None
            DerivedSeries(job.series, self.description, self.derivation).write(
                slice, hu, target, remark=remark
            )
        elif isinstance(job, ProjectionJob):
            new, series = _reconstructed_slice(job.projections, job.index, hu.shape, pixel_mm)
            DerivedSeries(series, self.description, self.derivation).write(new, hu, target, remark=remark)
        else:
            assert isinstance(job, SinogramJob)
            # Square elements, as the sinogram does not say how far its slices are apart.
            apart_mm = job.geometry.bin_mm / job.geometry.magnification
            write_new(
                hu,
                pixel_mm,
                target,
                measurement=self._checksum(job.sinograms),
                description=self.description,
                derivation=self.derivation,
                remark=remark,
                place=(job.index + 1, job.index * apart_mm),
            )

    def _checksum(self, sinograms: Sinograms) -> str:
        if self._measurement is None or self._measurement[0] != sinograms.path:
            self._measurement = sinograms.path, sinograms.checksum()
        return self._measurement[1]


def read_result(path: Path) -> np.ndarray:
    """Read a result, (H, W), float32 HU, that `ResultWriter` has written.

    Raises:
        InputError: It cannot be read.
    """
    if path.suffix.lower() == ".dcm":
        return read_slice(find_series(path).series[0], 0).hu
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        import tifffile

        return tifffile.imread(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read; delete it, and run again") from error


def _reconstructed_slice(
    projections: FanBeams, i: int, shape: tuple[int, int], pixel_mm: tuple[float, float]
) -> tuple[Slice, Series]:
    """A slice with the header of a scan's projections, and the series of it, to write pixels into."""
    header = Dataset()
    header.update(projections.header)
    z_mm = projections.z_mm[i]
    header.Modality = "CT"
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    header.PhotometricInterpretation = "MONOCHROME2"
    header.PixelRepresentation, header.BitsStored = 1, 16
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = "1", "0", "HU"
    header.WindowCenter, header.WindowWidth = "40", "400"
    header.InstanceNumber = i + 1
    header.PixelSpacing = [f"{mm:.8g}" for mm in pixel_mm]
    rows_mm, columns_mm = ((size - 1) * mm for size, mm in zip(shape, pixel_mm))
    header.ImagePositionPatient = [f"{mm:.8g}" for mm in (-columns_mm / 2, -rows_mm / 2, z_mm)]
    header.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    header.SliceThickness = f"{projections.spacing_mm:.8g}"
    header.ReconstructionDiameter = f"{shape[1] * pixel_mm[1]:.8g}"
    header.DistanceSourceToPatient = f"{projections.detector.focus_mm:.8g}"
    header.DistanceSourceToDetector = f"{projections.detector.reach_mm:.8g}"
    file = SliceFile(projections.nearest_file(i))
    nothing = np.zeros(shape, np.int16)
    new = Slice(nothing.astype(np.float32), nothing > 0, nothing, pixel_mm, (0.0, 0.0, z_mm), header, file)
    description = str(header.get("SeriesDescription", ""))
    return new, Series(str(header.SeriesInstanceUID), description, shape, pixel_mm, (file,))


def _write_tiff(hu: np.ndarray, pixel_mm: tuple[float, float], path: Path) -> None:
    """Write float32 HU, with unit and pixel size as JSON in the description."""
    import tifffile

    description = json.dumps({"unit": "HU", "pixel_mm": pixel_mm})
    with atomic_write(path) as temporary:
        tifffile.imwrite(temporary, hu, photometric="minisblack", description=description, metadata=None)
