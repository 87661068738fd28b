"""The groups' worth: the same training with and without group blocks, and with the collaborative filter.

    python benchmarks/ablation.py --data TRAIN --test BSD68 --test Urban100 --steps 1500

All runs have the same seed, data, batches and steps; their time is reported. The test pictures are only
measured on, not chosen on.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of training pictures.")
    parser.add_argument("--test", type=Path, action="append", required=True, help="Folder of test pictures.")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--sigma", type=float, nargs="+", default=[25.0, 50.0])
    parser.add_argument("--limit", type=int, help="Only the first pictures of each test folder.")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    import torch

    from deepgsr_cli.evaluation.run import scores
    from deepgsr_cli.evaluation.summary import means
    from deepgsr_cli.pictures.evaluation import Denoising
    from deepgsr_cli.pictures.restorer import Restorer, RunOptions
    from deepgsr_cli.tasks import train
    from deepgsr_cli.training.config import TrainConfig

    torch.set_num_threads(options.threads)
    print(f"{options.steps} steps of 16 crops of 64 x 64, gray, sigma 0 to 75, seed 0, {options.precision};")
    print("PSNR in dB: noise not clipped, output clipped and rounded to 8 bits, mean of each picture's\n")
    columns = [f"{folder.name} {sigma:g}" for folder in options.test for sigma in options.sigma]
    print(f"{'network':<20}  parameters  seconds  " + "  ".join(columns))
    for preset, without in (("small", False), ("small", True), ("collaborative", False)):
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig(
                data=(options.data,),
                output=Path(folder),
                preset=preset,
                without_groups=without,
                steps=options.steps,
                precision=options.precision,
                device="cpu",
            )
            end = train(config)
            restorer = Restorer(str(Path(folder) / "model.safetensors"), RunOptions(device="cpu"))
            parameters = sum(p.numel() for p in restorer.load(1).model.parameters())
            cells = []
            for test in options.test:
                evaluation = Denoising(
                    data=test,
                    sigmas=tuple(options.sigma),
                    gray=True,
                    limit=options.limit,
                    weights=restorer.weights,
                    device="cpu",
                )
                found = means(evaluation, list(scores(evaluation)))
                cells += [f"{mean.figures['psnr']:.2f}" for mean in found if mean.method == "deepgsr"]
            text = "  ".join(cell.rjust(len(column)) for cell, column in zip(cells, columns))
            name = f"{preset} without groups" if without else preset
            print(f"{name:<20}  {parameters:10,}  {end.seconds:7.0f}  {text}", flush=True)


if __name__ == "__main__":
    main()
