"""Everything at once for some seconds; `scripts/soak.py` does it for as long as you want."""

import subprocess
import sys

import pytest
from conftest import TESTS


@pytest.mark.skipif(sys.platform != "linux", reason="threads and open files are counted as on Linux")
def test_threads_and_tasks_use_everything_at_once():
    command = [sys.executable, str(TESTS.parent / "scripts" / "soak.py"), "--minutes", "0.15"]
    done = subprocess.run(
        [*command, "--threads", "16", "--tasks", "32"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
