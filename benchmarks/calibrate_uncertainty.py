"""Calibrate the uncertainty of ct-recon on slices that the network has not seen, or measure it on others.

    python benchmarks/calibrate_uncertainty.py --data SLICES [--limit 40] [--doses]
    python benchmarks/calibrate_uncertainty.py --data TEST_SLICES --measure [--size 128]

Slices are spread evenly over the folder; each is scanned at 60 views, without noise and at 1e5 photons a ray,
and once otherwise. The weights that are printed belong into `ct/uncertainty.py`: those of a Gamma model with
a logarithmic link of the absolute error within the body, and a constant that 68 % of the errors are within.

--doses fits two of them alone, where fewer slices are unseen than tell of all: the constant, so that 68 % of
the errors without noise are within, and the weight of the noise, so that 68 % are at 1e5 photons a ray.

--measure takes the weights as they are, all slices and both doses at 60 views; it prints the share of pixels
within one standard deviation, which is to be 63 to 73 % in the body, and the mean error of the most uncertain
5 % of pixels over that of all, both of pixels of the body and of those of the whole slice. Beside that stands
what it would be, were the standard deviation of each pixel known and its error normal: a mixture of normal
distributions, of any scales, is fitted to the errors. With --size it is of whole slices reduced to so many
pixels a side.

Sources:
    McCullagh and Nelder, Generalized Linear Models, 1989, ch. 8: the Gamma model and its iteration.
    Kiefer and Wolfowitz, Consistency of the maximum likelihood estimator in the presence of infinitely many
    incidental parameters, Annals of Mathematical Statistics 27(4), 1956: the mixture.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from deepgsr_cli.ct.network import Unrolled

DOSES = (None, 1e5)
OTHERS = ((30, 1e5), (120, 1e5), (20, None), (180, 1e6), (60, 1e4), (360, 1e5), (60, 1e6))
PIXELS = 5000  # of each scan, at random


class Errors(NamedTuple):
    """Of pixels of scans: features, (P, F), and absolute errors in HU, (P,)."""

    entries: np.ndarray
    errors: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of slices, DICOM or PNG.")
    parser.add_argument("--limit", type=int, default=40, help="Slices, evenly over the folder.")
    parser.add_argument("--doses", action="store_true", help="Fit the constant and the noise alone.")
    parser.add_argument("--measure", action="store_true", help="Measure the weights as they are.")
    parser.add_argument("--size", type=int, help="Side in pixels that slices are reduced to.")
    options = parser.parse_args()

    import torch

    from deepgsr_cli.compute.memory import keep_freed_memory
    from deepgsr_cli.ct.methods import load_network
    from deepgsr_cli.ct.slices import eval_slices, reduced
    from deepgsr_cli.ct.uncertainty import WEIGHTS

    keep_freed_memory()
    model = load_network(None, "cpu", offline=True).model
    slices = eval_slices(options.data)
    count = len(slices) if options.measure else min(options.limit, len(slices))
    chosen = [slices[(2 * i + 1) * len(slices) // (2 * count)] for i in range(count)]
    scans, entries, errors, everywhere, shares = [], [], [], [], []
    for i, slice in enumerate(chosen):
        hu, pixel_mm = slice.read()
        if options.size:
            factor = max(hu.shape) / options.size
            hu = reduced(torch.from_numpy(hu), options.size).numpy()
            pixel_mm = (pixel_mm[0] * factor, pixel_mm[1] * factor)
        wanted = [(60, dose) for dose in DOSES]
        if not (options.measure or options.doses):
            wanted.append(OTHERS[i % len(OTHERS)])
        for views, photons in wanted:
            within_body, anywhere, share = one(hu.clip(max=8000), pixel_mm, views, photons, model)
            entries.append(within_body.entries)
            errors.append(within_body.errors)
            everywhere.append(anywhere)
            shares.append(share)
            scans.append((slice.name, views, photons))
    weights = np.array(WEIGHTS)
    if options.doses:
        clean, noisy = (
            growth(weights, np.concatenate(entries[i::2]), np.concatenate(errors[i::2])) for i in range(2)
        )
        noise = entries[1][0, -1] - entries[0][0, -1]  # the last feature
        weights[0] += clean
        weights[-1] += (noisy - clean) / noise
    elif not options.measure:
        weights = fitted(np.concatenate(entries), np.concatenate(errors))
    if not options.measure:
        print("WEIGHTS = (" + ", ".join(f"{weight:.3f}" for weight in weights) + ")")
    for (name, views, photons), found, error in zip(scans, entries, errors, strict=True):
        within = np.mean(error <= np.exp(found @ weights))
        print(
            f"{name}, {views} views, {photons or 'no noise'}: within {within:.1%}, error {error.mean():.1f}"
        )
    for views, photons in dict.fromkeys((views, photons) for _, views, photons in scans):
        of = [k for k, scan in enumerate(scans) if scan[1:] == (views, photons)]
        scan = f"{views} views, {photons or 'no noise'}"
        tell(f"{scan}, body", [entries[k] for k in of], [errors[k] for k in of], weights)
        tell(f"{scan}, whole slices", *zip(*(everywhere[k] for k in of)), weights)
    tell("all, body", entries, errors, weights)
    print(f"time of the uncertainty over that of the reconstruction: {np.median(shares):.2f}")


def one(
    hu: np.ndarray, pixel_mm: tuple[float, float], views: int, photons: float | None, model: Unrolled
) -> tuple[Errors, Errors, float]:
    """Of pixels in the body, of pixels of the whole slice, and the time over the network's."""
    import torch

    from deepgsr_cli.ct.figures import body
    from deepgsr_cli.ct.methods import Method, reconstructed
    from deepgsr_cli.ct.simulation import SimulatedScan
    from deepgsr_cli.ct.uncertainty import features
    from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu
    from deepgsr_cli.tomography.geometry import sparse_view
    from deepgsr_cli.tomography.radon import Radon

    truth = to_attenuation(hu, torch.device("cpu"))
    A = Radon(sparse_view((hu.shape[0], hu.shape[1]), pixel_mm, views))
    seed = zlib.crc32(hu.tobytes())
    y = SimulatedScan(A.geometry, photons)(truth, (0, seed))
    A.fbp(y - A(truth))  # what it prepares is no part of the time
    times = [time.perf_counter()]
    x = reconstructed(A, y, Method("deepgsr", photons), model=model).x
    times.append(time.perf_counter())
    maps = features(A, y, x, photons, model)
    times.append(time.perf_counter())
    draw = np.random.default_rng(seed)
    error = np.abs(to_hu(x) - to_hu(truth)).ravel()

    def some(pixels: np.ndarray) -> Errors:
        chosen = draw.choice(pixels, min(PIXELS, len(pixels)), replace=False)
        return Errors(maps.flatten(1)[:, chosen].double().numpy().T, error[chosen])

    within_body, anywhere = some(np.flatnonzero(body(truth, pixel_mm))), some(np.arange(error.size))
    return within_body, anywhere, (times[2] - times[1]) / (times[1] - times[0])


def fitted(entries: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Weights, (F,), of features, (P, F), whose sum is the logarithm of an error that 68 % are within."""
    weights = np.zeros(entries.shape[1])
    weights[0] = np.log(error.mean())
    # A little less than the scatter of the features, which are alike, keeps weights small.
    ridge = 1e-4 * np.diag((entries - entries.mean(0)).var(0) * len(entries))
    for _ in range(20):
        mean = np.exp(entries @ weights)
        wanted = entries @ weights + np.clip((error - mean) / mean, -1, 6)
        weights = np.linalg.solve(entries.T @ entries + ridge, entries.T @ wanted)
    weights[0] += growth(weights, entries, error)
    return weights


def growth(weights: np.ndarray, entries: np.ndarray, error: np.ndarray) -> float:
    """What a constant must grow by so that 68 % of the errors, (P,), are within; features are (P, F)."""
    return float(np.log(np.quantile(error / np.exp(entries @ weights), 0.68)))


def tell(name: str, entries: Sequence[np.ndarray], errors: Sequence[np.ndarray], weights: np.ndarray) -> None:
    """Print how well the expected errors are those found."""
    expected, error = np.exp(np.concatenate(entries) @ weights), np.concatenate(errors)
    top = error[expected >= np.quantile(expected, 0.95)].mean() / error.mean()
    within, most = np.mean(error <= expected), attainable(error)
    print(
        f"{name}: {within:.1%} within, most uncertain 5 %: {top:.2f} times the mean error, at most {most:.2f}"
    )


def attainable(error: np.ndarray) -> float:
    """Mean error of the most uncertain 5 % of pixels over that of all, of a standard deviation that is known.

    Args:
        error: Absolute errors in HU, (P,), each normal with a standard deviation of its own.
    """
    error = np.sort(error)[:: max(1, len(error) // 20000)] + 1e-3
    scales = np.geomspace(1, 1200, 80)
    likelihood = np.exp(-0.5 * (error[:, None] / scales) ** 2) / scales
    shares = np.full(len(scales), 1 / len(scales))
    for _ in range(400):  # expectation maximisation
        of_each = likelihood * shares
        shares = (of_each / of_each.sum(1, keepdims=True)).mean(0)
    # Of each scale, what is among the largest 5 %.
    larger = shares[::-1].cumsum()[::-1] - shares
    among = (0.05 - larger).clip(0, shares)
    return float((among @ scales) / 0.05 / (shares @ scales))


if __name__ == "__main__":
    main()
