"""`bge doctor`: report what is installed, which settings are used and why, and whether the models work."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from bge_integrations import __version__
from bge_integrations.cli import options
from bge_integrations.cli.output import print_json, print_table
from bge_integrations.errors import BGEError
from bge_integrations.optional import how_to_install

_PACKAGE = "bge-integrations"
#: Extras for working on the package itself.
_NOT_FOR_USERS = ("alternatives", "dev", "docs", "server-clients", "train")
_QUESTION = "What does the giant panda eat?"
_PASSAGES = ["The giant panda eats bamboo.", "Rome lies on the river Tiber."]


def doctor(
    device: options.Device = None,
    dtype: options.Dtype = None,
    online: Annotated[bool, typer.Option("--online", help="Also check that the model hub is reachable.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Check the installation: versions, device, dtype, threads, kernels, cache and extras, and a quick test.

    The exit status is 1 if the test fails.
    """
    import torch

    from bge_integrations.core.devices import resolve_devices, resolve_dtype
    from bge_integrations.models.linear import choose_cpu_kernels

    devices = resolve_devices(device)
    resolved_dtype = resolve_dtype(dtype, devices[0])
    test, passed = _test(device, dtype)
    report = {
        "bge_integrations": __version__,
        "python": f"{platform.python_version()}, {platform.platform()}",
        **{name: metadata.version(name) for name in ("torch", "transformers", "tokenizers", "huggingface_hub")},
        "device": f"{', '.join(devices)}: {_device_reason(device, devices[0])}",
        "dtype": f"{resolved_dtype}: {_dtype_reason(dtype, devices[0])}",
        "threads": _threads(torch.get_num_threads()),
        "cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "cpu kernels": choose_cpu_kernels(),
        "memory": _memory(devices),
        "cache": _cache(),
        **({"hub": _hub()} if online else {}),
        "test": test,
        **{f"extra {extra}": state for extra, state in _extras()},
    }
    if as_json:
        print_json({**report, "passed": passed})
    else:
        print_table(report.items())
    if not passed:
        raise typer.Exit(1)


def _threads(chosen: int) -> str:
    from bge_integrations.core.worker_threads import cpu_limit

    limit = cpu_limit()
    limited = "" if limit is None else f", and the container's limit is {limit}"
    return f"{min(chosen, limit or chosen)} of {os.cpu_count()} CPUs{limited}; set OMP_NUM_THREADS to change it"


def _device_reason(requested: list[str] | None, chosen: str) -> str:
    import torch

    if requested is not None:
        return "as requested"
    if chosen.startswith("cuda"):
        return f"torch finds {torch.cuda.get_device_name(chosen)}"
    return "torch finds no CUDA device" if torch.version.cuda else "this build of torch has no CUDA"


def _dtype_reason(requested: str | None, device: str) -> str:
    if requested is not None:
        return "as requested"
    return f"the default on {'CUDA' if device.startswith('cuda') else 'the CPU'}"


def _memory(devices: list[str]) -> str:
    import torch

    sizes = []
    if hasattr(os, "sysconf"):
        sizes.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB")
    for device in devices:
        if device.startswith("cuda"):
            free, total = torch.cuda.mem_get_info(device)
            sizes.append(f"{device}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    return ", ".join(sizes) or "unknown"


def _cache() -> str:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE

    size = scan_cache_dir().size_on_disk if Path(HF_HUB_CACHE).is_dir() else 0
    return f"{HF_HUB_CACHE}, {size / 1e6:.0f} MB; set HF_HOME to move it"


def _hub() -> str:
    from huggingface_hub import HfApi

    try:
        HfApi().model_info("BAAI/bge-m3", timeout=5)
    except Exception as error:  # huggingface_hub raises many kinds of network errors
        return f"not reachable ({type(error).__name__}: {error}); cached and local models still work"
    return "reachable"


def _test(device: list[str] | None, dtype: str | None) -> tuple[str, bool]:
    """Check that both pocket models load and prefer the right passage; return the report line and the outcome."""
    from bge_integrations.core.loading import load_embedder, load_reranker
    from bge_integrations.scoring import hybrid_scores

    start = time.perf_counter()
    try:
        with load_embedder("pocket", device=device, dtype=dtype) as embedder:
            queries = embedder.encode([_QUESTION], kind="query", sparse=True, multi_vector=True)
            passages = embedder.encode(_PASSAGES, kind="passage", sparse=True, multi_vector=True)
            retrieved = int(hybrid_scores(queries, passages).hybrid[0].argmax())
        with load_reranker("pocket", device=device, dtype=dtype) as reranker:
            reranked = int(reranker.score([(_QUESTION, passage) for passage in _PASSAGES]).argmax())
    except (BGEError, OSError) as error:
        return f"FAILED: {error}", False
    seconds = time.perf_counter() - start
    if retrieved == reranked == 0:
        return f"passed: both pocket models chose the right passage, in {seconds:.1f} s including loading", True
    wrong = " and ".join(name for name, best in (("embedder", retrieved), ("reranker", reranked)) if best)
    return f"FAILED: the pocket {wrong} chose the wrong passage; please report this with the output above", False


def _extras() -> Iterator[tuple[str, str]]:
    """Yield each extra and its state: installed, or what is missing and how to install it."""
    try:
        extras = metadata.metadata(_PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:  # the package is not installed
        return
    for extra in sorted(set(extras) - set(_NOT_FOR_USERS)):
        missing = sorted(_missing(extra))
        yield extra, f"missing {', '.join(missing)}: {how_to_install(extra)}" if missing else "installed"


def _missing(extra: str) -> set[str]:
    """Return the unmet requirements of an extra."""
    from packaging.requirements import Requirement

    missing: set[str] = set()
    for requirement in map(Requirement, metadata.requires(_PACKAGE) or []):
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == _PACKAGE:
            missing = missing.union(*map(_missing, requirement.extras))
            continue
        try:
            met = requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
        except metadata.PackageNotFoundError:
            met = False
        if not met:
            missing.add(str(requirement).split(";")[0])
    return missing
