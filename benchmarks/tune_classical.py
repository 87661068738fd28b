"""Strength of total variation and non-local means in units of sigma, tuned on training pictures.

    python benchmarks/tune_classical.py --data TRAIN [--limit 10]

The best of each grid, by the mean PSNR over three levels, is what `deepgsr eval` uses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from deepgsr_cli.evaluation.run import scores
from deepgsr_cli.pictures.evaluation import Denoising

GRIDS = {"NLM_STRENGTH": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9), "TV_WEIGHT": (0.7, 0.85, 1.0, 1.15, 1.3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of training pictures.")
    parser.add_argument("--limit", type=int, default=10, help="Only the first pictures.")
    options = parser.parse_args()

    import numpy as np

    from deepgsr_cli.pictures import baselines

    print(f"first {options.limit} pictures of {options.data.name}, gray, sigma 15, 25, 50; mean PSNR in dB\n")
    for method, name in (("nlm", "NLM_STRENGTH"), ("tv", "TV_WEIGHT")):
        for value in GRIDS[name]:
            setattr(baselines, name, value)
            evaluation = Denoising(
                data=options.data,
                sigmas=(15, 25, 50),
                method_names=(method,),
                gray=True,
                limit=options.limit,
            )
            psnrs = [score.figures["psnr"] for score in scores(evaluation) if score.method == method]
            print(f"{method} {value:4.2f}  {np.mean(psnrs):.3f}", flush=True)


if __name__ == "__main__":
    main()
