"""`bge pretrain`: its output, and a run that Ctrl-C interrupts."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ALLOW_SIGINT, BASE

from bge_integrations.cli import main

TEXTS = "\n".join(json.dumps({"text": f"the giant panda number {i} is a bear"}) for i in range(8))
ARGUMENTS = ["--model", BASE, "--batch-size", "4", "--max-length", "16", "--json"]


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.jsonl").write_text(TEXTS)
    return str(tmp_path / "texts.jsonl")


def test_it_writes_the_model_and_reports_the_losses(texts, tmp_path, capfd):
    output = tmp_path / "out"
    assert main(["pretrain", texts, "--output", str(output), *ARGUMENTS]) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert err == ""  # transformers' report about the new head is not shown
    assert (report["folder"], report["updates"]) == (str(output), 2)
    assert (output / "model.safetensors").is_file()
    assert main(["pretrain", texts, "--output", str(output), *ARGUMENTS]) == 1  # it exists
    assert "Traceback" not in capfd.readouterr().err


def test_ctrl_c_saves_a_checkpoint_and_the_same_command_continues(texts, tmp_path):
    # Ctrl-C arrives after the second step
    code = (
        ALLOW_SIGINT + "import os, signal, sys\n"
        "from bge_integrations.cli import main\n"
        "from bge_integrations.training import run\n"
        "class Interrupted(run.Watcher):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        if state.global_step == 2:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "        super().on_step_end(args, state, control, **kwargs)\n"
        "run.Watcher = Interrupted\n"
        "sys.exit(main())\n"
    )
    command = ["pretrain", texts, "--output", str(tmp_path / "out"), *ARGUMENTS, "--epochs", "3"]
    stopped = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=300)
    assert stopped.returncode == 128 + signal.SIGINT, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not os.path.exists(tmp_path / "out")
    assert main(command) == 0
    assert sorted(os.listdir(tmp_path)) == ["out", "texts.jsonl"]
