"""The exceptions and warnings users of this package can catch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bge_integrations.catalog import Kind


class BGEError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInputError(BGEError, ValueError):
    """A text, a list or an argument cannot be used; nothing was computed."""


class WrongKindError(InvalidInputError):
    """A reranker was named where an embedding model is needed, or something else where a reranker is needed.

    Attributes:
        finding: What was found out about the checkpoint.
        advice: What to do in Python; the message is both.
        wanted: "embedder" or "reranker".
    """

    def __init__(self, finding: str, advice: str, wanted: Kind) -> None:
        super().__init__(finding, advice, wanted)  # all three, by which pickle makes it again
        self.finding = finding
        self.advice = advice
        self.wanted = wanted

    def __str__(self) -> str:
        return f"{self.finding}; {self.advice}"


class UnreadableFileError(BGEError, ValueError):
    """A document's file is damaged, encrypted, not UTF-8, or has no text."""


class UnknownModelError(BGEError, ValueError):
    """Neither the catalogue nor the checkpoint's own files say how to run this model."""


class NotSupportedError(BGEError, NotImplementedError):
    """The model is known, but this release cannot run its family yet."""


class CheckpointNotFoundError(BGEError, OSError):
    """The checkpoint is neither a folder, nor in the hub's cache, nor could it be downloaded."""


class CheckpointError(BGEError, ValueError):
    """A file of the checkpoint is missing, cut short, or does not fit the model."""


class WrongModelError(BGEError, ValueError):
    """A store holds the vectors of another model than the one it is used with; nothing was written or searched."""


class IndexNotFoundError(BGEError, LookupError):
    """There is no index at the place given, and none was to be made."""


class IndexFormatError(BGEError, ValueError):
    """A folder or collection is no index, is damaged, or was written by a newer release; nothing was changed."""


class IndexLockedError(BGEError, OSError):
    """The index's folder is open already, here or in another process."""


class DiskFullError(BGEError, OSError):
    """The disk has too little room for what was to be written; what was acknowledged before is safe."""


class StorageError(BGEError, RuntimeError):
    """The storage engine failed; the cause is chained."""


class TextTooLongError(InvalidInputError):
    """`on_truncate="error"` was asked for and at least one text is longer than max_length."""


class OutOfMemoryError(BGEError, MemoryError):
    """One text alone does not fit in the device's memory."""


class NonFiniteError(BGEError, ArithmeticError):
    """The model produced NaN or infinity for a text, and float32 did not help."""


class ComputationError(BGEError, RuntimeError):
    """The model failed on the batch that held this call's texts; the cause is chained."""


class ClosedError(BGEError, RuntimeError):
    """The embedder or reranker was used after close()."""


class OverloadedError(BGEError, RuntimeError):
    """The queue is full, and the process was configured to refuse calls then; nothing was computed."""


class TruncationWarning(UserWarning):
    """Some texts of a call were longer than max_length and were cut."""


class PerformanceWarning(UserWarning):
    """A slower path was taken; the results are right."""


# Show these for every call, not only the first from a line; the user's own filters still come first.
for _category in (TruncationWarning, PerformanceWarning):
    warnings.filterwarnings("always", category=_category, append=True)
