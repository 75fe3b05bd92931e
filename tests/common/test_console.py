"""Exit codes and the one line that a user sees."""

import sys

import pytest
import typer

import fedstill
from fedstill.clients import cli as node_cli
from fedstill.common import errors
from fedstill.common.console import exit_with, run_command
from fedstill.server import cli


def run_raising(monkeypatch, action, *, arguments=()):
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

    @app.callback()
    def root() -> None:
        """A command."""

    @app.command()
    def act(count: int = 1) -> None:
        action()

    monkeypatch.setattr(sys, "argv", ["tool", *(arguments or ["act"])])
    return run_command(app, name="tool", extra="server")


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
    assert run_command(app, name="tool", extra="server") == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.out + captured.err
    assert "tool:" not in captured.err


def test_an_error_of_the_system_names_the_file(monkeypatch, capsys):
    monkeypatch.delenv("FEDSTILL_DEBUG", raising=False)
    assert run_raising(monkeypatch, raising(PermissionError(13, "Permission denied", "/there"))) == 1
    assert capsys.readouterr().err == "tool: Permission denied /there\n"


@pytest.mark.parametrize(
    ("module", "extra"), [("torch", "server"), ("grpc", "server"), ("executorch.exir", "edge")]
)
def test_what_an_extra_brings_is_named_with_the_command_that_brings_it(monkeypatch, capsys, module, extra):
    monkeypatch.delenv("FEDSTILL_DEBUG", raising=False)
    missing = ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert run_raising(monkeypatch, raising(missing)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"needs more than this installation has: pip install 'fedstill[{extra}]'" in line
    assert module in line


def test_a_module_that_nobody_asks_for_is_a_bug(monkeypatch):
    with pytest.raises(ModuleNotFoundError):
        run_raising(monkeypatch, raising(ModuleNotFoundError("No module named 'foo'", name="foo")))


@pytest.mark.parametrize("program", ["fedstill", "fedstill-node"])
def test_both_programs_say_their_version(monkeypatch, capsys, program):
    monkeypatch.setattr(sys, "argv", [program, "--version"])
    assert {"fedstill": cli.run, "fedstill-node": node_cli.run}[program]() == 0
    assert capsys.readouterr().out == f"{program} {fedstill.__version__}\n"


@pytest.mark.parametrize(
    ("program", "begun", "completed"),
    [("fedstill", "sim", "simulate"), ("fedstill-node", "pred", "predict")],
)
def test_both_programs_complete_in_a_shell(monkeypatch, capsys, program, begun, completed):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setenv(f"_{program.replace('-', '_').upper()}_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"{program} {begun}")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        {"fedstill": cli.run, "fedstill-node": node_cli.run}[program]()
    assert capsys.readouterr().out.split() == [completed]


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
