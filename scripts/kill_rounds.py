"""Kill a process that writes to an index, over and over, and check that nothing is lost.

In each round a child process opens the index, always in the same folder. Two of its threads add, replace, relabel and
delete documents, in some rounds while a third thread optimises the index. They report every call to this process before
and after it. This process kills the child with SIGKILL at a random moment of a chosen phase, opens the index and checks
it: everything acknowledged is there, an interrupted call has changed each of its documents completely or not at all,
and every document has the vectors of its text.

    python scripts/kill_rounds.py --rounds 100 [--folder DIR] [--seed N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, NoReturn

import numpy as np

from bge_integrations import load_embedder
from bge_integrations.errors import BGEError
from bge_integrations.index import M3Index, StoredDocument
from bge_integrations.scoring import hybrid_scores

WRITERS = ("a", "b")
IDS_PER_WRITER = 80
GROUPS = 8
#: The phases to kill in. "create" is the first opening of a folder; "open" follows a kill without a check in between.
TARGETS = (
    "write", "open", "switch", "compact", "create", "change-over", "flush", "encode", "build", "open", "optimize", "any"
)  # fmt: skip
#: The phases that need the optimiser, innermost first.
OPTIMIZING = ("switch", "compact", "change-over", "build", "optimize")
PHASES = (*OPTIMIZING, "flush", "write", "encode", "open")
PATIENCE = 60.0
WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "lemon", "maple", "ocean")
QUERIES = ("heron on a maple by the ocean", "a 17", "lemon and basil north of the delta")


class Version(NamedTuple):
    """A state of a document, which determines its text and metadata."""

    text: int
    label: int

    def entry(self, identifier: str) -> StoredDocument:
        words = random.Random(f"{identifier} {self.text}").choices(WORDS, k=3 + self.text % 25)
        metadata = {"writer": identifier[0], "label": self.label, "group": self.label % GROUPS, "tags": words[:2]}
        return StoredDocument(identifier, f"{self.text} {identifier} {' '.join(words)}", metadata)


def version_of(entry: StoredDocument) -> Version:
    return Version(int(entry.text.split()[0]), entry.metadata["label"])


#: The state of each document that a call changes, after the call; None if it is deleted.
Effect = dict[str, Version | None]


class Loss(Exception):
    """The index is not in a state that it may be in."""


def child(folder: str, optimizing: bool, seed: int, connection: Connection) -> NoReturn:
    """Write to the index until killed."""
    sending = threading.Lock()

    def send(*message: object) -> None:
        with sending:
            connection.send(message)

    def traced(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            send("enter", phase)
            try:
                return function(*arguments, **settings)
            finally:
                send("leave", phase)

        return call

    def guarded(work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException:
            send("failed", traceback.format_exc())

    embedder = load_embedder("pocket")
    try:
        index: M3Index = traced("open", M3Index.open)(folder, embedder)
    except BGEError:
        send("failed", traceback.format_exc())
        raise
    engine: Any = index._store.engine
    engine.largest_request = 1 << 14  # for several writes per call
    for owner, method, phase in (
        (embedder, "encode", "encode"),
        (engine, "write", "write"),
        (engine, "write_payloads", "write"),
        (engine, "remove", "write"),
        (engine, "flush", "flush"),
        (engine, "optimize", "optimize"),
        (engine._optimizer, "_compact", "compact"),
        (engine._optimizer, "_run_process", "build"),
        (engine._optimizer, "_switch_to", "change-over"),
        (engine._folder, "switch", "switch"),
    ):
        setattr(owner, method, traced(phase, getattr(owner, method)))

    def optimize() -> None:
        while True:
            index.optimize()

    known = {entry.id: version_of(entry) for entry in index.scan()}
    for writer in WRITERS:
        documents = {identifier: version for identifier, version in known.items() if identifier[0] == writer}
        arguments = (write_for_ever, index, writer, documents, random.Random(f"{seed} {writer}"), send)
        threading.Thread(target=guarded, args=arguments).start()
    if optimizing:
        threading.Thread(target=guarded, args=(optimize,)).start()
    while True:
        time.sleep(PATIENCE)


def write_for_ever(
    index: M3Index, writer: str, known: dict[str, Version], rng: random.Random, send: Callable[..., None]
) -> None:
    """Add, replace, relabel and delete one writer's documents, and report each call."""
    identifiers = [f"{writer} {i}" for i in range(IDS_PER_WRITER)]
    while True:
        effect: Effect
        action = rng.choices(("add", "delete", "delete a group"), weights=(8, 2, 1))[0]
        if action == "delete a group":
            group = rng.randrange(GROUPS)
            effect = {i: None for i, version in known.items() if version.label % GROUPS == group}
            send("begin", writer, effect)
            index.delete(filter={"writer": writer, "group": group})
        elif action == "delete":
            effect = dict.fromkeys(rng.sample(identifiers, rng.randrange(1, 8)))
            send("begin", writer, effect)
            index.delete(effect)
        else:
            added: dict[str, Version] = {}
            for identifier in rng.sample(identifiers, rng.randrange(1, 25)):
                fresh = Version(rng.randrange(10**6), rng.randrange(10**6))
                relabel = identifier in known and rng.random() < 0.5
                added[identifier] = fresh._replace(text=known[identifier].text) if relabel else fresh
            effect = dict(added)
            send("begin", writer, effect)
            entries = [version.entry(identifier) for identifier, version in added.items()]
            index.add([entry.text for entry in entries], list(added), [entry.metadata for entry in entries])
        send("done", writer)
        for identifier, version in effect.items():
            known.pop(identifier, None)
            if version:
                known[identifier] = version


class Rounds:
    """The parent process: runs the rounds, and knows what the index must contain.

    Attributes:
        possible: For each folder, the states that each document may be in; only one if it was acknowledged.
        kills: Number of kills by phase.
        acknowledged: Number of acknowledged calls.
        reopening: Seconds that each reopening took.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._embedder = load_embedder("pocket")
        self._queries = self._embedder.encode(QUERIES, kind="query", sparse=True, multi_vector=True)
        # a server with all imports forks the children, so that each starts at once and inherits none of our threads
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload([M3Index.__module__, "bge_integrations.index.edge"])
        self.possible: dict[Path, dict[str, set[Version | None]]] = defaultdict(lambda: defaultdict(lambda: {None}))
        self._under_way: dict[str, Effect] = {}
        self._duration: dict[str, float] = {}
        self.kills: Counter[str] = Counter()
        self.acknowledged = 0
        self.reopening: list[float] = []

    def kill_one(self, folder: Path, target: str) -> str:
        """Start a child, aim to kill it in the phase `target`, and return the phase that it was in."""
        optimizing = target in OPTIMIZING or self._rng.random() < 0.15
        receiver, sender = self._processes.Pipe(duplex=False)
        arguments = (str(folder), optimizing, self._rng.randrange(10**9), sender)
        process = self._processes.Process(target=child, args=arguments, daemon=True)
        process.start()
        sender.close()
        possible = self.possible[folder]
        phases: Counter[str] = Counter()
        entered: dict[str, float] = {}
        passed_over = 0 if target == "open" else self._rng.randrange(2 if target in OPTIMIZING else 12)
        deadline = time.monotonic() + (self._rng.uniform(0.0, 3.0) if target == "any" else PATIENCE)
        try:
            while (left := deadline - time.monotonic()) > 0:
                if not receiver.poll(left):
                    break
                message = receiver.recv()
                self._note(message, possible, phases, entered)
                if message == ("enter", target):
                    if not passed_over:
                        deadline = time.monotonic() + self._rng.uniform(0, self._duration.get(target, 0.02))
                    passed_over -= 1
            process.kill()
            while True:
                self._note(receiver.recv(), possible, phases, entered)
        except (EOFError, OSError):  # also a message cut short by the kill
            process.kill()
        process.join()
        for effect in self._under_way.values():
            for identifier, version in effect.items():
                possible[identifier].add(version)
        self._under_way.clear()
        phase = next((phase for phase in (target, *PHASES) if phases[phase]), "between")
        self.kills[phase] += 1
        return phase

    def _note(
        self,
        message: tuple[Any, ...],
        possible: dict[str, set[Version | None]],
        phases: Counter[str],
        entered: dict[str, float],
    ) -> None:
        match message:
            case ("begin", writer, effect):
                self._under_way[writer] = effect
            case ("done", writer):
                for identifier, version in self._under_way.pop(writer).items():
                    possible[identifier] = {version}
                self.acknowledged += 1
            case ("enter", phase):
                phases[phase] += 1
                entered[phase] = time.monotonic()
            case ("leave", phase):
                phases[phase] -= 1
                self._duration[phase] = time.monotonic() - entered[phase]
            case ("failed", problem):
                raise Loss(f"a call in the child failed:\n{problem}")

    def check(self, folder: Path) -> None:
        """Open the index in the folder and compare it with what was acknowledged.

        Raises:
            Loss: It is not in a state that it may be in.
        """
        begin = time.monotonic()
        with M3Index.open(folder, self._embedder) as index:
            self.reopening.append(time.monotonic() - begin)
            self._check_documents(index, self.possible[folder])
            self._check_vectors(index)
        if len(shards := list(folder.glob("shard-*"))) != 1:
            raise Loss(f"shards are left over: {', '.join(shard.name for shard in shards)}")

    def _check_documents(self, index: M3Index, possible: dict[str, set[Version | None]]) -> None:
        entries = list(index.scan())
        found = {entry.id: entry for entry in entries}
        if not len(found) == len(entries) == len(index):
            raise Loss(f"scan returns {len(entries)} documents, {len(found)} distinct ones; len is {len(index)}")
        for identifier in sorted(possible.keys() | found.keys()):
            entry, versions = found.get(identifier), possible[identifier]
            expected = [version and version.entry(identifier) for version in versions]
            if entry not in expected:
                raise Loss(f"{identifier!r} is {entry}\nand must be {' or '.join(map(str, expected))}")
            possible[identifier] = {version_of(entry) if entry else None}

    def _check_vectors(self, index: M3Index) -> None:
        """Check that each representation of each document has the scores of its text."""
        entries = list(index)
        if not entries:
            return
        ids = [entry.id for entry in entries]
        passages = self._embedder.encode([entry.text for entry in entries], sparse=True, multi_vector=True)
        assert passages.dense is not None
        stored = index.dense_vectors(ids)
        for identifier, vector in zip(ids, passages.dense, strict=True):
            if not np.allclose(stored[identifier], vector, atol=1e-5):
                raise Loss(f"{identifier!r} does not have the dense vector of its text")
        scores = hybrid_scores(self._queries, passages)
        for mode, expected in (("dense", scores.dense), ("sparse", scores.sparse), ("hybrid", scores.hybrid)):
            answers: Any = index.search_many(QUERIES, len(ids), mode=mode, candidates=10 * len(ids))  # type: ignore[arg-type]
            for query, hits, row in zip(QUERIES, answers, expected, strict=True):
                found = {hit.id: hit.score for hit in hits}
                for identifier, score in zip(ids, row.tolist(), strict=True):
                    if mode == "sparse" and score == 0:
                        continue
                    if abs(found.get(identifier, -1.0) - score) > 2e-3:  # multi-vectors are stored in float16
                        got = found.get(identifier, "not found")
                        raise Loss(f"{mode} search for {query!r}: {identifier!r} is {got}, must be {score}")


def run(rounds: int, folder: Path, seed: int) -> Rounds:
    state = Rounds(seed)
    targets = cycle(TARGETS)
    target = next(targets)
    for number in range(1, rounds + 1):
        following = next(targets)
        creating = target == "create"
        used = folder / (f"new-{number}" if creating else "index")
        try:
            phase = state.kill_one(used, "open" if creating else target)
            if creating or following != "open" or number == rounds:
                state.check(used)
        except (Loss, BGEError) as error:
            error.add_note(f"in round {number} with seed {seed}, which aimed at {target!r}; see {folder}")
            raise
        if creating:
            shutil.rmtree(used)
        print(
            f"round {number}: aimed at {target}, killed in {phase}, {state.acknowledged} calls acknowledged so far",
            flush=True,
        )
        target = following
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="a new folder, which is kept (default: a temporary one)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kill-rounds-"))
    try:
        state = run(arguments.rounds, folder, arguments.seed)
    except (Loss, BGEError) as error:
        traceback.print_exception(error)
        sys.exit(1)
    if not arguments.folder:
        shutil.rmtree(folder)
    print(f"\n{arguments.rounds} rounds, {state.acknowledged} calls acknowledged, nothing lost")
    print("killed in: " + ", ".join(f"{phase} {count}" for phase, count in state.kills.most_common()))
    milliseconds = [1000 * seconds for seconds in state.reopening]
    print(f"reopened in {median(milliseconds):.0f} ms (median), {max(milliseconds):.0f} ms (maximum)")


if __name__ == "__main__":
    main()
