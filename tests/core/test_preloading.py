"""`gunicorn --preload`: the application loads and uses a model, and the workers that are forked from it do too."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import BASE, assert_close, wait_until

pytest.importorskip("gunicorn.app.wsgiapp", reason="gunicorn does not run here", exc_type=ImportError)

APPLICATION = """
import json, os
from bge_integrations import load_embedder

embedder = load_embedder(os.environ["MODEL"])
embedder.encode(["before the fork"], kind=None)

def application(environ, start_response):
    vector = embedder.encode([environ["PATH_INFO"]] * 3, kind=None).dense[0]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), vector.tolist()]).encode()]
"""


def test_workers_of_a_preloaded_application(tmp_path, base):
    (tmp_path / "application.py").write_text(APPLICATION)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0", "application"]
    with log.open("wb") as opened:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stderr=opened,
            env={**os.environ, "MODEL": BASE, "OMP_NUM_THREADS": "1"},
        )
    try:
        wait_until(lambda: log.read_text("utf-8").count("Booting worker") == 2 or process.poll() is not None, 120)
        (address,) = re.findall(r"Listening at: (http://[\d.:]+)", log.read_text("utf-8"))

        def ask(number):
            with urllib.request.urlopen(f"{address}/{number}", timeout=60) as answer:
                return json.load(answer)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(ask, range(12)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert process.returncode == 0, log.read_text("utf-8")
    assert process.pid not in {worker for worker, _ in found}
    assert_close([vector for _, vector in found], base.encode([f"/{i}" for i in range(12)], kind=None).dense)
