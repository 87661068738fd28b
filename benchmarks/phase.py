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
    from deepgsr_cli.evaluation.records import Case, Score
    from deepgsr_cli.evaluation.run import scores
    from deepgsr_cli.phase.evaluation import PhaseRetrieval
    from deepgsr_cli.phase.priors import weighted_denoiser
    from deepgsr_cli.phase.projections import PEAK, Retrieval

    levels, methods, classical = TABLES[name]
    if options.bm3d:
        methods = (*methods, "red-bm3d")
    if options.weights and name != "fourier":
        methods = (*methods, "unrolled")
    evaluation = PhaseRetrieval(
        data=options.data,
        method_names=methods,
        limit=options.limit,
        weights=options.weights if "unrolled" in methods else None,
        device="cpu",
        offline=True,
        **levels,
    )
    priors = ("tv", "bm3d") if options.bm3d else ("tv",)
    denoisers = {prior: weighted_denoiser(prior, evaluation.restorer)[1] for prior in priors}
    found: list[Score] = []

    def keep(case: Case, of_case: list[Score], results: dict[str, Retrieval]) -> None:
        found.extend(of_case)
        if classical not in results:
            return
        truth = case.truth[0].numpy() / PEAK
        pixels = evaluation.restored(case, results[classical])
        sigma = PEAK * float(np.std(pixels - truth))
        for prior, denoise in denoisers.items():
            started = time.perf_counter()
            x = denoise(torch.from_numpy(pixels)[None].float() * PEAK, sigma)
            seconds = time.perf_counter() - started
            restored = rounded8(x[0].numpy() / PEAK)
            figures = {"psnr": psnr(restored, truth), "ssim": ssim(restored, truth), "seconds": seconds}
            found.append(Score(case.labels, f"{classical}, then {prior}", figures))

    for _ in scores(evaluation, keep=keep):
        pass
    for key, text in evaluation.protocol().items():
        print(f"{key}: {text}")
    print(f"\n{'level':12} {'method':16} {'PSNR of six':>11} {'of others':>9} {'seconds':>8}")
    for level, method in dict.fromkeys((score.labels["level"], score.method) for score in found):
        rows = [score for score in found if (score.labels["level"], score.method) == (level, method)]
        named = [Path(score.labels["picture"]).stem in NAMED for score in rows]
        six = [score.figures["psnr"] for score, is_named in zip(rows, named) if is_named]
        others = [score.figures["psnr"] for score, is_named in zip(rows, named) if not is_named]
        means = (f"{np.mean(values):.2f}" if values else "-" for values in (six, others))
        seconds = np.mean([score.figures["seconds"] for score in rows])
        print("{:12} {:16} {:>11} {:>9} {:8.1f}".format(level, method, *means, seconds), flush=True)
    print()


if __name__ == "__main__":
    main()
