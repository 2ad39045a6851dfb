"""A folder that becomes read-only while its index is open: what is acknowledged is kept, the rest is an error."""

import json
import os
import subprocess
import sys
import tempfile

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="gives up root's rights, which permissions don't bind"
)

PROGRAM = """
import json, os, sys
from pathlib import Path
from bge_integrations.errors import BGEError
from bge_integrations.index import M3Index

NOBODY = 65534
folder, warm = Path(sys.argv[1]), Path(sys.argv[2])
with M3Index.open(warm, "pocket") as index:  # imports what is needed while this is root
    index.add(["A bear."], ["bear"])
    index.set_defaults(candidates=50)
    index.search("bear")

def permit(mode):
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
        if path.is_dir():
            path.chmod(mode)

acknowledged, outcomes = {"panda"}, []
with M3Index.open(folder, "pocket") as index:
    index.add(["A panda."], ["panda"])
    permit(0o555)
    os.seteuid(NOBODY)
    for number in range(3):
        try:
            index.add([f"A heron, {number}."], [f"heron {number}"])
            acknowledged.add(f"heron {number}")
        except BGEError as error:
            outcomes.append(type(error).__name__)
    try:
        index.set_defaults(candidates=50)
        outcomes.append("done")
    except BGEError as error:
        outcomes.append(type(error).__name__)
    assert index.search("panda", k=1)[0].id == "panda"
    os.seteuid(0)
    permit(0o755)
    index.add(["A bear."], ["bear"])
    acknowledged.add("bear")
with M3Index.open(folder, "pocket") as index:
    kept = {document.id for document in index.scan()}
    defaults = index.defaults.candidates
print(json.dumps([sorted(acknowledged), sorted(kept), outcomes, defaults]))
"""


def test_nothing_acknowledged_is_lost():
    with tempfile.TemporaryDirectory() as place:  # outside of pytest's folder, which only root may enter
        os.chmod(place, 0o755)
        command = [sys.executable, "-c", PROGRAM, f"{place}/index", f"{place}/warm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    acknowledged, kept, outcomes, defaults = json.loads(done.stdout)
    attempted = {"panda", "bear", *(f"heron {number}" for number in range(3))}
    assert set(acknowledged) <= set(kept) <= attempted  # an `add` that failed may have stored its document
    assert outcomes[-1] != "done"  # a new manifest can't be written, and the old one is used
    assert defaults == 200
