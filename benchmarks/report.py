"""Write the tables and the plot of docs/performance.md from benchmarks/results.json.

    python benchmarks/report.py

updates them without measuring again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from goals import GOALS, query_beside_bulk
from peers import OURS, OWN_CEILINGS

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
PLOT = PAGE.with_suffix(".svg")
_BEGIN, _END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
_BULK = ("bulk-small", "bulk-base", "m3", "mixed", "rerank-32", "rerank-100", "rag")
_QUERIES = ("threads-1", "threads-8", "threads-64", "tasks-1", "tasks-16", "tasks-256", "interactive")
_START = {
    "import": ("import seconds", "{:.2f} s"),
    "load": ("load seconds", "{:.2f} s"),
    "first query": ("first query seconds", "{:.2f} s"),
    "memory then": ("resident MB", "{:.0f} MB"),
    "at most, with some passages": ("peak MB", "{:.0f} MB"),
}


def markdown(results: dict[str, Any]) -> str:
    """Return all tables, with a description of the machine and the versions."""
    workloads, parts = results["workloads"], [_about(results), f"![A peer's time over ours]({PLOT.name})"]
    bulk, queries = ([name for name in group if name in workloads] for group in (_BULK, _QUERIES))
    if bulk:
        parts += ["### Passages and reranking", _ratios(results, bulk)]
    if queries:
        parts += ["### Single queries", _ratios(results, queries)]
        parts += ["99th percentile of the time per query, over all rounds:", _percentiles(results, queries)]
    if "start" in workloads:
        parts += [f"### Start and memory\n\n{workloads['start']['title']}, in a new process:", _start(results)]
    ceiling = results["roofline"]["ceiling"]
    bare = ", ".join(f"{best} ({name})" for name, best in ceiling.items())
    parts += ["### The limit", f"A bare matrix product on this machine reached, in GFLOP/s: {bare}."]
    for workload, found in results["roofline"].items():
        if workload != "ceiling":
            reached = ", ".join(
                f"at {speed:.0f} GFLOP/s in {OWN_CEILINGS[name]} ({speed / ceiling[OWN_CEILINGS[name]]:.0%})"
                for name, speed in found["GFLOP/s of the linears"].items()
            )
            parts.append(
                f"{workloads[workload]['title']}: {found['tokens']} tokens; over the whole call's time, our linears "
                f"run {reached} of a bare product."
            )
    if goals := _goals(results):
        parts += ["### Goals", goals]
    missing = [f"- {peer}: {why}" for peer, why in results["skipped"].items()]
    for found in workloads.values():
        missing += [
            f"- {peer}, {found['title']}: {why}"
            for peer, why in found["not measured"].items()
            if why.startswith("failed")
        ]
    if missing:
        parts += ["Not measured:", "\n".join(missing)]
    return "\n\n".join(parts) + "\n"


def _about(results: dict[str, Any]) -> str:
    about, options = results["machine"], results["options"]
    said = " ".join(f"--{name} {options[name]}" for name in ("rounds", "seconds", "passages", "queries", "longest"))
    counts = [len(peer["rounds"]) for found in results["workloads"].values() for peer in found["peers"].values()]
    versions = {name: version for peer in results["versions"].values() for name, version in peer.items()}
    own = ", ".join(
        f"{name} {version}"
        for name, version in sorted(versions.items())
        if name not in ("torch", "transformers", "sentence-transformers")
    )
    return (
        f"{about['processor']}, {about['cores']} cores ({about['capability']}), {about['memory, GB']} GB, "
        f"{about['system']}, Python {about['python']}, torch {about['torch']}; system load before the start: "
        f"{about['load before']}. "
        f"`python benchmarks/side_by_side.py {said}`: {min(counts)} to {max(counts)} rounds. The peers: "
        f"{own}; sentence-transformers and transformers: "
        f"{_shared(results, 'sentence-transformers')} and {_shared(results, 'transformers')}."
    )


def _shared(results: dict[str, Any], distribution: str) -> str:
    """Return the versions of a distribution in all environments."""
    return ", ".join(sorted({peer[distribution] for peer in results["versions"].values() if distribution in peer}))


def _ratios(results: dict[str, Any], names: list[str]) -> str:
    """Return a table with our seconds, the other packages' ratio to ours, and the largest difference in outputs."""
    rows = [["", *(results["workloads"][name]["title"] for name in names), "largest difference"]]
    for peer in results["versions"]:
        cells, differences = [peer], []
        for name in names:
            found = results["workloads"][name]
            cells.append(_cell(found["peers"].get(peer), found["not measured"].get(peer, "")))
            differences.append(found["peers"].get(peer, {}).get("difference"))
        rows.append([*cells, _largest(differences)])
    return _table([row for row in rows if set(row[1:]) != {""}])


def _cell(measured: dict[str, Any] | None, why: str) -> str:
    if measured is None:
        return "failed" if why.startswith("failed") else ""
    if "ratio" not in measured:
        return _spent(measured["seconds"])
    return "{:.2f}× ({:.2f} to {:.2f})".format(*measured["ratio"])


def _largest(differences: list[Any]) -> str:
    known = [difference for difference in differences if difference is not None]
    wrong = [difference for difference in known if isinstance(difference, str)]
    return wrong[0] if wrong else f"{np.max(known):.1e}" if known else ""


def _percentiles(results: dict[str, Any], names: list[str]) -> str:
    rows = [["", *(results["workloads"][name]["title"] for name in names)]]
    for peer in results["versions"]:
        found = [results["workloads"][name]["peers"].get(peer) for name in names]
        rows.append([peer, *(_spent(measured["query p99"]) if measured else "" for measured in found)])
    return _table([row for row in rows if set(row[1:]) != {""}])


def _start(results: dict[str, Any]) -> str:
    rows = [["", *_START, "import to first vector, over ours"]]
    for peer, measured in results["workloads"]["start"]["peers"].items():
        figures = [form.format(measured[key]) for key, form in _START.values()]
        rows.append([peer, *figures, _cell(measured, "")])
    return _table(rows)


def _goals(results: dict[str, Any]) -> str:
    """Return a table of the measured goals, reached or not; "" if there are none."""
    rows = [["", "goal", "measured", "at the ceiling", ""]]
    for goal in GOALS:
        measured, limit = goal.measured(results), goal.at_the_ceiling(results)
        if measured is not None:
            title = results["workloads"][goal.workload]["title"]
            measure = ", 99th percentile" if goal.measure == "query p99" else ""
            what = f"{title}{measure}: {goal.ours} to {goal.peer}"
            reached = "reached" if measured >= goal.wanted else "not reached"
            ceiling = "" if limit is None else f"{limit:.1f}×"
            rows.append([what, f"{goal.wanted:g}×", f"{measured:.2f}×", ceiling, reached])
    beside = query_beside_bulk(results)
    if beside:
        what = "a query during a bulk job, 99th percentile: at most twice that of a lone query plus one batch"
        reached = "reached" if beside["measured"] <= beside["wanted"] else "not reached"
        rows.append([what, _spent(beside["wanted"]), _spent(beside["measured"]), "", reached])
    return _table(rows) if len(rows) > 1 else ""


def _spent(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _table(rows: list[list[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def plot(results: dict[str, Any], target: Path) -> None:
    """Plot each workload's ratios with their spread over the rounds, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "performance"
    from matplotlib import pyplot

    shown = [name for name in (*_BULK, *_QUERIES, "start") if name in results["workloads"]]
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.55 * len(shown)), layout="constrained")
    others = [peer for peer in results["versions"] if peer != OURS]
    for rank, peer in enumerate(others):
        points = []
        for place, name in enumerate(shown):
            measured = results["workloads"][name]["peers"].get(peer, {})
            if "ratio" in measured:
                points.append((place + 0.7 * (rank / max(1, len(others) - 1) - 0.5), *measured["ratio"]))
        if points:
            at, middle, low, high = zip(*points, strict=True)
            spread = [
                [m - least for m, least in zip(middle, low, strict=True)],
                [most - m for m, most in zip(middle, high, strict=True)],
            ]
            axes.errorbar(middle, at, xerr=spread, fmt="osD^v"[rank % 5], ms=4, lw=0.8, label=peer)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    axes.set_yticks(range(len(shown)), [results["workloads"][name]["title"] for name in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("a peer's time over ours (right of 1: ours is faster)")
    axes.grid(axis="x", lw=0.3)
    if others:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    results = json.loads(RESULTS.read_text())
    page = PAGE.read_text("utf-8")
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    PAGE.write_text(f"{before}{_BEGIN}\n{markdown(results)}\n{_END}{after}", "utf-8")
    plot(results, PLOT)
    print(f"written: {PAGE}, {PLOT}")


if __name__ == "__main__":
    main()
