"""Memory that is freed is kept where the C library can be told so, and elsewhere nothing happens."""

import ctypes

import pytest
import torch

from deepgsr_cli.compute.memory import give_back_freed_memory, keep_freed_memory


class Library:
    def __init__(self):
        self.told = {}

    def malloc_trim(self, kept):
        self.told["kept"] = kept

    def mallopt(self, parameter, value):
        self.told[parameter] = value
        return 1


class Glibc(Library):
    def gnu_get_libc_version(self):
        return b"2.36"


def test_glibc_is_told_to_map_no_block_and_to_trim_nothing(monkeypatch):
    library = Glibc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    assert library.told == {-4: 0, -1: 2**31 - 1}
    give_back_freed_memory()
    assert library.told["kept"] == 0


def test_another_library_whose_parameters_may_mean_something_else_is_left_alone(monkeypatch):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    give_back_freed_memory()
    assert not library.told


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_a_system_without_such_a_library_is_no_error(monkeypatch, error):
    def refuse(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    keep_freed_memory()
    give_back_freed_memory()


def test_no_result_changes():
    x = torch.rand(1, 4, 300, 300, generator=torch.Generator().manual_seed(0))
    kernel = torch.rand(4, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    before = torch.conv2d(x, kernel)
    keep_freed_memory()
    assert torch.equal(torch.conv2d(x, kernel), before)
