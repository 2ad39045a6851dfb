"""A process that runs one peer: reads orders from stdin, one JSON object per line, and answers on stdout."""

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
    """The orders of the parent process; arguments and answers are JSON."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._run: Run | None = None
        self._outputs: list[Any] = []

    def versions(self) -> dict[str, Any]:
        """Return the versions of the peer's distributions; "" for missing ones."""
        return {"versions": self._peer.versions()}

    def lacks(self, workload: str) -> dict[str, Any]:
        """Return what the workload needs but the peer lacks; "" if the peer has everything."""
        module = importlib.import_module(f"peers.{self._peer.module}")
        for need in WORKLOADS[workload].needs:
            try:
                attrgetter(need)(module)
            except AttributeError:
                return {"lacks": need}
        return {"lacks": ""}

    def prepare(self, workload: str, given: dict[str, Any]) -> dict[str, Any]:
        """Load and warm up; workloads that start a fresh process load in their run instead."""
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
    os.dup2(2, 1)  # the output of peers goes to the log
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
