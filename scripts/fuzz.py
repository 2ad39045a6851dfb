"""Damage valid files of every format in many ways, and check that reading each one ends as documented.

    python scripts/fuzz.py --inputs 1000
    python scripts/fuzz.py --inputs 5000 --formats "document a.html" run

A reader may return a result or raise a subclass of `BGEError`. These are findings:

- any other exception, and the end of the process
- an input that takes more than 10 seconds of processor time, or 2 GB of memory
- a file outside the reader's folder that is written, or read if it is not a part of the system
- a program, a pickled function or a network connection that is started

Files are read in a process of their own, which is started again when it ends. Each input follows from the seed, its
format and its number: `--first NUMBER --inputs 1` repeats one, and `--keep FOLDER` writes it to a file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import NamedTuple

#: Seconds until a reader that uses no processor time counts as one that hangs.
_SILENCE = 300
#: An outcome of this name is a result.
_RESULT = "result"


class Input(NamedTuple):
    """An input: its format and its number."""

    format: str
    number: int


class Outcome(NamedTuple):
    """How reading an input ended: "result", or the name of the error; and what is wrong with that."""

    name: str
    finding: str = ""


def run(inputs: Sequence[Input], seed: int) -> Iterator[tuple[Input, Outcome]]:
    """Yield the outcome of each input. They are read in processes of their own."""
    context = multiprocessing.get_context("spawn")
    left = list(inputs)
    while left:
        receiver, sender = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            process = context.Process(target=_read_all, args=(left, seed, folder, sender))
            process.start()
            sender.close()
            try:
                while left and receiver.poll(_SILENCE):
                    outcome = receiver.recv()
                    if isinstance(outcome, str):
                        raise RuntimeError(f"{left[0].format} does not read its valid file:\n{outcome}")
                    yield left.pop(0), outcome
                if left:
                    yield left.pop(0), Outcome("hang", f"no outcome after {_SILENCE} seconds")
            except EOFError:
                process.join()
                yield left.pop(0), Outcome("end", f"the process ended with status {process.exitcode}")
            finally:
                process.kill()
                process.join()


def _read_all(inputs: Sequence[Input], seed: int, folder: str, sender: Connection) -> None:
    """Send the outcome of each input."""
    import faulthandler
    import logging
    import signal

    from fuzzing.formats import FORMATS
    from fuzzing.guard import Guard

    faulthandler.register(signal.SIGPROF, chain=True)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    tempfile.tempdir = folder  # a reader may have temporary files of its own
    guard = Guard(Path(folder))
    name, valid, read = "", b"", None
    for number, each in enumerate(inputs):
        if read is None or each.format != name:
            name = each.format
            own = Path(folder, str(number))
            own.mkdir()
            try:
                valid, read = FORMATS[name].prepare(own)
                read(valid)  # imports what the reader needs
            except Exception:
                sender.send(traceback.format_exc())
                raise
        data = FORMATS[name].mutate(valid, Random(f"{seed} {name} {each.number}"))
        with guard.watching() as forbidden:
            outcome = _outcome(read, data)
        sender.send(Outcome(outcome.name, "; ".join(forbidden)) if forbidden else outcome)


def _outcome(read: object, data: bytes) -> Outcome:
    from bge_integrations.errors import BGEError

    assert callable(read)
    try:
        read(data)
    except BaseException as error:  # panics of libraries in Rust are not an Exception
        kind = type(error).__name__
        chain: BaseException | None = error
        while chain is not None:
            if isinstance(chain, MemoryError) and not isinstance(chain, BGEError):
                return Outcome(kind, "it needs more memory than allowed")
            chain = chain.__cause__ or chain.__context__
        if isinstance(error, BGEError):
            return Outcome(kind)
        return Outcome(kind, "".join(traceback.format_exception(error)[-3:]))
    return Outcome(_RESULT)


def _inputs(formats: Sequence[str], count: int, first: int) -> list[Input]:
    """Return `count` inputs of all formats together, divided by their shares."""
    from fuzzing.formats import FORMATS

    total = sum(FORMATS[name].share for name in formats)
    return [
        Input(name, number)
        for name in formats
        for number in range(first, first + max(1, round(count * FORMATS[name].share / total)))
    ]


def main() -> None:
    from fuzzing.formats import FORMATS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="number of inputs of all formats together")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), metavar="FORMAT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each format")
    parser.add_argument("--keep", type=Path, help="a folder to which inputs with findings are written")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    inputs = _inputs(arguments.formats, arguments.inputs, arguments.first)
    findings = 0
    for name, outcomes in groupby(run(inputs, arguments.seed), key=lambda pair: pair[0].format):
        counts: Counter[str] = Counter()
        for each, outcome in outcomes:
            counts[outcome.name] += 1
            if outcome.finding:
                findings += 1
                print(f"{name}, input {each.number}: {outcome.name}: {outcome.finding}", flush=True)
                if arguments.keep:
                    _keep(arguments.keep, each, arguments.seed)
        print(f"{name}: " + ", ".join(f"{kind} {count}" for kind, count in counts.most_common()), flush=True)
    print(f"\n{len(inputs)} inputs, {findings} findings")
    sys.exit(1 if findings else 0)


def _keep(folder: Path, each: Input, seed: int) -> None:
    """Write an input to a file named after it."""
    from fuzzing.formats import FORMATS

    chosen = FORMATS[each.format]
    with tempfile.TemporaryDirectory() as own:
        valid, _ = chosen.prepare(Path(own))
    folder.mkdir(exist_ok=True, parents=True)
    name = f"{each.format.replace('/', '-')}-{each.number}"
    (folder / name).write_bytes(chosen.mutate(valid, Random(f"{seed} {each.format} {each.number}")))


if __name__ == "__main__":
    main()
