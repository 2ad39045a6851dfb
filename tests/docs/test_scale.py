"""docs/scale.md: its commands run in order, and its table is what the simulation prints."""

import re
import shlex
import subprocess
import sys

from conftest import TESTS

PROJECT = TESTS.parent
PAGE = (PROJECT / "docs" / "scale.md").read_text("utf-8")


def test_commands(bge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S) for line in block.splitlines()]
    for line in lines:
        if line.startswith("bge "):
            status, _, err = bge(*shlex.split(line)[1:])
            assert status == 0, f"{line}: {err}"
        else:
            subprocess.run(["bash", "-c", line], check=True)
    assert list((tmp_path / "vectors").glob("*.parquet"))


def test_the_simulated_table():
    script = PROJECT / "benchmarks" / "cluster_simulation.py"
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert printed.count("\n") > 5
    assert printed in PAGE
