"""`bge models` and `bge download`: the catalogue, and which of its checkpoints are cached."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from bge_integrations import catalog
from bge_integrations.cli import options
from bge_integrations.cli.output import print_json, print_table, progress_is_shown
from bge_integrations.errors import InvalidInputError, UnknownModelError
from bge_integrations.task_instructions import benchmarks

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo


def models(
    name: Annotated[str | None, typer.Argument(help="Show the details of this model.")] = None,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="List the names that task= accepts: of all models, or of this one.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """List the BGE models, which of them this release supports, and which are downloaded.

    The two bundled models are not listed; `bge models pocket` describes them.
    """
    row = None if name is None else catalog.find(name)
    if name is not None and row is None and name != catalog.POCKET:
        from bge_integrations.models.locating import did_you_mean

        advice = did_you_mean(name) or "list its models with `bge models`"
        raise UnknownModelError(f"{name} is not in the catalogue", advice=advice)
    if tasks:
        _print_tasks(row, as_json)
        return
    if name == catalog.POCKET:
        for kind in get_args(catalog.Kind):
            _print_details(_pocket(kind), as_json)
        return
    cached = _cached_repositories()
    if row is not None:
        _print_details(_described(row, cached), as_json)
        return
    rows = [_described(row, cached) for row in catalog.CHECKPOINTS]
    if as_json:
        for described in rows:
            print_json(described)
        return
    print_table(
        (
            (
                row["name"],
                row["kind"],
                row["dimension"] or "-",
                row["max_length"],
                row["languages"],
                "yes" if row["supported"] else "later",
                row["cached"] if row["cached"] == "no" else f"{row['cached']}, {row['size'] / 1e6:.0f} MB",
            )
            for row in rows
        ),
        ("name", "kind", "dimension", "length", "languages", "runs", "cached"),
    )


def download(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Hub ids, or names from the catalogue.")],
    quiet: options.Quiet = False,
) -> None:
    """Download models from the Hugging Face hub, and print their folders. An adapter's base is downloaded too."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from bge_integrations.models.adapter import locate_base
    from bge_integrations.models.locating import locate
    from bge_integrations.models.profile import check_supported

    rows = [catalog.find(name) for name in names]
    for name, row in zip(names, rows, strict=True):
        if row is not None:
            check_supported(name, row.family, row.kind)
    if not progress_is_shown(quiet):
        disable_progress_bars()
    for name, row in zip(names, rows, strict=True):
        kind = row.kind if row else "embedder"
        _, folder = locate(name, kind)
        locate_base(folder, kind)
        print(folder)


def _print_details(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(described)
    else:
        print_table((key, "-" if value in (None, "", {}) else value) for key, value in described.items())


def _pocket(kind: catalog.Kind) -> dict[str, Any]:
    """Describe one of the two bundled models."""
    from bge_integrations.models.checkpoint import read_config, weight_bytes
    from bge_integrations.models.encoder_config import EncoderConfig
    from bge_integrations.models.locating import locate
    from bge_integrations.models.profile import embedder_profile, reranker_profile

    _, folder = locate(catalog.POCKET, kind)
    config = EncoderConfig.read(read_config(folder))
    embedder = embedder_profile(catalog.POCKET, folder) if kind == "embedder" else None
    family = embedder.family if embedder else reranker_profile(catalog.POCKET, folder).family
    row = catalog.Checkpoint(
        catalog.POCKET,
        family,
        config.max_length,
        "en",
        config.hidden_size if embedder else None,
        embedder.pooling if embedder else None,
    )
    return {**_described(row, {}), "cached": "bundled", "size": weight_bytes(folder)}


def _described(row: catalog.Checkpoint, cached: dict[str, CachedRepoInfo]) -> dict[str, Any]:
    repository = cached.get(row.parts.weights_repository if row.parts else row.name)
    is_cached = repository is not None and (
        _has_parts(repository, row.parts, cached) if row.parts else _is_complete(repository)
    )
    return {
        "name": row.name,
        "kind": row.kind,
        "family": row.family,
        "dimension": row.dimension,
        "max_length": row.max_length,
        "languages": row.languages,
        "pooling": row.pooling,
        "query_instruction": row.instructions.query,
        "passage_instruction": row.instructions.passage,
        "instruction_format": row.instruction_format,
        "tasks": _tasks(row),
        "supported": row.family in catalog.SUPPORTED_FAMILIES,
        "cached": "no" if repository is None else "yes" if is_cached else "in part",
        "size": 0 if repository is None else repository.size_on_disk,
    }


def _tasks(row: catalog.Checkpoint) -> dict[str, Any]:
    """Return the tasks of a checkpoint and their instructions, without the tasks of benchmarks."""
    if row.instruction_format:
        return {task: {"query": text, "passage": ""} for task, text in benchmarks()["general"].items()}
    return {task: asdict(instructions) for task, instructions in row.tasks.items()}


def _print_tasks(row: catalog.Checkpoint | None, as_json: bool) -> None:
    """Print the tasks of a checkpoint, or of all instruct decoders."""
    if row is not None and not row.instruction_format:
        rows = [{"task": task, **texts} for task, texts in _tasks(row).items()]
        if not rows:
            raise InvalidInputError(f"{row.name} does not take tasks", advice="`bge models` shows its instruction")
    else:
        rows = [
            {"benchmark": benchmark, "task": task, "instruction": instruction}
            for benchmark, tasks in benchmarks().items()
            for task, instruction in tasks.items()
        ]
    if as_json:
        for described in rows:
            print_json(described)
    else:
        print_table((tuple(described.values()) for described in rows), tuple(rows[0]))


def _is_complete(repository: CachedRepoInfo) -> bool:
    from bge_integrations.models.checkpoint import is_complete  # imports torch, so only if needed

    return any(is_complete(revision.snapshot_path) for revision in repository.revisions)


def _has_parts(weights: CachedRepoInfo, parts: catalog.Parts, cached: dict[str, CachedRepoInfo]) -> bool:
    has_weights = any((revision.snapshot_path / parts.weights_file).is_file() for revision in weights.revisions)
    return has_weights and parts.text_model in cached


def _cached_repositories() -> dict[str, CachedRepoInfo]:
    """Return the models in the hub's cache by hub id."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE

    if not Path(HF_HUB_CACHE).is_dir():
        return {}
    return {repo.repo_id: repo for repo in scan_cache_dir().repos if repo.repo_type == "model"}
