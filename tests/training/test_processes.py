import dataclasses
import os
import socket

import torch

from deepgsr_cli.models import PRESETS
from deepgsr_cli.pictures.training import Denoise
from deepgsr_cli.tasks import train
from deepgsr_cli.training.task import Sample
from tests.samples import state_of


def work(rank, port, config, tiny, results):
    """One process of two, as torchrun starts it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    PRESETS["tiny"] = tiny
    end = train(config)
    torch.distributed.destroy_process_group()
    results.put((rank, end.step))


def test_two_processes_equal_one_with_both_batches(config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, steps=4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (port, config, PRESETS["tiny"], results)
    torch.multiprocessing.start_processes(work, arguments, nprocs=2, start_method="spawn")
    assert sorted(results.get() for _ in range(2)) == [(0, 4), (1, 4)]

    import numpy as np

    alone, steps = Denoise.sample, iter(range(100))

    def both(self, generator, device_generator):
        parts = [alone(self, generator, device_generator)]
        streams = np.random.SeedSequence([config.seed, next(steps), 1]).generate_state(2, np.uint64)
        parts.append(alone(self, *(torch.Generator().manual_seed(int(s >> 1)) for s in streams)))
        names = ("degraded", "clean", "condition", "weight")
        return Sample(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    monkeypatch.setattr(Denoise, "sample", both)
    single = dataclasses.replace(config, output=tmp_path / "single")
    train(single)
    together, expected = state_of(config), state_of(single)
    for name, value in expected["model"].items():
        torch.testing.assert_close(together["model"][name], value, rtol=1e-4, atol=2e-5)
