"""Checkpoints: a model with its configuration and what is known about it, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepgsr_cli.errors import WeightsError, first_line
from deepgsr_cli.files import atomic_write
from deepgsr_cli.weights.manifest import listing

if TYPE_CHECKING:
    import torch
    from torch import nn


_FORMAT = "deepgsr-1"


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode, what its file says about it, and the file's sha256."""

    model: nn.Module
    info: dict[str, str]
    sha256: str


def save_checkpoint(path: Path, model: nn.Module, *, info: Mapping[str, str]) -> None:
    """Write a model as safetensors with its `config_dict()` and `info` in the header.

    The same weights, configuration and info give the same bytes, whatever device and memory format the
    model is in.

    Args:
        path: The file, replaced as a whole if it exists.
        model: One that `deepgsr_cli.registry.build` makes from its `config_dict()`.
        info: What to know about the weights (task, training protocol, version); not "format" or "config".

    Raises:
        OutputError: The file cannot be written.
    """
    from safetensors.torch import save

    assert not info.keys() & {"format", "config"}
    config = json.dumps(model.config_dict(), sort_keys=True)  # type: ignore[operator]
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    data = save(tensors, {**info, "format": _FORMAT, "config": config})
    # safetensors writes its header's metadata in random order. Sorted, and filled up to the alignment of
    # 8 bytes with spaces as it does, the same content is the same file.
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with atomic_write(path) as temporary:
        temporary.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])


def load_checkpoint(path: Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Model, in evaluation mode on `device`, from a file that `save_checkpoint` wrote.

    The whole file is read once, so the sha256 returned is that of the weights in use. Tensors of another
    floating point type are converted to the model's.

    Raises:
        WeightsError: Not readable, not safetensors, no deepgsr header, a configuration no model has, or
            tensors that are not exactly the model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from deepgsr_cli.registry import build

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if data.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise WeightsError(
            f"{path}: a PyTorch pickle, which could run any code when loaded; give a .safetensors checkpoint"
        )
    try:
        tensors = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a number type torch does not have
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}); give a deepgsr checkpoint"
        ) from error
    # safetensors has checked the header by now, but hands out its metadata only by path.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    info = header.get("__metadata__", {})
    form = info.pop("format", None)
    if form != _FORMAT:
        if str(form).startswith("deepgsr-"):
            raise WeightsError(f"{path}: its format is {form}, this deepgsr reads {_FORMAT}; update deepgsr")
        raise WeightsError(
            f"{path}: a safetensors file without a deepgsr header; give one that deepgsr train wrote"
        )
    try:
        model = build(json.loads(info.pop("config", "null")) or {})
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: no model has its configuration ({first_line(error)}); give another file"
        ) from error
    if difference := _tensor_difference(model.state_dict(), tensors):
        raise WeightsError(f"{path}: {difference}; the file is damaged or of another version, give another")
    model.load_state_dict(tensors)
    return Checkpoint(model.to(device).eval(), info, hashlib.sha256(data).hexdigest())


def unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path}: cannot be read ({error.strerror}); give another weights file")


def _tensor_difference(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str | None:
    """How the tensors found are not the model's, in a few words."""
    if missing := wanted.keys() - found.keys():
        return f"it lacks {listing(missing)}"
    if extra := found.keys() - wanted.keys():
        return f"it has {listing(extra)}, which the model has not"
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            return f"{name} has shape {tuple(tensor.shape)}, the model's has {tuple(wanted[name].shape)}"
    return None
