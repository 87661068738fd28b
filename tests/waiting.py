"""A device where nothing has a value, on which work shows whether it would make the processor wait."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode

META = torch.device("meta")


class NoWaiting(TorchFunctionMode):
    """Refuse copies to META, which on CUDA would wait for all that was started; what asks for a value that is
    there, as `item` or a condition does, fails by itself."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device == META:
            here = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.device != META]
            assert function not in (torch.tensor, torch.as_tensor), "numbers are copied to the device"
            assert not here, f"{function.__name__} copies a tensor to the device"
        return result
