"""How a command is ended from outside: by Ctrl-C, by SIGTERM, which schedulers send, or by SIGHUP, which a
terminal sends that is closed."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Those that the system has; a process has one number for each.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_LATER_S = 0.05  # until it is looked again whether what is deaf has ended


class Interrupted(KeyboardInterrupt):
    """A signal, as an exception: nothing that is being written is left half done.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """Return what a command exits with that an interrupt has ended, as shells have it."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


def count_deaf(frame: FrameType | None) -> int:
    """Return how many calls a frame is in that must not be interrupted: imports and those of llvmlite.

    An exception amid the import of torch has C++ abort the process. One amid the compiling of loops is
    lost in what C calls, or leaves objects that cannot be deleted.
    """
    count = 0
    while frame is not None:
        name = frame.f_code.co_filename
        count += name == "<frozen importlib._bootstrap>" or "llvmlite" in name
        frame = frame.f_back
    return count


def _send(number: signal.Signals) -> None:
    """Send a signal to the main thread, also where that waits in C."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have signals end the block by `Interrupted`, and have those that come while it ends wait for that.

    One that comes amid an import, or what else `count_deaf` counts, ends what follows that. A signal that is
    ignored stays so, as SIGHUP under nohup. In another thread than the first, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    around = count_deaf(sys._getframe())
    later: list[threading.Timer] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        error = sys.exc_info()[1]
        while error is not None:
            if isinstance(error, Interrupted):
                return  # what the one before has interrupted is being put in order
            error = error.__context__
        if count_deaf(frame) > around:
            later.append(threading.Timer(_LATER_S, _send, [number]))
            later[-1].start()
            return
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for timer in later:
            timer.cancel()  # what it would end has ended
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def held_back() -> Iterator[None]:
    """Have a signal that would interrupt the block interrupt what follows it, whatever the block raises."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    met: list[int] = []
    handlers = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda number, frame: met.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if met:
            handlers[met[0]](met[0], None)
