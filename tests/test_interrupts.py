"""The exit status after Ctrl-C and after a closed pipe; each command's tests cover the command itself."""

import os
import subprocess
import sys

import pytest

from bge_integrations.interrupts import exit_status


@pytest.mark.parametrize(
    ("interrupt", "line"),
    [(KeyboardInterrupt(), "demo: interrupted\n"), (KeyboardInterrupt("go on"), "demo: interrupted; go on\n")],
)
def test_an_interrupt_says_what_it_carries(capsys, interrupt, line):
    with exit_status("demo: interrupted") as ended:
        raise interrupt
    assert ended.status == 130
    assert capsys.readouterr() == ("", line)


def test_other_errors_are_raised():
    with pytest.raises(ValueError, match="mine"), exit_status("interrupted"):
        raise ValueError("mine")


@pytest.mark.parametrize("then", ["pass", "raise KeyboardInterrupt", "raise ValueError"])
def test_a_closed_pipe_is_silent_however_the_block_ends(then):
    code = f"""
import sys
from bge_integrations.interrupts import exit_status
with exit_status("interrupted") as ended:
    print("nobody reads this")
    {then}
sys.exit(ended.status)
"""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run([sys.executable, "-c", code], stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")
