"""The face of the package: its names, and what importing it costs."""

import importlib
import inspect
import subprocess
import sys
from unittest.mock import patch

import pytest

import deepgsr_cli

FUNCTIONS = [name for name in deepgsr_cli.__all__ if name[0].islower()]


def test_importing_the_package_imports_no_torch():
    code = "import sys, deepgsr_cli; dir(deepgsr_cli); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("modules_first", [False, True])
def test_a_function_stays_one_whichever_is_imported_first(modules_first):
    with patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.partition(".")[0] == "deepgsr_cli"]:
            del sys.modules[name]
        fresh = importlib.import_module("deepgsr_cli")
        if not modules_first:
            assert all(callable(getattr(fresh, name)) for name in FUNCTIONS)
        for name in ("cli.pictures", "pictures.restorer", "pictures.jobs", "ct.api", "mar.api", "phase.api"):
            importlib.import_module(f"deepgsr_cli.{name}")
        assert all(callable(getattr(fresh, name)) for name in FUNCTIONS)
        assert fresh.restore is importlib.import_module("deepgsr_cli.pictures.api").restore


def test_the_package_lists_its_names_and_each_is_there():
    assert set(deepgsr_cli.__all__) <= set(dir(deepgsr_cli))
    for name in deepgsr_cli.__all__:
        assert getattr(deepgsr_cli, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sharpen'"):
        deepgsr_cli.sharpen  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_at_most_eight_parameters_and_says_what_it_does(name):
    function = getattr(deepgsr_cli, name)
    assert len(inspect.signature(function).parameters) <= 8
    assert function.__doc__
