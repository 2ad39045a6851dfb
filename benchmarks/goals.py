"""Speed goals against other packages, set before measuring."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from peers import OURS, OWN_CEILINGS
from timing import ratio


class Goal(NamedTuple):
    """A goal for the ratio of a peer's time to ours.

    Attributes:
        workload: A key of WORKLOADS.
        ours, peer: Keys of PEERS.
        wanted: The minimum ratio.
        measure: "rounds" (the median ratio of the rounds), or another measure that both have.
    """

    workload: str
    ours: str
    peer: str
    wanted: float
    measure: str = "rounds"

    def measured(self, results: dict[str, Any]) -> float | None:
        """Return the measured ratio; None if one of the two was not measured."""
        peers = results["workloads"].get(self.workload, {}).get("peers", {})
        if not {self.ours, self.peer} <= set(peers):
            return None
        theirs, ours = peers[self.peer][self.measure], peers[self.ours][self.measure]
        return ratio(theirs, ours)[0] if self.measure == "rounds" else float(theirs / ours)

    def at_the_ceiling(self, results: dict[str, Any]) -> float | None:
        """Return the ratio if ours computed only its linears, at the speed of a bare matrix product."""
        reached = results["roofline"].get(self.workload, {}).get("GFLOP/s of the linears", {}).get(self.ours)
        measured = self.measured(results)
        if reached is None or measured is None or self.measure != "rounds":
            return None
        return measured * float(results["roofline"]["ceiling"][OWN_CEILINGS[self.ours]]) / float(reached)


_DEFAULT = "sentence-transformers"
_BULK = ("bulk-small", "bulk-base")
GOALS = (
    Goal("bulk-small", OURS, _DEFAULT, 6),
    Goal("bulk-base", OURS, _DEFAULT, 6.5),
    Goal("bulk-base", "ours (bfloat16)", _DEFAULT, 14),
    Goal("bulk-base", "ours (int8)", _DEFAULT, 12),
    Goal("rerank-32", OURS, _DEFAULT, 11),
    Goal("threads-64", OURS, _DEFAULT, 10),
    Goal("threads-64", OURS, _DEFAULT, 8, "query p99"),
    *(Goal(workload, OURS, "sentence-transformers (OpenVINO float32)", 1.2) for workload in _BULK),
    *(Goal(workload, "ours (bfloat16)", "sentence-transformers (OpenVINO)", 1.2) for workload in _BULK),
    *(Goal(workload, OURS, "sentence-transformers (ONNX)", 2.5) for workload in _BULK),
    *(Goal(workload, OURS, "fastembed", 2.5) for workload in _BULK),
    *(Goal(workload, OURS, "infinity_emb", 4.5) for workload in _BULK),
    *(Goal(workload, OURS, "FlagEmbedding", 15) for workload in _BULK),
    Goal("m3", OURS, "ours (three passes)", 2.8),
)


def query_beside_bulk(results: dict[str, Any]) -> dict[str, float] | None:
    """Return a query's p99 in seconds during a bulk job, and the goal: at most twice a lone query's p99 plus one batch.

    None if one of them was not measured.
    """
    ours = {
        name: results["workloads"][name]["peers"].get(OURS)
        for name in ("threads-1", "interactive")
        if name in results["workloads"]
    }
    tokens = results["roofline"].get("bulk-small", {}).get("tokens")
    if None in ours.values() or len(ours) < 2 or tokens is None:
        return None
    bulk = statistics.median(results["workloads"]["bulk-small"]["peers"][OURS]["rounds"])
    batch = bulk * results["options"]["batch tokens"] / tokens
    return {"measured": ours["interactive"]["query p99"], "wanted": 2 * ours["threads-1"]["query p99"] + batch}
