"""What all commands share: exit codes and one-line errors."""

import logging

import pytest

from hp_sdk.cli import new_parser, run_command
from hp_sdk.errors import BackendUnavailable, ConfigError, InputError, ModelNotFound


@pytest.fixture(autouse=True)
def root_logger():
    """Commands configure logging; the next test starts clean."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers, root.level = handlers, level


def run(raised=None, argv=(), code=None):
    def command(options):
        if raised is not None:
            raise raised
        return code

    return run_command(new_parser("hp-thing", "A test."), command, argv)


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (InputError("bad photo"), 3),
        (ConfigError("bad option"), 2),
        (ModelNotFound("no model"), 4),
        (BackendUnavailable("no GPU"), 5),
        (KeyboardInterrupt(), 130),
        (RuntimeError("oops"), 1),
    ],
)
def test_every_failure_has_its_exit_code_and_one_line(raised, code, capsys):
    assert run(raised) == code
    err = capsys.readouterr().err
    assert err.startswith("hp-thing: ")
    assert err.count("\n") == 1


def test_an_error_message_of_many_lines_is_told_in_one(capsys):
    assert run(InputError("first\n  second")) == 3
    assert capsys.readouterr().err == "hp-thing: first second\n"


def test_an_unexpected_error_names_its_type_and_where_to_look(capsys):
    run(RuntimeError("oops"))
    err = capsys.readouterr().err
    assert "unexpected RuntimeError: oops" in err
    assert "-v" in err


@pytest.mark.parametrize("raised", [InputError("bad"), RuntimeError("bad")])
def test_the_traceback_comes_with_v_only(raised, capsys):
    run(raised, ["-v"])
    assert "Traceback" in capsys.readouterr().err
    run(raised)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (7, 7)])
def test_the_commands_answer_is_the_exit_code(returned, code):
    assert run(code=returned) == code


def test_an_unknown_option_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as leaving:
        run(argv=["--colour"])
    assert leaving.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as leaving:
        run(argv=["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith("hp-thing ")
