"""`python -m bge_integrations.evaluation` is the same command as `bge eval`."""

from __future__ import annotations

import sys

from bge_integrations.cli import main as bge


def main(arguments: list[str] | None = None) -> int:
    """Run `bge eval` with these arguments, or with `sys.argv`, and return its exit status."""
    return bge(["eval", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
