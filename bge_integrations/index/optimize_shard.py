"""Build the search graphs of a shard. Runs as a separate process, because the engine holds the GIL."""

import ctypes
import os
import signal
import sys

from qdrant_edge import EdgeShard

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    folder, parent = sys.argv[1:]
    if sys.platform == "linux":  # on other systems, it runs to the end if the parent is killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit("the process that had opened the index has exited")
    if hasattr(os, "nice"):
        os.nice(10)  # searches have priority
    shard = EdgeShard.load(folder)
    shard.optimize()
    shard.close()
