"""Speed and accuracy of the fan-beam projector beside ASTRA's on the CPU, all in one run.

    python benchmarks/projectors.py --threads 2 [--size 512] [--views 60] [--repeat 15]

The fan is `sparse_view` of 400 mm. A is forward and At is back projection of one image in float32: the
fastest of the repeats, in which the methods take turns, so that a busy machine treats them alike. Ours
includes the allocation of the result, ASTRA's does not; ASTRA's CPU projectors use one thread.
"Gaussians" and "ellipses" are relative L2 distances to the analytic sinogram, the mean over 8 rays a bin: of
five Gaussians, where the projector itself is judged, and of the modified Shepp-Logan phantom, where the
pixels' edges count too; both images are the mean of 8 x 8 points a pixel. "adjoint" is
|<Ax, y> - <x, At y>| / (|Ax| |y|) for random x and y.

ASTRA (GPL-3) is no dependency; its wheel needs two CUDA libraries, also without a GPU:

    pip install astra-toolbox nvidia-cuda-runtime-cu12 nvidia-cufft-cu12
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from deepgsr_cli.tomography.geometry import Geometry
    from deepgsr_cli.tomography.radon import Radon

# Modified Shepp-Logan phantom: value, half axes, centre and angle in degrees, on [-1, 1] x [-1, 1].
ELLIPSES = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0),
)
# Value, widths and centre.
GAUSSIANS = (
    (1.0, 0.20, 0.20, 0.0, 0.0, 0),
    (0.7, 0.08, 0.12, 0.3, 0.35, 20),
    (0.5, 0.10, 0.06, -0.4, 0.2, -35),
    (-0.4, 0.07, 0.07, 0.1, -0.3, 0),
    (0.6, 0.05, 0.09, -0.25, -0.45, 60),
)


class Method(Protocol):
    """A projector of one geometry."""

    def forward(self, x: np.ndarray) -> np.ndarray: ...

    def adjoint(self, y: np.ndarray) -> np.ndarray: ...


class Ours:
    """One engine of `Radon`."""

    def __init__(self, A: Radon) -> None:
        self.A = A

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Sinogram, (V, N), of an image, (H, W)."""
        import torch

        return self.A(torch.from_numpy(x)[None, None])[0, 0].numpy()

    def adjoint(self, y: np.ndarray) -> np.ndarray:
        """Image, (H, W), of a sinogram, (V, N)."""
        import torch

        return self.A.adjoint(torch.from_numpy(y)[None, None])[0, 0].numpy()


class Astra:
    """One CPU projector of ASTRA, on arrays that stay where it keeps them."""

    def __init__(self, geometry: Geometry, projector: str) -> None:
        import astra

        self.data = astra.data2d
        (height, width), (dy, dx) = geometry.shape, geometry.pixel_mm
        x, y = width * dx / 2, height * dy / 2
        volume = astra.create_vol_geom(height, width, -x, x, -y, y)
        fan = geometry.source_mm, geometry.detector_mm
        views = astra.create_proj_geom(
            "fanflat", geometry.bin_mm, geometry.num_bins, np.array(geometry.angles_rad), *fan
        )
        self.image, self.sinogram = self.data.create("-vol", volume), self.data.create("-sino", views)
        self.runs = {}
        for name in ("FP", "BP"):
            config = astra.astra_dict(name)
            config["ProjectorId"] = astra.create_projector(projector, views, volume)
            config["ProjectionDataId"] = self.sinogram
            config["VolumeDataId" if name == "FP" else "ReconstructionDataId"] = self.image
            identifier = astra.algorithm.create(config)
            self.runs[name] = lambda identifier=identifier: astra.algorithm.run(identifier)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Sinogram, (V, N), of an image, (H, W)."""
        self.data.store(self.image, x)
        self.runs["FP"]()
        return self.data.get(self.sinogram)

    def adjoint(self, y: np.ndarray) -> np.ndarray:
        """Image, (H, W), of a sinogram, (V, N)."""
        self.data.store(self.sinogram, y)
        self.runs["BP"]()
        return self.data.get(self.image)


def phantom(geometry: Geometry, kind: str, fine: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Image, (H, W), and analytic sinogram, (V, N), of the ellipses or the Gaussians."""
    (height, width), (dy, dx) = geometry.shape, geometry.pixel_mm
    scale = height * dy / 2
    points = (np.arange(fine) + 0.5) / fine - 0.5
    row, column = np.mgrid[:height, :width]
    theta = np.array(geometry.angles_rad)[:, None]
    image, sinogram = np.zeros(geometry.shape), np.zeros((geometry.num_views, geometry.num_bins))
    for value, a, b, x0, y0, degrees in ELLIPSES if kind == "ellipses" else GAUSSIANS:
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        for i in points:
            for j in points:
                x = (column + i - (width - 1) / 2) * dx / scale - x0
                y = ((height - 1) / 2 - row - j) * dy / scale - y0
                distance = ((x * cos + y * sin) / a) ** 2 + ((y * cos - x * sin) / b) ** 2
                image += value * (distance <= 1 if kind == "ellipses" else np.exp(-distance / 2)) / fine**2
        for i in points:
            t = geometry.bin_positions_mm() + i * geometry.bin_mm
            fan = np.arctan(t / (geometry.source_mm + geometry.detector_mm))
            angle = theta - fan
            offset = geometry.source_mm * np.sin(fan) / scale - x0 * np.cos(angle) - y0 * np.sin(angle)
            turned = angle - np.radians(degrees)
            variance = (a * np.cos(turned)) ** 2 + (b * np.sin(turned)) ** 2
            if kind == "ellipses":
                line = 2 * a * b * np.sqrt(np.maximum(variance - offset**2, 0)) / variance
            else:
                line = a * b * np.sqrt(2 * np.pi / variance) * np.exp(-(offset**2) / (2 * variance))
            sinogram += value * scale * line / fine
    return image.astype(np.float32), sinogram


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--without-astra", action="store_true")
    options = parser.parse_args()

    import torch

    from deepgsr_cli.tomography.geometry import sparse_view
    from deepgsr_cli.tomography.radon import Radon

    torch.set_num_threads(options.threads)
    geometry = sparse_view((options.size,) * 2, (400 / options.size,) * 2, options.views)
    methods: dict[str, Method] = {f"ours, {e}": Ours(Radon(geometry, engine=e)) for e in ("numba", "csr")}
    if not options.without_astra:
        methods |= {f"astra {name}": Astra(geometry, name) for name in ("line_fanflat", "strip_fanflat")}

    generator = np.random.default_rng(0)
    x = generator.random(geometry.shape, dtype=np.float32)
    y = generator.random((geometry.num_views, geometry.num_bins), dtype=np.float32)
    phantoms = [phantom(geometry, kind) for kind in ("gaussians", "ellipses")]
    errors = {}
    for name, method in methods.items():  # which also compiles and builds what is made on first use
        distances = [np.linalg.norm(method.forward(i) - s) / np.linalg.norm(s) for i, s in phantoms]
        Ax, Aty = method.forward(x).astype(np.float64), method.adjoint(y).astype(np.float64)
        gap = abs(np.vdot(Ax, y) - np.vdot(x, Aty)) / (np.linalg.norm(Ax) * np.linalg.norm(y))
        errors[name] = (*distances, gap)

    seconds: dict[str, dict[str, list[float]]] = {name: {"A": [], "At": []} for name in methods}
    for _ in range(options.repeat):
        for name, method in methods.items():
            if isinstance(method, Astra):
                steps = {"A": method.runs["FP"], "At": method.runs["BP"]}
            else:
                steps = {"A": lambda m=method: m.forward(x), "At": lambda m=method: m.adjoint(y)}
            for step, run in steps.items():
                started = time.perf_counter()
                run()
                seconds[name][step].append(time.perf_counter() - started)

    print(
        f"{options.size} x {options.size}, fan of {options.views} views by {geometry.num_bins} bins, float32,"
        f" {options.threads} threads, fastest of {options.repeat}"
    )
    print(f"{'':22}{'A ms':>8}{'At ms':>8}{'Gaussians':>11}{'ellipses':>10}{'adjoint':>9}")
    for name in methods:
        forward, back = (1000 * min(seconds[name][step]) for step in ("A", "At"))
        smooth, edges, gap = errors[name]
        print(f"{name:22}{forward:8.1f}{back:8.1f}{smooth:11.1e}{edges:10.1e}{gap:9.0e}")


if __name__ == "__main__":
    main()
