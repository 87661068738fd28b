import dataclasses
import os
import socket

import torch

from deepgsr_cli.models import PRESETS
from deepgsr_cli.pictures.training import PictureSample, PictureTraining
from deepgsr_cli.tasks import train
from deepgsr_cli.training.task import Draw
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

    alone, steps = PictureTraining.sample, iter(range(100))

    def both(self, draw):
        parts = [alone(self, d) for d in (draw, Draw.of(torch.device("cpu"), config.seed, next(steps), 1))]
        shown = tuple(torch.cat(tensors) for tensors in zip(*(part.shown for part in parts)))
        return PictureSample(shown, *(torch.cat([getattr(p, n) for p in parts]) for n in ("clean", "weight")))

    monkeypatch.setattr(PictureTraining, "sample", both)
    single = dataclasses.replace(config, output=tmp_path / "single")
    train(single)
    together, expected = state_of(config), state_of(single)
    for name, value in expected["model"].items():
        torch.testing.assert_close(together["model"][name], value, rtol=1e-4, atol=2e-5)
