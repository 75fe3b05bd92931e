"""Exit codes and the one line that a user sees."""

import sys

import pytest
import typer

from fedstill.common import errors
from fedstill.common.console import exit_with, run_command


def run_raising(monkeypatch, action, *, arguments=()):
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

    @app.callback()
    def root() -> None:
        """A command."""

    @app.command()
    def act(count: int = 1) -> None:
        action()

    monkeypatch.setattr(sys, "argv", ["tool", *(arguments or ["act"])])
    return run_command(app, name="tool")


def raising(error):
    def action():
        raise error

    return action


def leaving(code):
    def action():
        raise typer.Exit(code)

    return action


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.FedStillError("broken"), 1),
        (errors.RunError("broken"), 1),
        (errors.ExchangeError("broken"), 1),
        (errors.ConfigError("broken"), 2),
        (errors.DataError("broken"), 2),
        (errors.CheckpointError("broken"), 2),
        (errors.ArtefactError("broken"), 2),
    ],
)
def test_our_errors_are_one_line_and_their_exit_code(monkeypatch, capsys, error, code):
    assert run_raising(monkeypatch, raising(error)) == code
    assert capsys.readouterr().err == "tool: broken\n"


def test_a_message_of_several_lines_becomes_one(monkeypatch, capsys):
    run_raising(monkeypatch, raising(errors.DataError("first\n  second " + "long " * 60)))
    assert capsys.readouterr().err.count("\n") == 1


def test_brackets_in_a_message_are_not_markup(monkeypatch, capsys):
    run_raising(monkeypatch, raising(errors.DataError("got [red] and [/]")))
    assert capsys.readouterr().err == "tool: got [red] and [/]\n"


def test_success_is_zero_and_silent(monkeypatch, capsys):
    assert run_raising(monkeypatch, lambda: None) == 0
    assert capsys.readouterr().err == ""


def test_an_exit_code_of_a_command_is_kept(monkeypatch):
    assert run_raising(monkeypatch, leaving(3)) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupt_is_130(monkeypatch, capsys, error):
    assert run_raising(monkeypatch, raising(error)) == 130
    assert capsys.readouterr().err.strip() == "tool: interrupted"


@pytest.mark.parametrize(
    "arguments", [["act", "--nope"], ["act", "--count", "many"], ["acts"], ["act", "extra"]]
)
def test_wrong_usage_is_two_and_one_line(monkeypatch, capsys, arguments):
    assert run_raising(monkeypatch, lambda: None, arguments=arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("tool: ")


def test_a_bare_command_prints_its_help_and_nothing_more(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tool"])
    app = typer.Typer(add_completion=False, no_args_is_help=True)
    app.callback()(lambda: None)
    app.command("act")(lambda: None)
    assert run_command(app, name="tool") == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.out + captured.err
    assert "tool:" not in captured.err


def test_an_error_of_the_system_names_the_file(monkeypatch, capsys):
    monkeypatch.delenv("FEDSTILL_DEBUG", raising=False)
    assert run_raising(monkeypatch, raising(PermissionError(13, "Permission denied", "/there"))) == 1
    assert capsys.readouterr().err == "tool: Permission denied /there\n"


def test_a_bug_is_not_hidden(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_raising(monkeypatch, lambda: 1 // 0)


def test_the_process_ends_with_the_code():
    with pytest.raises(SystemExit) as ended:
        exit_with(lambda: 7)
    assert ended.value.code == 7


def test_an_unknown_command_names_the_nearest_once(monkeypatch, capsys):
    assert run_raising(monkeypatch, lambda: None, arguments=["acts"]) == 2
    assert capsys.readouterr().err.count("Did you mean 'act'?") == 1
