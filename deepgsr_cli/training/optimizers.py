"""Optimisers that training can choose from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS = ("adamw", "muon")


def optimizer(
    name: str, model: nn.Module, learning_rate: float, weight_decay: float, fused: bool = False
) -> list[torch.optim.Optimizer]:
    """Optimisers that share the parameters of a model.

    Args:
        name: "adamw", or "muon": AdamW for all but the kernels between hidden layers.
        model: Whose parameters they move.
        learning_rate: Of both; Muon's steps have the size that is usual for AdamW's.
        weight_decay: On matrices and kernels.
        fused: One kernel for AdamW, which torch has for the CPU and CUDA; else one for each operation.
    """
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    hidden = [n for n, p in named.items() if name == "muon" and _is_hidden(n, p)]
    others = [p for n, p in named.items() if n not in set(hidden)]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.99),
        fused=fused,
    )
    if not hidden:
        return [adamw]
    return [adamw, Muon([named[n] for n in hidden], lr=learning_rate, weight_decay=weight_decay)]


def _is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a kernel that leads from many features to many, as a matrix does."""
    first_or_last = any(part in ("head", "tail", "filtered_head", "blend") for part in name.split("."))
    return parameter.ndim == 4 and min(parameter.shape[:2]) >= 8 and not first_or_last


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal: all singular values of a step are about equal.

    Kernels count as matrices, (out, in * height * width). Equally large ones are worked on as one batch, and
    the iteration runs on their Gram matrices, (out, out), which are smaller.

    Args:
        parameters: Kernels or matrices.
        lr: A step's entries have a root mean square of a fifth of it, as AdamW's have (Liu et al., Muon is
            scalable for LLM training, 2025).
        momentum: Of Nesterov's kind.
        weight_decay: Decoupled.

    Source:
        Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move the parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            averages = [self.state[p]["momentum"] for p in parameters]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            steps = torch._foreach_lerp(gradients, averages, group["momentum"])
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            batches: dict[tuple[int, int], list[int]] = {}
            for i, p in enumerate(parameters):
                batches.setdefault((p.shape[0], p.numel() // p.shape[0]), []).append(i)
            for (rows, columns), batch in batches.items():
                matrices = orthogonal(torch.stack([steps[i].reshape(rows, columns) for i in batch]))
                changes = (matrices * (0.2 * math.sqrt(max(rows, columns)) * group["lr"])).unbind()
                torch._foreach_sub_(
                    [parameters[i] for i in batch], [m.view(steps[i].shape) for i, m in zip(batch, changes)]
                )


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices (B, m, n) with the same singular vectors and singular values of 0.7 to 1.2, roughly.

    Newton and Schulz's iteration for the polar factor with Jordan's coefficients, which trade the last
    digits for speed. Its factors are polynomials of the Gram matrix and commute with it.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonal(matrices.mT, iterations).mT
    matrices = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-12)
    gram = matrices @ matrices.mT
    unit = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    product = unit.expand_as(gram)
    for _ in range(iterations):
        factor = 3.4445 * unit - 4.7750 * gram + 2.0315 * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ matrices
