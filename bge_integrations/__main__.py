"""`python -m bge_integrations` is the command `bge`."""

import sys

from bge_integrations.cli import main

if __name__ == "__main__":
    sys.exit(main())
