"""Arrays and numbers of callers are taken as they are meant, or refused by one sentence."""

import fractions

import numpy as np
import pytest
import torch

from deepgsr_cli.compute.arrays import as_number, as_numpy, as_whole
from deepgsr_cli.errors import OptionError, ShapeError


@pytest.mark.parametrize(
    "value",
    [
        *(25, 25.0, fractions.Fraction(25), np.float32(25), np.uint8(25), np.array(25.0), np.array([25])),
        *(torch.tensor(25), torch.tensor([[25.0]])),
    ],
    ids=repr,
)
def test_a_number_of_any_kind_is_one(value):
    assert as_number("sigma", value) == 25
    assert as_whole("scale", value) == 25


@pytest.mark.parametrize(
    "value", ["25", None, b"25", 25j, [25], np.array([25, 25]), np.array("25"), {}], ids=repr
)
def test_what_is_no_number_is_a_sentence(value):
    with pytest.raises(OptionError, match=r"^sigma is .*give a number$"):
        as_number("sigma", value)


def test_none_is_taken_where_it_may_be_and_parts_of_whole_numbers_are_not():
    assert as_number("sigma", None, or_none=True) is None
    assert as_whole("seed", 2**80) == 2**80
    for value in (2.5, float("nan"), float("inf")):
        with pytest.raises(OptionError, match=r"^scale is .*give a whole number$"):
            as_whole("scale", value)


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_what_is_no_array_is_a_sentence():
    with pytest.raises(ShapeError, match="a masked array, whose mask would be lost"):
        as_numpy(np.ma.masked_less(np.ones((4, 5)), 2))
    for parts in ([np.ones((4, 5)), np.ones((3, 5))], [torch.ones(2, requires_grad=True), torch.ones(3)]):
        with pytest.raises(ShapeError, match="a list that is no array"):
            as_numpy(parts)
    for value, name in ((None, "NoneType"), ((x for x in [1]), "generator"), (b"abc", "bytes")):
        with pytest.raises(ShapeError, match=f"a {name} that is no array; give an array"):
            as_numpy(value)
    for kind, tensor in (
        ("sparse", torch.eye(4).to_sparse()),
        ("meta", torch.empty(4, 4, device="meta")),
        ("quantized", torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.quint8)),
    ):
        with pytest.raises(ShapeError, match=f"a {kind} tensor; give a dense one"):
            as_numpy(tensor)
