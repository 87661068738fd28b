"""Make the samples: sinograms of a phantom without and with metal, a picture in rain, a JPEG, a mosaic.

Run from the project's root: python examples/make_examples.py
"""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

from deepgsr_cli.ct.simulation import SimulatedScan
from deepgsr_cli.formats.jpeg import jpeg_file
from deepgsr_cli.mar.simulation import MetalScan
from deepgsr_cli.models.mosaics import mosaic_of
from deepgsr_cli.pictures.rain import rainy
from deepgsr_cli.tomography.attenuation import hu_to_attenuation
from deepgsr_cli.tomography.geometry import Geometry

FOLDER = Path(__file__).parent
# HU to add within an ellipse; centre (x to the right, y up) and half axes in mm; turn in degrees.
CHEST = (
    (1030, 0, 0, 150, 105, 0),  # soft tissue of 30 HU, in air
    (-880, -72, 8, 50, 68, 12),  # lungs
    (-880, 72, 8, 50, 68, -12),
    (620, 0, -62, 18, 15, 0),  # a vertebra, and its canal
    (-600, 0, -66, 8, 7, 0),
    (20, 12, 30, 34, 28, 25),  # the heart
    (160, 18, 36, 12, 9, 25),
    (900, -62, 22, 5, 5, 0),  # a node in a lung
    (880, 66, -8, 2.5, 2.5, 0),
    (-60, 0, 88, 40, 6, 0),
)
# Of a draw with streaks that are seen at once; others are lighter, or heavier, or dry.
RAIN_SEED = 9
METAL = ((-16, -52, 5, 22, 35), (16, -52, 5, 22, -35))  # two screws: x, y, half axes, turn


def inside(x: float, y: float, a: float, b: float, turn_deg: float, size: int, pixel_mm: float) -> np.ndarray:
    """Share of each pixel, (size, size), that lies in an ellipse, by 4 x 4 points in it."""
    at = (np.arange(4 * size) - (4 * size - 1) / 2) * pixel_mm / 4
    along, up = at[None] - x, -at[:, None] - y
    cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    points = ((along * cos + up * sin) / a) ** 2 + ((up * cos - along * sin) / b) ** 2 <= 1
    return points.reshape(size, 4, size, 4).mean((1, 3))


def phantom(size: int, pixel_mm: float) -> torch.Tensor:
    """Attenuation in 1/mm, (1, 1, size, size)."""
    hu = -1000 + sum(hu * inside(*ellipse, size, pixel_mm) for hu, *ellipse in CHEST)
    return hu_to_attenuation(torch.tensor(hu, dtype=torch.float32))[None, None]


def fan(size: int, pixel_mm: float, num_views: int, num_bins: int, bin_mm: float) -> Geometry:
    angles = tuple(2 * np.pi * i / num_views for i in range(num_views))
    return Geometry("fan-flat", (size, size), (pixel_mm, pixel_mm), num_bins, bin_mm, angles, 600.0, 290.0)


def write_scan(path: Path, geometry: Geometry, note: str) -> None:
    """Write a geometry file with evenly spaced views, as a person would."""
    path.write_text(
        f"# {note}\n"
        f'kind = "{geometry.kind}"\n'
        f"shape = {list(geometry.shape)}  # rows and columns of the slice\n"
        f"pixel_mm = {list(geometry.pixel_mm)}\n"
        f"num_bins = {geometry.num_bins}\n"
        f"bin_mm = {geometry.bin_mm}  # on the detector\n"
        f"source_mm = {geometry.source_mm}  # from the source to the isocentre\n"
        f"detector_mm = {geometry.detector_mm}  # from the isocentre to the detector\n"
        f"start_deg = 0.0\nrange_deg = 360.0\nnum_views = {geometry.num_views}\n"
    )


def main() -> None:
    geometry = fan(512, 0.78125, num_views=60, num_bins=800, bin_mm=1.2)
    y = SimulatedScan(geometry, photons=1e5)(phantom(512, 0.78125), seed=0)
    np.save(FOLDER / "sinogram.npy", y[0, 0].numpy())
    write_scan(FOLDER / "scan.toml", geometry, "Geometry of sinogram.npy: 60 views, 1e5 photons a ray.")

    geometry = fan(256, 1.25, num_views=240, num_bins=384, bin_mm=2.0)
    metal = sum(inside(*screw, 256, 1.25) for screw in METAL) > 0.5
    scan = MetalScan(geometry, "titanium", photons=1e6)
    where = torch.from_numpy(metal)[None, None]
    y = scan.scan(phantom(256, 1.25), where, torch.Generator().manual_seed(0))
    np.save(FOLDER / "implant.npy", y[0, 0].numpy().astype(np.float16))
    write_scan(FOLDER / "implant.toml", geometry, "Geometry of implant.npy: two titanium screws, 240 views.")

    clean = torch.from_numpy(iio.imread(FOLDER / "cat.png")).permute(2, 0, 1)[None] / 255
    rain = rainy(clean, torch.Generator().manual_seed(RAIN_SEED))
    iio.imwrite(FOLDER / "cat_rainy.png", (rain[0] * 255).round().byte().permute(1, 2, 0).numpy())
    (FOLDER / "cat_saved.jpg").write_bytes(jpeg_file(iio.imread(FOLDER / "cat.png"), 15).getvalue())

    height, width = (side // 2 * 2 for side in clean.shape[-2:])
    mosaic = mosaic_of(clean[..., :height, :width])
    iio.imwrite(FOLDER / "cat_mosaic.png", (mosaic[0, 0] * 255).round().byte().numpy())


if __name__ == "__main__":
    main()
