"""Which process has a folder open."""

import subprocess
import sys

import pytest
from filelock import FileLock

from bge_integrations.index.lock_holder import holder_of

PROGRAM = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_the_process_and_its_program(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with FileLock(tmp_path / "own"):
            assert str(other.pid) in holder_of(tmp_path / ".lock")
        other.communicate()


def test_nothing_is_told_of_a_lock_that_nobody_holds(tmp_path):
    (tmp_path / ".lock").touch()
    assert holder_of(tmp_path / ".lock") == holder_of(tmp_path / "missing") == "another process"
