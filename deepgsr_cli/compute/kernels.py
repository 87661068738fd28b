"""Loops compiled for the CPU, and threads to run them in."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import torch

_LOG = logging.getLogger(__name__)

T = TypeVar("T", bound=Callable[..., Any])


def in_threads(work: Callable[[int, int], None], count: int) -> None:
    """Do `work(first, last)` over ranges of 0 ... count, in as many threads as torch uses.

    Threads of our own, started for each call: numba's are unsafe after a fork, which data loaders do, and in
    one of its layers from two threads at once.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(0, count)
        return
    bounds = [count * i // (4 * threads) for i in range(4 * threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))


@functools.cache
def _numba() -> Any:
    """Return the module numba, which from then on logs that it compiles."""
    import numba
    from numba.core import event

    class Teller(event.Listener):
        def on_start(self, event: Any) -> None:
            _LOG.info("compiling for this processor, once: half a minute")

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", Teller())
    return numba


@functools.cache
def compiled(function: T, *, reordered: bool = False) -> T:
    """Compile a function at its first call; the code is kept on disk where some folder can be written.

    Args:
        function: Arguments may be arrays; `array.dtype.type` makes numbers of their kind.
        reordered: Whether sums may be taken in another order, without which a sum over an axis is not
            computed several terms at a time.
    """
    numba = _numba()

    # Multiply and add may be fused; nothing that would change what NaN does.
    allowed = {"contract", "reassoc"} if reordered else {"contract"}
    # As in NumPy, a division by zero raises nothing, for which loops would have to stop.
    compiler = functools.partial(numba.njit, nogil=True, fastmath=allowed, error_model="numpy")
    try:
        return cast(T, compiler(cache=True)(function))
    except RuntimeError:
        return cast(T, compiler()(function))
