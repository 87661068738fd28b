"""Networks for pictures as ONNX files, for programs that have no PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from deepgsr_cli.errors import OptionError, OutputError
from deepgsr_cli.files import atomic_write, clean_up
from deepgsr_cli.models.deepgsr import DeepGSR
from deepgsr_cli.weights.checkpoint import model_of, read_checkpoint
from deepgsr_cli.weights.resolve import resolve

# The first operator set with the operators that groups need.
_OPSET = 18


class _Graph(nn.Module):
    """A network as a function of an image and, if it takes one, of a condition."""

    def __init__(self, model: DeepGSR) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        restored: Tensor = self.model(image, condition)
        return restored


def export_onnx(weights: str, target: Path, *, offline: bool = False, overwrite: bool = False) -> None:
    """Write a network as an ONNX file.

    Its input "image" is (1, C, height, width), float32, in [0, 1] where clean; its output "restored" is like
    it. One that demosaicks takes mosaics, (1, 1, height, width), whose first row is R G R G ..., and gives
    (1, 3, height, width). A network that is told the degradation has a second input, "condition", (1, n),
    whose first entry is for denoising the standard deviation of the noise on the image's scale. Networks with
    group blocks take images of at least their grid, which the file's metadata have as "least_side".

    Args:
        weights: NAME, FILE or hf:// address of a DeepGSR network without the collaborative filter.
        target: The file.
        offline: Do not use the network to fetch weights.
        overwrite: Replace a file that is there.

    Raises:
        OptionError: The weights are of another network, or of one with the filter.
        OutputError: The file is there, or cannot be written, or the package onnx is not installed.
        WeightsError: The weights are unknown or damaged.
    """
    try:
        import onnx
    except ImportError as error:
        raise OutputError(f"{target}: needs the package onnx; run pip install 'deepgsr[onnx]'") from error
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists; give --overwrite or another -o")
    content = read_checkpoint(resolve(weights, offline=offline).path)
    task = content.info.get("task", "denoise")
    if content.kind not in ("", "deepgsr"):
        raise OptionError(
            "weights",
            weights,
            f"trained for {task}, a network of the kind {content.kind}, and those of the kind deepgsr are"
            " exported; give weights for denoise, derain, restore, dejpeg, demosaick or ct-denoise",
            flag="WEIGHTS",  # an argument of the command, no option
        )
    model = model_of(content, {"deepgsr": DeepGSR})
    if model.config.search:
        raise OptionError(
            "weights",
            weights,
            "the network has a collaborative filter, which ONNX cannot say; give weights without, as"
            " deepgsr-gray-fast, or train some by --preset wide",
            flag="WEIGHTS",
        )
    least = model.tile_needs.grid
    # Sizes that are padded, for the levels and for the groups, so that padding is in the graph.
    height, width = least + least // 2 - 3, least + least // 2 + 5
    image = torch.zeros(1, 1 if model.config.mosaic else model.config.channels, height, width)
    condition = torch.full((1, model.config.conditions), 0.1)
    names = ["image", "condition"] if model.config.conditions else ["image"]
    sizes = {2: "height", 3: "width"}
    clean_up([target], sparing=True)
    with atomic_write(target) as temporary:
        with warnings.catch_warnings(), torch.no_grad():
            # Tracing warns of each test of a size; those that matter come out the same from `least` on.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Graph(model),
                (image, condition) if model.config.conditions else (image,),
                str(temporary),
                input_names=names,
                output_names=["restored"],
                dynamic_axes={"image": sizes, "restored": sizes},
                opset_version=_OPSET,
                dynamo=False,
            )
        graph = onnx.load(str(temporary))
        facts = {"weights": weights, "task": task, "least_side": str(least)}
        onnx.helper.set_model_props(graph, facts)
        onnx.checker.check_model(graph)
        onnx.save(graph, str(temporary))
