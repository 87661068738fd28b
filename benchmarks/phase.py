"""Phase retrieval by every method, one table for each kind of measurement.

    python benchmarks/phase.py --data prDeep12 [--table fourier] [--bm3d] [--weights phase.safetensors]

Beside the methods of `deepgsr eval phase`, the picture of a classical one is denoised once, "er, then tv",
with the noise level that it really has, which no one could know. Means of the six pictures that papers show
most, and of the others. BM3D takes minutes a picture.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

NAMED = ("cameraman", "barbara", "peppers", "couple", "Yeast", "TadpoleGalaxy")
# Model, levels, methods, and the classical one whose picture is denoised.
TABLES = {
    "fourier": ({"model": "fourier", "alphas": (3.0,)}, ("hio", "raar", "red-tv", "red"), "hio"),
    "cdp": ({"model": "cdp", "alphas": (9.0, 27.0, 81.0)}, ("er", "red-tv", "red"), "er"),
    "cdp1": ({"model": "cdp1", "snrs_db": (10.0, 15.0, 20.0, 25.0, 30.0)}, ("raar", "red-tv", "red"), "raar"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of true pictures.")
    parser.add_argument("--table", choices=TABLES, action="append", help="Only these tables.")
    parser.add_argument("--bm3d", action="store_true", help="With BM3D as a prior.")
    parser.add_argument("--weights", help="Weights of deepgsr train phase, as a method of coded patterns.")
    parser.add_argument("--limit", type=int, help="Only the first pictures.")
    options = parser.parse_args()
    for name in options.table or TABLES:
        print_table(name, options)


def print_table(name: str, options: argparse.Namespace) -> None:
    """The protocol, and a row for each level and method."""
    import numpy as np
    import torch

    from deepgsr_cli.evaluation.metrics import psnr, rounded8, ssim
    from deepgsr_cli.phase.evaluation import PhaseEvalConfig, PhaseScore, evaluate, protocol
    from deepgsr_cli.phase.priors import DENOISER, load_unrolled, weighted_denoiser
    from deepgsr_cli.phase.projections import PEAK
    from deepgsr_cli.pictures.restorer import Restorer, RunOptions

    restorer = Restorer(DENOISER, RunOptions("cpu"))
    priors = ("tv", "bm3d") if options.bm3d else ("tv",)
    denoisers = {prior: weighted_denoiser(prior, restorer)[1] for prior in priors}
    levels, methods, classical = TABLES[name]
    if options.bm3d:
        methods = (*methods, "red-bm3d")
    label, network = "", None
    if options.weights and name != "fourier":
        methods = (*methods, "unrolled")
        loaded = load_unrolled(options.weights, "cpu", offline=True)
        label, network = loaded.weights.label, loaded.model
    config = PhaseEvalConfig(options.data, methods=methods, limit=options.limit, **levels)
    scores: list[PhaseScore] = []
    truths: dict[str, np.ndarray] = {}

    def keep(picture: str, level: str, method: str, pixels: np.ndarray) -> None:
        if method == "truth":
            truths[picture] = pixels
        if method != classical:
            return
        truth = truths[picture]
        sigma = PEAK * float(np.std(pixels - truth))
        for prior, denoise in denoisers.items():
            started = time.perf_counter()
            x = denoise(torch.from_numpy(pixels)[None].float() * PEAK, sigma)
            seconds = time.perf_counter() - started
            restored = rounded8(x[0].numpy() / PEAK)
            figures = psnr(restored, truth), ssim(restored, truth), 0.0, seconds
            scores.append(PhaseScore(picture, level, f"{classical}, then {prior}", *figures))

    for score in evaluate(config, restorer, network=network, keep=keep):
        scores.append(score)
    for key, text in protocol(config, restorer, label).items():
        print(f"{key}: {text}")
    print(f"\n{'level':12} {'method':16} {'PSNR of six':>11} {'of others':>9} {'seconds':>8}")
    for level, method in dict.fromkeys((score.level, score.method) for score in scores):
        rows = [score for score in scores if (score.level, score.method) == (level, method)]
        six = [score.psnr for score in rows if Path(score.picture).stem in NAMED]
        others = [score.psnr for score in rows if Path(score.picture).stem not in NAMED]
        means = (f"{np.mean(values):.2f}" if values else "-" for values in (six, others))
        seconds = np.mean([score.seconds for score in rows])
        print("{:12} {:16} {:>11} {:>9} {:8.1f}".format(level, method, *means, seconds), flush=True)
    print()


if __name__ == "__main__":
    main()
