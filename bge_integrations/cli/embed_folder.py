"""`bge embed` into a folder: many files, and several processes at once."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bge_integrations.cli.output import print_json, progress_is_shown
from bge_integrations.errors import InvalidInputError
from bge_integrations.jobs import EmbeddingJob, Estimate, estimate


def embed_folder(
    job: dict[str, Any], part: str, dry_run: bool, price: float | None, as_json: bool, quiet: bool
) -> None:
    """Run a job, or estimate it.

    Args:
        job: Arguments of `EmbeddingJob`.
        part: The value of --part.
        dry_run: Only estimate.
        price: What the machine costs per hour.
        as_json, quiet: As in other commands.
    """
    if price is not None and not dry_run:
        raise InvalidInputError("--price has no effect without --dry-run", advice="add --dry-run, or leave --price out")
    with EmbeddingJob(**job, part=_share(part)) as opened:
        if dry_run:
            _print_estimate(estimate(opened, price), as_json)
            return
        try:
            report = opened.run(progress_is_shown(quiet))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"run the same command again to finish {job['output']}") from None
    if as_json:
        print_json(asdict(report))
    else:
        print(
            f"{report.rows} rows in {report.files} files, {report.earlier_rows} rows were done before or by others; "
            f"{report.seconds:.1f} s"
        )


def _share(part: str) -> tuple[int, int]:
    try:
        first, count = map(int, part.split("/"))
    except ValueError:
        raise InvalidInputError(f"--part {part} is not a share", advice="write 1/4 for the first of four") from None
    return first, count


def _print_estimate(estimated: Estimate, as_json: bool) -> None:
    if as_json:
        print_json(asdict(estimated))
        return
    cost = "" if estimated.cost is None else f", cost {estimated.cost:.2f}"
    print(
        f"{estimated.rows} rows, {estimated.files} files: about {estimated.seconds / 3600:.2f} hours on this machine "
        f"({estimated.rows_per_second:.0f} rows/s, from {estimated.sampled_rows} rows), "
        f"{estimated.bytes / 1e6:.1f} MB{cost}"
    )
