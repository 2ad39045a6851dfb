"""The exceptions and warnings users of this package can catch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.catalog import Kind
    from bge_integrations.training.rows import RowMistake


class BGEError(Exception):
    """Base of every error this package raises on purpose.

    The message says what is wrong and what to do: "device='tpu' is not supported; use 'cpu' or 'cuda'". Interfaces
    other than Python, such as the command line, show `finding` with their own advice.

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


class TrainingDataError(InvalidInputError):
    """Rows of training data cannot be used; nothing was trained.

    Attributes:
        mistakes: The mistakes in the order of the files; at most the first 100.
        count: Number of all mistakes.
    """

    def __init__(self, mistakes: tuple[RowMistake, ...], count: int, advice: str | None = None) -> None:
        self.mistakes, self.count = mistakes, count
        super().__init__(self._summary(), argument="data", advice=advice)

    def _summary(self) -> str:
        named = [str(mistake) for mistake in self.mistakes[:10]]
        more = self.count - len(named)
        return "\n".join([*named, f"and {more} more mistakes"] if more else named)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.mistakes, self.count, self.advice), self.__dict__


class UnknownArgumentError(InvalidInputError, TypeError):
    """A function has no such argument; the advice names the one to use, or says why there is none."""


class WrongKindError(InvalidInputError):
    """A reranker was passed instead of an embedding model, or another model instead of a reranker.

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
    """The checkpoint is not a folder, is not in the hub's cache, and could not be downloaded."""


class CheckpointError(BGEError, ValueError):
    """A file of the checkpoint is missing, cut short, or does not fit the model."""


class WrongModelError(BGEError, ValueError):
    """A store's vectors or a saved context come from a different model than the one they are used with; nothing was
    written or searched."""


class IndexNotFoundError(BGEError, LookupError):
    """There is no index at this path or in this collection, and creating one was not allowed."""


class IndexFormatError(BGEError, ValueError):
    """A folder or collection is not an index, is damaged, or was written by a newer release; nothing was changed."""


class IndexLockedError(BGEError, OSError):
    """The index folder is already open in another process."""


class DiskFullError(BGEError, OSError):
    """There is not enough disk space for a write; everything that was acknowledged before is safe."""


class StorageError(BGEError, RuntimeError):
    """The storage engine failed; the cause is chained."""


class TextTooLongError(InvalidInputError):
    """At least one text is longer than max_length, and `on_truncate` is "error"."""


class OutOfMemoryError(BGEError, MemoryError):
    """A model, a single text, or a batch of a training does not fit in the device's memory."""


class NonFiniteError(BGEError, ArithmeticError):
    """The model returned NaN or infinity for a text, even in float32, or while generating, or the loss of a training is
    not finite."""


class ComputationError(BGEError, RuntimeError):
    """The model or its tokenizer failed on texts of this call; the cause is chained."""


class ClosedError(BGEError, RuntimeError):
    """The embedder, reranker or generator was used after close()."""


class ContextFileError(BGEError, ValueError):
    """A file is not a saved context of a generator, is damaged, or was written by a newer release."""


class GenerationCancelledError(BGEError, RuntimeError):
    """The event that was passed to a generator as `cancel` was set."""


class OverloadedError(BGEError, RuntimeError):
    """The queue is full and the runtime is configured to refuse calls; nothing was computed."""


class ServerError(BGEError, ConnectionError):
    """A server that was passed as a model could not be reached, failed, or answered something unexpected.

    Attributes:
        status: The HTTP status of its answer; None if there was no answer, or if the answer itself is unexpected.
    """

    def __init__(
        self, *args: object, argument: str | None = None, advice: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(*args, argument=argument, advice=advice)
        self.status = status


class TruncationWarning(UserWarning):
    """Some texts of a call were longer than max_length and were truncated.

    Attributes:
        count, total: Number of truncated texts, and of all texts of the call.
        longest: Number of tokens of the longest text.
        limit: Maximum number of tokens.
        positions: Where the truncated texts are in the call's list, counted from 0; at most the first 100.
        ids: Their ids, if they were added to an index; otherwise empty.
    """

    def __init__(
        self,
        message: str = "",
        *,
        count: int = 0,
        total: int = 0,
        longest: int = 0,
        limit: int = 0,
        positions: tuple[int, ...] = (),
        ids: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.count, self.total, self.longest, self.limit = count, total, longest, limit
        self.positions, self.ids = positions, ids


class EmptyTextWarning(UserWarning):
    """Documents without any word were added to an index; they are stored, but no search finds them."""


class PerformanceWarning(UserWarning):
    """A slower path was taken; the results are correct."""


class InstructionWarning(UserWarning):
    """Texts get no instruction although the model may need one.

    Nothing says which instruction its queries need (reported once per process and model), or a call does not say which
    kind its texts are (reported once per process).
    """


# Show these on every call, not only once per line of code; the user's own filters take precedence.
warnings.filterwarnings("always", category=TruncationWarning, append=True)
warnings.filterwarnings("always", category=EmptyTextWarning, append=True)
warnings.filterwarnings("always", category=PerformanceWarning, append=True)
warnings.filterwarnings("always", category=InstructionWarning, append=True)
