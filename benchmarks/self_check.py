"""How often the self-check of CT results warns of right scans, and of wrong ones.

    python benchmarks/self_check.py --data SLICES [--limit 6] [--size 256]

Slices are reduced to --size pixels across and scanned by `ct.simulation` in the fan beam of the sparse-view
papers; views and photons leave in them, pixel by pixel, the streaks and noise of the scan of 512 x 512
pixels that is named. The first table counts warnings of sound scans, which should be none. The second counts
the wrong scans that are warned of, a fault a row: what was measured stays as it is, and the geometry told, or
the values given, are wrong. The sentences of warnings of sound scans follow.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from deepgsr_cli.tomography.geometry import Geometry

METHODS = ("deepgsr", "fbp", "tv")
SCANS = ((60, None), (60, 1e5), (180, 1e5), (360, 2e4), (720, 1e6))
FIELD_MM = 400.0

# What is told of a scan and given of it, of what was measured, by the fault's name.
Fault = Callable[["Geometry", "Tensor"], tuple["Geometry", "Tensor"]]
FAULTS: dict[str, Fault] = {
    "the turn's sense reversed": lambda g, y: (replace(g, angles_rad=tuple(-a for a in g.angles_rad)), y),
    "half of the turn told": lambda g, y: (replace(g, angles_rad=tuple(a / 2 for a in g.angles_rad)), y),
    "every tenth view at another angle": lambda g, y: (replace(g, angles_rad=_displaced(g.angles_rad)), y),
    "detector shifted by 1 % of it": lambda g, y: (replace(g, offset_bins=g.num_bins / 100), y),
    "detector shifted by 4 % of it": lambda g, y: (replace(g, offset_bins=g.num_bins / 25), y),
    "detector read from the other end": lambda g, y: (g, y.flip(-1)),
    "source 20 % too far": lambda g, y: (replace(g, source_mm=1.2 * g.source_mm), y),
    "an arc for a flat detector": lambda g, y: (replace(g, kind="fan-arc"), y),
    "parallel beams": lambda g, y: (_parallel(g), y),
    "transmission for integrals": lambda g, y: ((g, (-y).exp())),
    "bins of 0.1 mm for 1 mm": lambda g, y: (_scaled(g, 0.1), y),
    "bins of 1.3 mm for 1 mm": lambda g, y: (_scaled(g, 1.3), y),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of training slices, DICOM or PNG.")
    parser.add_argument("--limit", type=int, default=6, help="Slices, evenly over the folder.")
    parser.add_argument("--size", type=int, default=256, help="Pixels across a slice.")
    options = parser.parse_args()

    import torch

    from deepgsr_cli.ct.methods import Method, load_network, reconstructed
    from deepgsr_cli.ct.plausibility import doubt_result
    from deepgsr_cli.ct.simulation import SimulatedScan, estimated_photons
    from deepgsr_cli.ct.slices import read_hu, reduced, slice_paths
    from deepgsr_cli.ct.training import photons_at
    from deepgsr_cli.errors import UserError
    from deepgsr_cli.tomography.attenuation import to_attenuation
    from deepgsr_cli.tomography.geometry import sparse_view
    from deepgsr_cli.tomography.radon import Radon

    size = options.size
    paths = slice_paths(options.data)
    chosen = [paths[(2 * i + 1) * len(paths) // (2 * options.limit)] for i in range(options.limit)]
    hu = [reduced(torch.from_numpy(read_hu(path)[0]), size).numpy() for path in chosen]
    images = [to_attenuation(slice, torch.device("cpu")) for slice in hu]
    model = load_network(None, "cpu", offline=False).model

    def doubts(geometry: Geometry, y: Tensor, name: str) -> list[str]:
        """What the command would say of a scan; a refusal is a doubt, too."""
        method = Method(name, estimated_photons(y))
        try:
            return doubt_result(reconstructed(Radon(geometry), y, method, model=model), y, geometry, method)
        except UserError as error:
            return [str(error)]

    def scans(views: int, photons: float | None) -> Iterator[tuple[Geometry, Tensor]]:
        geometry = sparse_view((size, size), (FIELD_MM / size,) * 2, round(views * size / 512))
        scan = SimulatedScan(geometry, None if photons is None else photons_at(size, photons))
        return ((geometry, scan(image, i)) for i, image in enumerate(images))

    def print_row(name: object, counts: list[int]) -> None:
        print(f"{name!s:34} | " + " ".join(f"{count:4} of {len(images)}" for count in counts), flush=True)

    print(f"{len(images)} slices of {options.data.name}, {size} x {size}; slices that are warned of\n")
    print(f"{'':34} | " + " ".join(f"{name:>9}" for name in METHODS))
    false: list[str] = []
    for views, photons in SCANS:
        found = [[doubts(*scan, name) for scan in scans(views, photons)] for name in METHODS]
        dose = "no noise" if photons is None else f"{photons:g} photons"
        print_row(f"sound, {views} views, {dose}", [sum(map(bool, some)) for some in found])
        false += [sentence for some in found for sentences in some for sentence in sentences]
    for name, fault in FAULTS.items():
        wrong = [fault(*scan) for scan in scans(180, 1e5)]
        print_row(name, [sum(bool(doubts(*scan, method)) for scan in wrong) for method in METHODS])
    print("\n".join(["", *sorted(set(false))]))


def _displaced(angles_rad: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a + math.radians(20) * (i % 10 == 0) for i, a in enumerate(angles_rad))


def _scaled(geometry: Geometry, factor: float) -> Geometry:
    """A geometry whose detector is told in another unit."""
    return replace(geometry, bin_mm=factor * geometry.bin_mm)


def _parallel(geometry: Geometry) -> Geometry:
    """Parallel beams as wide as the fan is at the isocentre."""
    magnification = (geometry.source_mm + geometry.detector_mm) / geometry.source_mm
    bin_mm = geometry.bin_mm / magnification
    return replace(geometry, kind="parallel", bin_mm=bin_mm, source_mm=0.0, detector_mm=0.0)


if __name__ == "__main__":
    main()
