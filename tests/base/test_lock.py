"""One run in a folder at a time, whatever became of the process that was there before."""

import signal
import subprocess
import sys

import pytest

from gossamer.errors import BusyError
from gossamer.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from gossamer.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_and_told_where(tmp_path):
    with locked(tmp_path / "new"):
        with pytest.raises(BusyError, match=r"new: another run .*\(hint: .*another folder"), locked(tmp_path / "new"):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "new"):
        pass


def test_an_error_in_the_block_ends_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_another_process_is_kept_out_until_it_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BusyError), locked(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        pass
