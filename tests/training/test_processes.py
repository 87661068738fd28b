import dataclasses
import os
import socket

import pytest
import torch

from deepgsr_cli.models import PRESETS
from deepgsr_cli.pictures.training import PictureSample, PictureTraining
from deepgsr_cli.tasks import train
from deepgsr_cli.training.task import Draw
from tests.forks import FORKS, deepgsr, start
from tests.samples import state_of


def environment(rank, port):
    """The environment that torchrun gives one process of two."""
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def work(config, tiny, results):
    """One process of two, as torchrun starts it; it tells its last step."""
    torch.set_num_threads(1)
    PRESETS["tiny"] = tiny
    results.send(trained_step(config))


def trained_step(config):
    """The last step of a process's training."""
    end = train(config)
    torch.distributed.destroy_process_group()
    return end.step


@pytest.fixture
def port():
    """A port that is given to nobody else meanwhile: one socket may listen where another is only bound."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_with_one_sentence(pictures, tmp_path, port, killed):
    command = ["train", "denoise", "--data", str(pictures)]
    command += ["-o", str(tmp_path), "--model", "nsr", "--held-out", "1", "--batch", "1", "--patch", "16"]
    command += ["--device", "cpu", "--validate-every", "2", "--channels", "1"]
    processes, said = [], []
    for rank in (0, 1):
        reader, writer = FORKS.Pipe(duplex=False)
        processes.append(start(deepgsr, *command, environment=environment(rank, port), streams={2: writer}))
        writer.close()
        said.append(os.fdopen(os.dup(reader.fileno())))
    try:
        assert "step 2" in (line := said[0].readline()), line + said[0].read()  # both are at work
        processes[killed].kill()
        lines = said[1 - killed].read().splitlines()
        processes[1 - killed].join(300)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert processes[1 - killed].exitcode == 1
    assert [line for line in lines if not line.startswith("step ")] == [
        f"process {1 - killed} of 2: another process of this run has ended or does not answer; "
        "start all of them again, with --resume"
    ]


def test_two_processes_equal_one_with_both_batches(config, tmp_path, monkeypatch, port):
    config = dataclasses.replace(config, steps=4)
    # The other process is this one.
    results, sender = FORKS.Pipe(duplex=False)
    second = start(work, config, PRESETS["tiny"], sender, environment=environment(1, port))
    sender.close()
    with monkeypatch.context() as patch:
        for name, value in environment(0, port).items():
            patch.setenv(name, value)
        assert trained_step(config) == 4
    assert results.recv() == 4
    second.join()

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
