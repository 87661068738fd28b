"""A training step, its gradients and its descent: as they come, compiled, or as CUDA graphs."""

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


class Descent:
    """A step along the gradients that lie in a model's parameters: clipped, then by its optimisers, and into
    the average of the weights.

    Args:
        model: On its device.
        average: Its moving average.
        optimizers: Of its parameters.
        clip: Largest norm of the gradient.
    """

    def __init__(
        self, model: nn.Module, average: nn.Module, optimizers: list[torch.optim.Optimizer], clip: float
    ) -> None:
        self.parameters: list[Tensor] = [*model.parameters()]
        self.averages: list[Tensor] = [*average.parameters()]
        self.optimizers, self.clip = optimizers, clip
        self.device = self.parameters[0].device
        self.share = torch.zeros((), device=self.device)  # of the weights in their average
        self.notify: Callable[[str], None] | None = None
        self.steps_to_recording = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, learning_rate: float, decay: float) -> None:
        """Make a step.

        Args:
            learning_rate: Of all optimisers.
            decay: Of the average.
        """
        self.share.fill_(1 - decay)
        for group in self._groups():
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate
        if self.notify is not None:
            self.steps_to_recording -= 1
            if self.steps_to_recording == 0:
                self._record(learning_rate, self.notify)
        if self.graph is None:
            self._move()
        else:
            self.graph.replay()

    def prepare(self, notify: Callable[[str], None]) -> None:
        """Record a step on CUDA as a graph, after some that are not: they make the optimisers' states, and
        libraries choose their kernels in them.

        Args:
            notify: Called with a sentence if that does not work; all goes on as before then.
        """
        if self.device.type == "cuda":
            self.notify, self.steps_to_recording = notify, 4

    def settle(self) -> None:
        """Take the settings of optimisers whose state was loaded back to those of a run on any device."""
        for group in self._groups():
            group["lr"] = float(group["lr"])
            if "capturable" in group:
                group["capturable"] = False

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.optimizers for group in part.param_groups]

    def _move(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for part in self.optimizers:
            part.step()
        with torch.no_grad():
            changes = torch._foreach_sub(self.parameters, self.averages)
            torch._foreach_mul_(changes, self.share)
            torch._foreach_add_(self.averages, changes)

    def _record(self, learning_rate: float, notify: Callable[[str], None]) -> None:
        try:
            for group in self._groups():
                group["lr"] = torch.tensor(learning_rate, device=self.device)
                if "capturable" in group:
                    group["capturable"] = True
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._move()
            self.graph = graph
        except Exception as error:
            self.settle()
            notify(f"training goes on without a CUDA graph of the descent: {_first_line(error)}")


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
