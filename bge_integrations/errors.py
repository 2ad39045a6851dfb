"""The exceptions and warnings users of this package can catch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.catalog import Kind


class BGEError(Exception):
    """Base of every error this package raises on purpose.

    The message is the finding and the advice: "device='tpu' is not supported; use 'cpu' or 'cuda'". An interface other
    than Python, such as a command line, shows `finding` with advice of its own.

    Attributes:
        argument: The Python argument that the error is about; None if it is about something else.
        advice: What to do; None if the finding says it all.
    """

    def __init__(self, *args: object, argument: str | None = None, advice: str | None = None) -> None:
        super().__init__(*args)
        self.argument = argument
        self.advice = advice

    @property
    def finding(self) -> str:
        """What is wrong: the message without the advice."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.finding}; {self.advice}" if self.advice else self.finding


class InvalidInputError(BGEError, ValueError):
    """A text, a list or an argument cannot be used; nothing was computed."""


class WrongKindError(InvalidInputError):
    """A reranker was named where an embedding model is needed, or something else where a reranker is needed.

    Attributes:
        wanted: "embedder" or "reranker".
    """

    def __init__(self, finding: str, advice: str, wanted: Kind) -> None:
        super().__init__(finding, advice=advice)
        self.wanted = wanted

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.finding, self.advice, self.wanted), self.__dict__


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
warnings.filterwarnings("always", category=TruncationWarning, append=True)
warnings.filterwarnings("always", category=PerformanceWarning, append=True)
