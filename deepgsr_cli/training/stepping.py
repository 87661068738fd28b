"""Loss and gradients of a training step: as they come, compiled, or as one CUDA graph."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic

import torch
from torch import Tensor, nn

from deepgsr_cli.training.task import S

if TYPE_CHECKING:
    from deepgsr_cli.training.task import TrainingTask


_BACKEND = "inductor"


class Gradients(Generic[S]):
    """Loss of a batch, with the gradients left in the model's parameters.

    Args:
        task: Which defines the loss.
        model: On its device.
    """

    def __init__(self, task: TrainingTask[S], model: nn.Module) -> None:
        self.task, self.model = task, model
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, sample: S) -> Tensor:
        """Mean loss, detached."""
        if self.graph is None:
            return self._compute(sample)
        torch._foreach_copy_(_tensors(self.sample), _tensors(sample))
        self.graph.replay()
        return self.loss.clone()

    def prepare(self, sample: S, notify: Callable[[str], None]) -> None:
        """Compile the model and, on CUDA, record what a batch like `sample` takes as a graph.

        A network of narrow layers is hundreds of short kernels, each of which takes the processor longer to
        start than the GPU to run. Weights stay as they are. What cannot be compiled or recorded goes on as
        before: it is only slower.

        Args:
            sample: A batch; all others have its shapes.
            notify: Called with a sentence about what did not work.
        """
        state = _random_state()
        try:
            self.model.compile(backend=_BACKEND, dynamic=False)
            self._compute(sample)
        except Exception as error:
            self.model._compiled_call_impl = None
            notify(f"training goes on without a compiled network: {_first_line(error)}")
        # An operator, which may work on the CPU or keep a state, is not recorded.
        if all(isinstance(value, Tensor) and value.is_cuda for value in _values(sample)):
            try:
                self._record(sample)
            except Exception as error:
                self.graph = None
                notify(f"training goes on without a CUDA graph: {_first_line(error)}")
        self.model.zero_grad(set_to_none=self.graph is None)
        _restore_random(state)

    def _compute(self, sample: S) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        loss = self.task.loss(self.model, sample)
        loss.backward()
        return loss.detach()

    def _record(self, sample: S) -> None:
        self.sample = copy.deepcopy(sample)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their kernels before recording
            for _ in range(3):
                self._compute(self.sample)
        torch.cuda.current_stream().wait_stream(stream)
        self.model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.loss = self._compute(self.sample)
        self.graph = graph


def _values(sample: Any) -> list[Any]:
    """The fields of a batch, a dataclass, with those that are tuples taken apart."""
    fields = [getattr(sample, field.name) for field in dataclasses.fields(sample)]
    return [value for field in fields for value in (field if isinstance(field, tuple) else (field,))]


def _tensors(sample: Any) -> list[Tensor]:
    return [value for value in _values(sample) if isinstance(value, Tensor)]


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _restore_random(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
