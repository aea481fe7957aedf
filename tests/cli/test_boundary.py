"""Errors become one line of text and an exit code; faults of ours keep their traceback."""

import errno

import pytest
import typer

from gossamer.cli.boundary import guarded
from gossamer.errors import ArtifactError, ModelError


def stopped(error, capsys, *, resumes=False):
    def command():
        raise error

    with pytest.raises(typer.Exit) as caught:
        guarded(command, resumes=resumes)()
    out, err = capsys.readouterr()
    assert out == ""
    return caught.value.exit_code, err


def test_an_error_is_a_line_and_a_hint(capsys):
    code, err = stopped(ModelError("no model 'x' in [the zoo]", hint="did you mean 'y'?"), capsys)
    assert code == 2
    assert err == "error: no model 'x' in [the zoo]\nhint: did you mean 'y'?\n"


def test_a_damaged_file_names_the_place(capsys):
    code, err = stopped(ArtifactError("checksum differs", "blob 3"), capsys)
    assert (code, err) == (2, "error: blob 3: checksum differs\n")


def test_a_long_message_stays_one_line(capsys):
    code, err = stopped(ModelError("a " * 300 + "\nb"), capsys)
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/out.goss"), "/data/out.goss: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied"),
        (OSError("odd"), "odd"),
    ],
)
def test_the_system_is_quoted(error, said, capsys):
    assert stopped(error, capsys) == (2, f"error: {said}\n")


def test_an_interrupt_says_how_to_continue(capsys):
    code, err = stopped(KeyboardInterrupt(), capsys, resumes=True)
    assert code == 130
    assert err == "error: interrupted\nhint: run the same command again to continue where it stopped\n"
    assert stopped(KeyboardInterrupt(), capsys) == (130, "error: interrupted\n")


def test_a_fault_of_ours_is_not_hidden():
    def command():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(command)()


def test_a_closed_pipe_is_no_error_of_the_user():
    def command():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        guarded(command)()
