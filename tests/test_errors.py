import pickle

import pytest
import typer
from typer.testing import CliRunner

from deepgsr_cli.cli import Commands
from deepgsr_cli.errors import InputError, MissingDeviceError, MissingWeightsError, OptionError

ADVICE = "give 1 or more, or leave --mask-kind out"


def test_an_option_is_named_as_the_reader_wrote_it():
    error = OptionError("num_masks", 0, ADVICE)
    assert error.option == "num_masks"
    assert str(error) == "num_masks is 0: give 1 or more, or leave mask_kind out"
    assert error.for_command_line() == f"--num-masks 0: {ADVICE}"


@pytest.mark.parametrize(("value", "shown"), [(300.0, "300"), (0.25, "0.25"), (7, "7"), ("a-b", "a-b")])
def test_values_are_shown_short(value, shown):
    assert str(OptionError("sigma", value, "no")) == f"sigma is {shown}: no"


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(OptionError("sigma", 300.0, "give 0 to 255")))
    assert (error.option, str(error)) == ("sigma", "sigma is 300: give 0 to 255")


def test_the_command_line_names_the_option():
    class Own(Commands):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.commands = settings["commands"]

    app = typer.Typer(cls=Own, context_settings={"terminal_width": 200})

    @app.command()
    def run() -> None:
        raise OptionError("num_masks", 0, ADVICE)

    @app.command()
    def other() -> None: ...

    outcome = CliRunner().invoke(app, ["run"])
    assert outcome.exit_code == 2
    assert f"--num-masks 0: {ADVICE}" in " ".join(outcome.output.split())


def test_advice_may_go_on_from_the_value():
    error = OptionError("overlap", 8, "is below 64 px; give --overlap 64")
    assert str(error) == "overlap is 8: below 64 px; give overlap=64"
    assert error.for_command_line() == "--overlap 8 is below 64 px; give --overlap 64"


def test_the_command_line_may_have_another_name():
    error = pickle.loads(pickle.dumps(OptionError("num_views", 2, "give 4 or more", "--views")))
    assert error.for_command_line() == "--views 2: give 4 or more"


@pytest.mark.parametrize("kind", [MissingDeviceError, MissingWeightsError])
def test_what_a_machine_lacks_is_no_wrong_usage(kind):
    assert kind("device", "cuda", "not on this machine").exit_code == 1


def test_any_sentence_names_arguments_in_python_and_options_on_the_command_line():
    typed = "a.png: 9 pixels; raise --max-pixels, or leave --weights out"
    assert str(InputError(typed)) == "a.png: 9 pixels; raise max_pixels, or leave weights out"
    assert InputError(typed).for_command_line() == typed


def test_a_command_to_be_typed_stays_as_it_is():
    typed = "made for gray; train others by deepgsr train denoise --channels 3, or leave --weights out"
    expected = "made for gray; train others by deepgsr train denoise --channels 3, or leave weights out"
    assert str(InputError(typed)) == expected
