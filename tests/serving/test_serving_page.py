"""The commands and clients in docs/serving.md run as written, in order, on another port."""

import os
import re
import socket
import subprocess
import sys

from conftest import TESTS

PAGE = TESTS.parent / "docs" / "serving.md"
STARTS_A_SERVER = "uvicorn.run"


def test_the_page_runs_as_written(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = "set -eo pipefail\n"
    for language, code in re.findall(r"^```(bash|python)\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S):
        if language == "bash":
            script += code.replace("curl http", "curl --fail-with-body http").replace(
                " --create", f" --port {port} --create"
            )
        elif STARTS_A_SERVER not in code:
            script += f"\"$PYTHON\" - <<'END'\n{code}END\n"
    # a background function is a shell, which does not pass the signal on
    script = re.sub(r"^bge serve (.*) &$", r'"$PYTHON" -m bge_integrations serve \1 &', script, flags=re.M)
    script = script.replace("localhost:8080", f"127.0.0.1:{port}")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
