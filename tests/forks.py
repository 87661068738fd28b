"""Processes of tests that start with torch and Dask imported, which takes longer than what they do."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "deepgsr_cli.cli.pictures",
        "deepgsr_cli.cli.train",
        "deepgsr_cli.ct.reconstruction",
        "deepgsr_cli.pictures.training",
        "deepgsr_cli.weights.load",
        "distributed.cli.dask_scheduler",
        "distributed.cli.dask_worker",
        *("filelock", "httpx2", "tqdm.auto", "yaml"),  # of huggingface_hub, which reads its environment
        "matplotlib.pyplot",
        "numba",
        "torch._dynamo",
        "tests.samples",
    ]
)


def start(
    function: Callable[..., object],
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    streams: Mapping[int, Connection] | None = None,
) -> ForkServerProcess:
    """Call a function in a new process, in this folder.

    Args:
        function: What is called; the process ends with it, and has its exit code where it exits.
        arguments: Of the function.
        environment: Variables that the process has; those of this one by default.
        streams: What stands for its standard input, 0, output, 1, and error, 2.
    """
    environment = dict(os.environ if environment is None else environment)
    process = FORKS.Process(target=_call, args=(function, arguments, environment, streams or {}))
    process.start()
    return process


def deepgsr(*arguments: str) -> None:
    """Run the command line, as its script does."""
    from deepgsr_cli.cli import app

    sys.argv = ["deepgsr", *arguments]
    app()


def _call(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    environment: Mapping[str, str],
    streams: Mapping[int, Connection],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, connection in streams.items():
        os.dup2(connection.fileno(), number)
        name, mode = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))[number]
        setattr(sys, name, os.fdopen(number, mode, buffering=1, closefd=False))
    function(*arguments)
