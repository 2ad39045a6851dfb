"""Build the search graphs of the shard in a folder. Run as a process of its own: the engine holds the interpreter."""

import os
import sys

from qdrant_edge import EdgeShard

if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)  # searches come first
    shard = EdgeShard.load(sys.argv[1])
    shard.optimize()
    shard.close()
