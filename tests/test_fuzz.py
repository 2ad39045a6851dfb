"""A few damaged files of every format; `scripts/fuzz.py` makes as many as you want."""

import os
import subprocess
import sys

import pytest
from conftest import TESTS


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and measured as on Linux")
def test_damaged_files_end_in_a_result_or_a_documented_error():
    done = subprocess.run(
        [sys.executable, str(TESTS.parent / "scripts" / "fuzz.py"), "--inputs", "500", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 findings" in done.stdout
