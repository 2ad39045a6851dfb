"""Write benchmarks/results.json as the tables and the plot of docs/performance.md.

    python benchmarks/report.py

writes them again without measuring.
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
_SUMMARY_BEGIN, _SUMMARY_END = "<!-- summary: begin -->\n", "<!-- summary: end -->\n"
_BEGIN, _END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
_BULK = ("bulk-small", "bulk-base", "m3", "mixed", "rerank-32", "rerank-100", "rag")
_QUERIES = ("threads-1", "threads-8", "threads-64", "tasks-1", "tasks-16", "tasks-256", "interactive")
#: The rows of the table at the top of the page.
_SUMMARY = {
    "bulk-small": "bge-small size, 128 passages",
    "bulk-base": "bge-base size, 32 passages",
    "mixed": "4 layers of bge-m3, 6 texts of up to 4096 tokens",
    "rerank-32": "reranker-base size, 32 pairs",
    "rerank-100": "reranker-base size, 100 pairs",
    "threads-64": "256 queries from 64 threads",
    "threads-1": "256 queries, one at a time",
    "interactive": "one query during a bulk job",
}
#: Its columns.
_SUMMARY_PEERS = {
    "sentence-transformers": "sentence-transformers",
    "sentence-transformers (best batch)": "its best batch size",
    "sentence-transformers (ONNX)": "its ONNX backend",
    "sentence-transformers (OpenVINO float32)": "its OpenVINO backend, float32",
    "fastembed": "fastembed",
    "FlagEmbedding": "FlagEmbedding",
}
#: The panels of the plot, and the bars of each panel.
_PANELS = ("bulk-small", "bulk-base", "mixed", "rerank-32", "threads-64", "threads-1")
_BARS = {
    OURS: "bge_integrations",
    "sentence-transformers": "sentence-transformers",
    "sentence-transformers (ONNX)": "ONNX",
    "sentence-transformers (OpenVINO float32)": "OpenVINO",
    "fastembed": "fastembed",
    "FlagEmbedding": "FlagEmbedding",
}
_START = {
    "import": ("import seconds", "{:.2f} s"),
    "load": ("load seconds", "{:.2f} s"),
    "first query": ("first query seconds", "{:.2f} s"),
    "memory then": ("resident MB", "{:.0f} MB"),
    "peak memory with some passages": ("peak MB", "{:.0f} MB"),
}


def summary(results: dict[str, Any]) -> str:
    """Return the plot and the short table for the top of the page."""
    rows = [["", "this package", *_SUMMARY_PEERS.values()]]
    for name, title in _SUMMARY.items():
        workload = results["workloads"].get(name)
        if workload is None:
            continue
        seconds = workload["peers"][OURS]["seconds"]
        cells = [f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"]
        for peer in _SUMMARY_PEERS:
            measured = workload["peers"].get(peer, {})
            cells.append(_short(measured["ratio"][0]) if "ratio" in measured else _failure(workload, peer))
        rows.append([title, *cells])
    return f"![Time of each package relative to this one, for six workloads]({PLOT.name})\n\n{_table(rows)}\n"


def _short(ratio: float) -> str:
    """Return a ratio with two significant digits."""
    return f"{ratio:#.2g}".rstrip(".") + "×"


def _failure(workload: dict[str, Any], peer: str) -> str:
    why = workload["not measured"].get(peer, "")
    return "" if not why.startswith("failed") else "out of memory" if "memory" in why else "fails"


def markdown(results: dict[str, Any]) -> str:
    """Return all tables, with the machine, the command and the versions that were measured."""
    workloads, parts = results["workloads"], [_about(results)]
    bulk, queries = ([name for name in group if name in workloads] for group in (_BULK, _QUERIES))
    if bulk:
        parts += ["### Passages and reranking", _ratios(results, bulk)]
    if queries:
        parts += ["### Single queries", _ratios(results, queries)]
        parts += ["99th percentile of the time of a query, over all rounds:", _percentiles(results, queries)]
    if "start" in workloads:
        parts += [f"### Start and memory\n\n{workloads['start']['title']}, in a new process:", _start(results)]
    ceiling = results["roofline"]["ceiling"]
    bare = ", ".join(f"{best} ({name})" for name, best in ceiling.items())
    parts += ["### The limit", f"A plain matrix product on this machine reached, in GFLOP/s: {bare}."]
    for workload, measured in results["roofline"].items():
        if workload != "ceiling":
            reached = ", ".join(
                f"{speed:.0f} GFLOP/s in {OWN_CEILINGS[name]} ({speed / ceiling[OWN_CEILINGS[name]]:.0%})"
                for name, speed in measured["GFLOP/s of the linears"].items()
            )
            parts.append(
                f"{workloads[workload]['title']}: {measured['tokens']} tokens. Over the whole call our linears reach "
                f"{reached} of a plain product."
            )
    if goals := _goals(results):
        parts += ["### Goals", goals]
    missing = [f"- {peer}: {why}" for peer, why in results["skipped"].items()]
    for workload in workloads.values():
        missing += [
            f"- {peer}, {workload['title']}: {why}"
            for peer, why in workload["not measured"].items()
            if why.startswith("failed")
        ]
    if missing:
        parts += ["Not measured:", "\n".join(missing)]
    return "\n\n".join(parts) + "\n"


def _about(results: dict[str, Any]) -> str:
    machine, options = results["machine"], results["options"]
    arguments = " ".join(
        f"--{name} {options[name]}" for name in ("rounds", "seconds", "passages", "queries", "longest")
    )
    counts = [len(peer["rounds"]) for workload in results["workloads"].values() for peer in workload["peers"].values()]
    versions = {name: version for peer in results["versions"].values() for name, version in peer.items()}
    own = ", ".join(
        f"{name} {version}"
        for name, version in sorted(versions.items())
        if name not in ("torch", "transformers", "sentence-transformers")
    )
    return (
        f"{machine['processor']}, {machine['cores']} cores ({machine['capability']}), {machine['memory, GB']} GB, "
        f"{machine['system']}, Python {machine['python']}, torch {machine['torch']}; load average before the run: "
        f"{machine['load before']}. "
        f"`python benchmarks/side_by_side.py {arguments}`: {min(counts)} to {max(counts)} rounds. Versions: "
        f"{own}; sentence-transformers {_versions(results, 'sentence-transformers')}; transformers "
        f"{_versions(results, 'transformers')}."
    )


def _versions(results: dict[str, Any], distribution: str) -> str:
    """Return the versions of a distribution that differs between the environments."""
    return ", ".join(sorted({peer[distribution] for peer in results["versions"].values() if distribution in peer}))


def _ratios(results: dict[str, Any], names: list[str]) -> str:
    """Return a table of our seconds, the others' ratios to them, and the largest difference of any output."""
    rows = [["", *(results["workloads"][name]["title"] for name in names), "largest difference"]]
    for peer in results["versions"]:
        cells, differences = [peer], []
        for name in names:
            workload = results["workloads"][name]
            cells.append(_cell(workload["peers"].get(peer), workload["not measured"].get(peer, "")))
            differences.append(workload["peers"].get(peer, {}).get("difference"))
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
        measurements = [results["workloads"][name]["peers"].get(peer) for name in names]
        rows.append([peer, *(_spent(measured["query p99"]) if measured else "" for measured in measurements)])
    return _table([row for row in rows if set(row[1:]) != {""}])


def _start(results: dict[str, Any]) -> str:
    rows = [["", *_START, "import to first vector, relative to ours"]]
    for peer, measured in results["workloads"]["start"]["peers"].items():
        figures = [form.format(measured[key]) for key, form in _START.values()]
        rows.append([peer, *figures, _cell(measured, "")])
    return _table(rows)


def _goals(results: dict[str, Any]) -> str:
    """Return a table of the goals that were measured, reached or not; "" if there are none."""
    rows = [["", "goal", "measured", "upper bound here", ""]]
    for goal in GOALS:
        ratio, limit = goal.measured(results), goal.at_the_ceiling(results)
        if ratio is not None:
            title = results["workloads"][goal.workload]["title"]
            measure = ", 99th percentile" if goal.measure == "query p99" else ""
            comparison = f"{title}{measure}: {goal.peer} relative to {goal.ours}"
            bound = "" if limit is None else f"{limit:.1f}×"
            reached = "reached" if ratio >= goal.wanted else "not reached"
            rows.append([comparison, f"{goal.wanted:g}×", f"{ratio:.2f}×", bound, reached])
    beside = query_beside_bulk(results)
    if beside:
        comparison = "a query during a bulk job, 99th percentile: at most twice a lone query's plus one batch"
        reached = "reached" if beside["measured"] <= beside["wanted"] else "not reached"
        rows.append([comparison, _spent(beside["wanted"]), _spent(beside["measured"]), "", reached])
    return _table(rows) if len(rows) > 1 else ""


def _spent(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _table(rows: list[list[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def plot(results: dict[str, Any], target: Path) -> None:
    """Draw a panel of bars for each workload: every package's time relative to ours."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "performance"
    from matplotlib import pyplot

    shown = [name for name in _PANELS if name in results["workloads"]]
    rows = -(-len(shown) // 2)
    figure, grid = pyplot.subplots(rows, 2, figsize=(9, 0.4 + 2.1 * rows), layout="constrained", squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for name, axes in zip(shown, grid.flat, strict=False):
        workload = results["workloads"][name]
        ours = workload["peers"][OURS]["seconds"]
        ratios = {peer: workload["peers"].get(peer, {}).get("ratio", [0])[0] for peer in _BARS} | {OURS: 1.0}
        bars = axes.barh(
            list(_BARS.values()),
            list(ratios.values()),
            height=0.72,
            color=["#3b6fb6" if peer == OURS else "#b8c2cc" for peer in _BARS],
        )
        labels = [_short(ratio) if ratio else _failure(workload, peer) for peer, ratio in ratios.items()]
        labels[0] = f"{ours:.3g} s"
        axes.bar_label(bars, labels, padding=3, fontsize=9)
        axes.set_title(_SUMMARY[name], loc="left", fontsize=10, fontweight="bold")
        axes.set_xlim(0, 1.18 * max(ratios.values()))
        axes.invert_yaxis()
        axes.xaxis.set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.suptitle("Time relative to this package: shorter bars are faster", fontsize=11, x=0.01, ha="left")
    figure.savefig(target, metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)


def main() -> None:
    results = json.loads(RESULTS.read_text())
    page = _replaced(PAGE.read_text("utf-8"), _SUMMARY_BEGIN, summary(results), _SUMMARY_END)
    PAGE.write_text(_replaced(page, _BEGIN, markdown(results), _END), "utf-8")
    plot(results, PLOT)
    print(f"written: {PAGE}, {PLOT}")


def _replaced(page: str, begin: str, text: str, end: str) -> str:
    """Return a page with this text between two marks."""
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


if __name__ == "__main__":
    main()
