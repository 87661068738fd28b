"""Numbers and their nouns agree."""

from __future__ import annotations

import pytest

from deepgsr_cli.words import counted


@pytest.mark.parametrize(("number", "words"), [(0, "0 files"), (1, "1 file"), (1204, "1,204 files")])
def test_the_noun_agrees_with_its_number(number: int, words: str) -> None:
    assert counted(number, "file") == words
