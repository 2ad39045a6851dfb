"""`python -m bge_integrations.serving`, the same as `bge serve`."""

import sys

from bge_integrations.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
