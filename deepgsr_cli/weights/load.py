"""Weights for a task: a name or file in, a model of the kinds that the caller takes out."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from deepgsr_cli.compute.device import select_device
from deepgsr_cli.errors import MissingWeightsError, OptionError, WeightsError, check_text
from deepgsr_cli.weights.checkpoint import model_of, read_checkpoint
from deepgsr_cli.weights.manifest import default_name
from deepgsr_cli.weights.resolve import ResolvedWeights, resolve

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M", bound="nn.Module")


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A model in evaluation mode, what its file says about it, and which file that is."""

    model: M
    info: Mapping[str, str]
    weights: ResolvedWeights

    @functools.cached_property
    def sigma_max(self) -> float:
        """Highest noise level of the training, on the 0-255 scale; 255 if the file does not say."""
        return float(json.loads(self.info.get("train_config", "{}")).get("sigma_max", 255))


def load(
    task: str,
    spec: str | None,
    kinds: Mapping[str, type[M]],
    *,
    channels: int = 1,
    device: str = "auto",
    offline: bool = False,
    missing: MissingWeightsError | None = None,
    otherwise: str | None = None,
) -> Loaded[M]:
    """Load the model that a task is done with.

    Args:
        task: What the weights must be trained for.
        spec: NAME, FILE or hf:// address; None for the default of the task and the channel count.
        kinds: The classes that the caller takes, by the name in their configuration.
        channels: Channels of the images, which the default depends on.
        device: "auto", "cpu", "cuda", ...
        offline: Do not use the network to fetch weights.
        missing: The error where there are no default weights, if not the manifest's.
        otherwise: What to give instead of weights for another task, as the rest of a sentence.

    Raises:
        WeightsError: As `resolve.resolve` and `checkpoint.load_checkpoint`; or there are no default weights.
        OptionError: The weights are for another task.
    """
    if spec is not None and not isinstance(spec, os.PathLike):
        check_text("weights", spec, "give a name, a file or an hf:// address")
    try:
        name = spec or default_name(task, channels)
    except WeightsError as error:
        raise error if missing is None else missing from error
    resolved = resolve(name, offline=offline)
    content = read_checkpoint(resolved.path)
    # Before there was a second task, headers did not name it.
    if (trained_for := content.info.get("task", "denoise")) != task:
        otherwise = otherwise or f"; give weights for {task}"
        raise OptionError("weights", name, f"trained for {trained_for}{otherwise}")
    return Loaded(model_of(content, kinds, device=select_device(device)), content.info, resolved)
