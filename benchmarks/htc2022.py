"""Geometry, sign and scale on measured data: the files of the Helsinki Tomography Challenge 2022.

    python benchmarks/htc2022.py FOLDER

The arcs of each phantom in the folder are reconstructed together, as the parameters of their files say and
with the sense of rotation turned round: the right one leaves less of the data. Arcs of 30 degrees alone do
not tell. A file whose name has solid_disc is held against the published reconstruction of its full turn,
*full_recon_fbp.mat, whose unit is 1 over a pixel: the factor between them should be 1.

Data: Meaney, de Moura, Siltanen, Helsinki Tomography Challenge 2022: open tomographic dataset, Zenodo, CC BY
4.0.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

SIZE = 256  # pixels across the slices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder of the MATLAB files.")
    folder = parser.parse_args().folder

    import torch

    from deepgsr_cli.errors import InputError
    from deepgsr_cli.formats.matlab import read_matlab
    from deepgsr_cli.formats.sinograms import Sinograms
    from deepgsr_cli.tomography.geometry_files import geometry_of
    from deepgsr_cli.tomography.radon import Radon
    from deepgsr_cli.tomography.solvers import sirt

    scans = defaultdict(list)
    for path in sorted(folder.glob("*.mat")):
        try:
            sinograms = Sinograms(path, None, None)
        except InputError:
            continue
        if sinograms.parameters:
            y = torch.from_numpy(sinograms.read(0))
            scans[str(sinograms.parameters.get("projectName"))].append((geometry_of(sinograms.parameters), y))
    for name, arcs in scans.items():
        geometry, y = arcs[0][0], torch.cat([y for _, y in arcs])[None, None]
        pixel_mm = geometry.pixel_mm[0] * geometry.num_bins / SIZE
        angles = sum((scan.angles_rad for scan, _ in arcs), ())
        print(f"{name}: {len(arcs)} arcs, {len(angles)} views")
        for sense in (1, -1):
            turned = tuple(sense * angle for angle in angles)
            A = Radon(replace(geometry, shape=(SIZE, SIZE), pixel_mm=(pixel_mm, pixel_mm), angles_rad=turned))
            x = sirt(A, y, iterations=60)
            left = float((A(x) - y).norm() / y.norm())
            print(f"  {'as the files say' if sense > 0 else 'turned round':16} residual {left:.4f}")
    published = next(folder.glob("*full_recon_fbp.mat"), None)
    disc = next(folder.glob("*solid_disc*subsample*.mat"), None)
    if published is None or disc is None:
        return
    sinograms = Sinograms(disc, None, None)
    x = torch.from_numpy(read_matlab(published)["reconFullFbp"]).float()[None, None]
    geometry = geometry_of(sinograms.parameters)
    projected = Radon(replace(geometry, shape=tuple(x.shape[2:])))(x / geometry.pixel_mm[0])
    y = torch.from_numpy(sinograms.read(0))[None, None]
    factor = float((projected * y).sum() / projected.square().sum())
    left = float((factor * projected - y).norm() / y.norm())
    print(f"solid disc against its published reconstruction: factor {factor:.3f}, residual {left:.4f}")


if __name__ == "__main__":
    main()
