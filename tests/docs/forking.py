"""Runs programs in forks of this process, which has imported the packages that take seconds to import.

Each line of the input is a program as JSON: its code, arguments, folder, and file for its output. Its exit status is
printed.
"""

import json
import os
import signal
import sys
from types import ModuleType
from typing import Any

import chromadb  # noqa: F401
import langchain_core.vectorstores  # noqa: F401
import llama_index.core  # noqa: F401
import sentence_transformers  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401

SECONDS = 120


def next_program() -> dict[str, Any] | None:
    """Return a program in a fork of this process; None in this process, at the end of the input."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def run(program: dict[str, Any]) -> None:
    signal.alarm(SECONDS)  # ends the process
    output = os.open(program["output"], os.O_WRONLY)
    for stream, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(target, stream)
    os.chdir(program["folder"])
    sys.path[0] = ""
    sys.argv = ["-c", *program["arguments"]]
    main = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(program["code"], "<string>", "exec"), vars(main))


if __name__ == "__main__" and (found := next_program()):
    run(found)
