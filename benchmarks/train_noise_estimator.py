"""Train the network that tells what noise is in a picture.

    python benchmarks/train_noise_estimator.py --data FOLDER [FOLDER ...] --output FILE --minutes 5

Crops of the pictures get noise of `pictures.camera`. Photographs are slow to make: each is trained on several
times, mirrored. At last what judges the means is trained alone, on larger crops, whose means are taken once.
Every twelfth picture is kept to validate on.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="Folders of clean pictures.")
    parser.add_argument("--output", type=Path, required=True, help="The weights.")
    parser.add_argument("--start", type=Path, help="Weights to start from.")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="The highest, of AdamW.")
    parser.add_argument("--size", type=int, default=128, help="Side of a crop in pixels.")
    parser.add_argument("--fresh", type=int, default=4, help="New photographs a step.")
    parser.add_argument("--batch", type=int, default=16, help="Photographs a step.")
    parser.add_argument("--kept", type=int, default=4096, help="Photographs that are kept to train on again.")
    parser.add_argument("--large", type=int, default=288, help="Side of the larger crops in pixels.")
    parser.add_argument("--judged", type=int, default=1600, help="Larger photographs to judge.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from deepgsr_cli.formats.image import picture_paths
    from deepgsr_cli.models.noise_estimator import Estimate, NoiseEstimator
    from deepgsr_cli.pictures.camera import FOR_ESTIMATION, level_of, photographed, varied
    from deepgsr_cli.pictures.dataset import Crops, read_pictures, smaller_copies
    from deepgsr_cli.pictures.scenes import grains, structures
    from deepgsr_cli.version import __version__
    from deepgsr_cli.weights.checkpoint import load_checkpoint, save_checkpoint

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    paths = [path for folder in options.data for path in picture_paths(folder)]

    def pictures_of(chosen: list[Path], scenes: int) -> list[np.ndarray]:
        pictures = read_pictures(chosen, 3, options.large)
        draw = np.random.default_rng(options.seed)
        pictures += [kind(pictures, draw) for kind in (structures, grains) for _ in range(scenes)]
        return pictures + smaller_copies(pictures, (0.6,), options.large)

    to_train = pictures_of([path for i, path in enumerate(paths) if i % 12 != 5], 40)
    to_check = pictures_of(paths[5::12], 0)

    def drawn(batch: int, size: int) -> Tensor:
        """Drawings: rectangles of flat colours, some of them of one pixel."""
        count = int(2 ** (1 + 5 * torch.rand(1, generator=generator)))
        colours = torch.rand(batch, 3, count, count, generator=generator)
        colours = torch.where(torch.rand(batch, 1, count, count, generator=generator) < 0.5, 1.0, colours)
        return (F.interpolate(colours, (size, size)) * 255).round() / 255

    def photographs(crops: Crops, batch: int) -> tuple[Tensor, Tensor]:
        """Pictures, (B, 3, size, size), and what is true of them, (B, 7), as the network's means."""
        clean = varied(crops(batch, generator), generator, gray=0.35)
        flat = torch.rand(batch, 1, 1, 1, generator=generator) < 0.05
        clean = torch.where(flat, drawn(batch, crops.size), clean)
        found = photographed(clean, generator, FOR_ESTIMATION)
        sigma, level = 255 * found.sigma, 255 * level_of(found.pictures, clean)
        noisy = (sigma.square().mean(1, keepdim=True).sqrt() >= 1).float()
        kinds = torch.stack((found.correlated, found.dependent), dim=1).float()
        return found.pictures, torch.cat((sigma, level, noisy, kinds), dim=1)

    def losses(found: Estimate, truth: Tensor) -> Tensor:
        """Of levels and of kinds, (B, 2); where there is no noise only that counts."""
        there, white = truth[:, 4], 1 - truth[:, 5:].amax(1)
        levels = (
            torch.cat((found.sigma, found.level[:, None]), dim=1).log() - truth[:, :4].clamp(min=0.3).log()
        )
        logits = torch.stack((found.noisy, found.correlated, found.dependent), dim=1)
        kinds = F.binary_cross_entropy_with_logits(logits, truth[:, 4:], reduction="none")
        # White noise is removed at the level that is found: there an error costs most.
        errors = there * (1 + 2 * white) * (levels.square() + 0.0004).sqrt().mean(1)
        return torch.stack((errors, kinds[:, 0] + there * kinds[:, 1:].mean(1)), dim=1)

    torch.set_flush_denormal(True)
    model = NoiseEstimator()
    if options.start:
        kinds = {"noise-estimator": NoiseEstimator}
        model.load_state_dict(load_checkpoint(options.start, kinds).model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=1e-4)
    # All that are kept, as 8 bits; the newest take the places of the oldest.
    pictures = torch.empty(options.kept, 3, options.size, options.size, dtype=torch.uint8)
    truths = torch.empty(options.kept, 7)
    made = 0

    def keep(fresh: tuple[Tensor, Tensor]) -> None:
        nonlocal made
        places = torch.arange(made, made + len(fresh[0])) % options.kept
        pictures[places], truths[places] = (255 * fresh[0]).round().to(torch.uint8), fresh[1]
        made += len(fresh[0])

    train, check = (Crops(each, options.size, torch.device("cpu")) for each in (to_train, to_check))
    for _ in range(8):
        keep(photographs(train, 16))
    checked = [photographs(check, 32) for _ in range(6)]
    started = time.monotonic()
    step, total = 0, torch.zeros(2)
    while (share := (time.monotonic() - started) / 60 / max(options.minutes, 1e-9)) < 1:
        for group in optimizer.param_groups:
            rise, fall = min(1, (step + 1) / 50), 0.5 + 0.5 * math.cos(math.pi * share)
            group["lr"] = options.learning_rate * rise * fall + 1e-5
        keep(photographs(train, options.fresh))
        chosen = torch.randint(min(made, options.kept), (options.batch,), generator=generator)
        x = pictures[chosen].float() / 255
        for axis in (-1, -2):
            if torch.rand(1, generator=generator) < 0.5:
                x = x.flip(axis)
        loss = losses(model(x), truths[chosen]).mean(0)
        optimizer.zero_grad()
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.detach()
        step += 1
        if step % 100 == 0:
            with torch.no_grad():
                error = torch.cat([losses(model(batch), truth) for batch, truth in checked]).mean(0)
            print(
                f"step {step}, {share:.0%}: {(total / 100).tolist()}, held out {error.tolist()}", flush=True
            )
            total = torch.zeros(2)

    def means_of(pictures: list[np.ndarray], count: int) -> tuple[Tensor, Tensor]:
        """Means of photographs of larger crops, and what is true of them."""
        crops = Crops(pictures, options.large, torch.device("cpu"))
        parts = []
        with torch.no_grad():
            for _ in range(count // 4):
                given, truth = photographs(crops, 4)
                parts.append((model.means(model.cells(given).flatten(2)), truth))
        means, truth = zip(*parts)
        return torch.cat(means), torch.cat(truth)

    means, truth = means_of(to_train, options.judged)
    checked_means, checked_truth = means_of(to_check, options.judged // 6)
    best, best_state = math.inf, copy.deepcopy(model.judge.state_dict())
    optimizer = torch.optim.AdamW(model.judge.parameters(), lr=1e-3, weight_decay=1e-2)
    for epoch in range(60):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (0.5 + 0.5 * math.cos(math.pi * epoch / 60))
        for chosen in torch.randperm(len(means), generator=generator).split(32):
            optimizer.zero_grad()
            losses(model.of_means(means[chosen]), truth[chosen]).mean(0).sum().backward()
            optimizer.step()
        with torch.no_grad():
            error = losses(model.of_means(checked_means), checked_truth).mean(0)
        if float(error.sum()) < best:
            best, best_state = float(error.sum()), copy.deepcopy(model.judge.state_dict())
        print(f"epoch {epoch}: held out {error.tolist()}", flush=True)
    model.judge.load_state_dict(best_state)
    info = {"task": "noise", "version": __version__, "trained": f"{len(paths)} pictures, {step} steps"}
    save_checkpoint(options.output, model, info=info)


if __name__ == "__main__":
    main()
