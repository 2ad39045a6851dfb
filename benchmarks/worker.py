"""One peer in a process of its own: takes orders on stdin, one JSON object a line, and answers on stdout."""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from operator import attrgetter
from typing import Any

import numpy as np
from peers import PEERS, Peer
from workloads import WORKLOADS, Given, Run


class Orders:
    """What the parent can ask for; each method's arguments and answer are JSON."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._run: Run | None = None
        self._outputs: list[Any] = []

    def versions(self) -> dict[str, Any]:
        """Of the peer's distributions; "" for one that is missing."""
        return {"versions": self._peer.versions()}

    def lacks(self, workload: str) -> dict[str, Any]:
        """What the workload needs and the peer has not; "" where it has all."""
        module = importlib.import_module(f"peers.{self._peer.module}")
        for need in WORKLOADS[workload].needs:
            try:
                attrgetter(need)(module)
            except AttributeError:
                return {"lacks": need}
        return {"lacks": ""}

    def prepare(self, workload: str, given: dict[str, Any]) -> dict[str, Any]:
        """Load and warm up. (A fresh process' run has the loading to itself.)"""
        self._run = None
        self._run = WORKLOADS[workload].prepare(self._peer, Given(**given))
        return {}

    def run(self) -> dict[str, Any]:
        assert self._run is not None
        measured, self._outputs = self._run()
        return {"measured": measured}

    def outputs(self, file: str) -> dict[str, Any]:
        """Write the last run's outputs to an .npz file."""
        np.savez(file, *self._outputs)
        return {}


def main() -> None:
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # peers print: that goes to the log
    orders = Orders(PEERS[sys.argv[1]])
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(orders, order.pop("order"))(**order)
        except Exception as error:
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
