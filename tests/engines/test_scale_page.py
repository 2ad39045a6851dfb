"""The blocks of docs/scale.md that need an engine run as written."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import TESTS

PAGE = (TESTS.parent / "docs" / "scale.md").read_text("utf-8")
BLOCKS = re.findall(r"^<!-- not run: needs (\w+); make test-engines[^\n]*\n```python\n(.*?)^```", PAGE, re.M | re.S)
MODULES = {"Ray": "ray", "Spark": "pyspark", "Daft": "daft"}


def test_the_page_has_a_block_for_each_engine():
    assert {engine for engine, _ in BLOCKS} == set(MODULES)


@pytest.mark.usefixtures("engine_workers")
@pytest.mark.parametrize(("engine", "code"), BLOCKS, ids=MODULES)
def test_block(engine, code, tmp_path, monkeypatch):
    if find_spec(MODULES[engine]) is None:
        pytest.skip(f"{engine} is not installed")
    (tmp_path / "rows").mkdir()
    lines = [json.dumps({"id": i, "text": f"Panda {i} eats bamboo."}) for i in range(100)]
    (tmp_path / "rows" / "pandas.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    import pyarrow.parquet as pq

    assert sorted(pq.read_table(tmp_path / f"{engine.lower()}-vectors").column("id").to_pylist()) == list(range(100))
