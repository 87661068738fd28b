"""Checkpoints: a model with its configuration and what is known about it, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from deepgsr_cli.errors import WeightsError, first_line
from deepgsr_cli.files import atomic_write
from deepgsr_cli.weights.manifest import listing

if TYPE_CHECKING:
    import torch
    from torch import nn


_FORMAT = "deepgsr-1"

M = TypeVar("M", bound="nn.Module")


@dataclass(frozen=True)
class Content:
    """What a checkpoint file holds.

    Attributes:
        path: The file.
        config: The model's configuration, as JSON.
        info: What is known about the weights.
        tensors: The weights, by their names in the model.
        sha256: Of the file.
    """

    path: Path
    config: str
    info: dict[str, str]
    tensors: dict[str, torch.Tensor]
    sha256: str

    @property
    def kind(self) -> str:
        """Kind of the model, as its configuration names it; empty where it names none."""
        try:
            config = json.loads(self.config)
        except ValueError:
            return ""
        return str(config.get("model", "")) if isinstance(config, dict) else ""


@dataclass(frozen=True)
class Checkpoint(Generic[M]):
    """A model in evaluation mode, what its file says about it, and the file's sha256."""

    model: M
    info: dict[str, str]
    sha256: str


def save_checkpoint(path: Path, model: nn.Module, *, info: Mapping[str, str]) -> None:
    """Write a model as safetensors with its `config_dict()` and `info` in the header.

    The same weights, configuration and info give the same bytes, whatever device and memory format the
    model is in.

    Args:
        path: The file, replaced as a whole if it exists.
        model: One that its class's `from_config` makes from its `config_dict()`.
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


def read_checkpoint(path: Path) -> Content:
    """Read a file that `save_checkpoint` wrote, without making a model of it.

    The whole file is read once, so the sha256 returned is that of the weights in use.

    Raises:
        WeightsError: Not readable, not safetensors, or no deepgsr header.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

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
    config = info.pop("config", "null")
    return Content(path, config, info, tensors, hashlib.sha256(data).hexdigest())


def build(config: Mapping[str, Any], kinds: Mapping[str, type[M]]) -> M:
    """Make the model of a configuration, as `model.config_dict()` returns it, with random weights.

    Raises:
        ValueError: Not a model of these kinds, or a field that is unknown or out of its range.
    """
    fields = dict(config)
    name = fields.pop("model", None)
    if name not in kinds:
        raise ValueError(f"model {name!r} is unknown; known are {', '.join(kinds)}")
    return kinds[name].from_config(fields)  # type: ignore[attr-defined]


def model_of(content: Content, kinds: Mapping[str, type[M]], *, device: str | torch.device = "cpu") -> M:
    """Make the model of a file's content, in evaluation mode on `device`.

    Tensors become float32, whatever torch's default is.

    Raises:
        WeightsError: A configuration no model of these kinds has, or tensors that are not exactly the
            model's.
    """
    path = content.path
    try:
        model = build(json.loads(content.config) or {}, kinds)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: no model has its configuration ({first_line(error)}); give another file"
        ) from error
    if difference := _tensor_difference(model.state_dict(), content.tensors):
        raise WeightsError(f"{path}: {difference}; the file is damaged or of another version, give another")
    model.float().load_state_dict(content.tensors)
    return model.to(device).eval()


def load_checkpoint(
    path: Path, kinds: Mapping[str, type[M]], *, device: str | torch.device = "cpu"
) -> Checkpoint[M]:
    """Load a model, in evaluation mode on `device`, from a file that `save_checkpoint` wrote.

    Args:
        path: The file.
        kinds: The classes that the caller takes, by the name in their configuration.
        device: Device that the model goes to.

    Raises:
        WeightsError: As `read_checkpoint` and `model_of`.
    """
    content = read_checkpoint(path)
    return Checkpoint(model_of(content, kinds, device=device), content.info, content.sha256)


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
