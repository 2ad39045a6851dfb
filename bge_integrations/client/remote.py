"""What a remote embedder and a remote reranker have in common."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from bge_integrations.errors import TextTooLongError, TruncationWarning
from bge_integrations.reporting import warn_caller

if TYPE_CHECKING:
    from bge_integrations.client.calls import Dialect, ServedModel
    from bge_integrations.client.transport import Transport
    from bge_integrations.core.request import OnTruncate


class Remote:
    """A model on a server, in place of the session with a local model that `Loaded` has.

    Attributes:
        name: The model's name on the server.
        device: The server's URL without parameters.
        dtype: The precision that the server reports; "" if it reports none.
    """

    def __init__(self, transport: Transport, dialect: Dialect, served: ServedModel) -> None:
        self._transport, self._dialect, self._served = transport, dialect, served
        self.name, self.dtype = served.name, served.dtype
        self.device: str = transport.address.base
        self._finalizer = weakref.finalize(self, transport.close)
        self._finalizer.atexit = False

    @property
    def source(self) -> str:
        """The URL that leads to this model again."""
        return str(self._transport.address)

    @property
    def weights_digest(self) -> str:
        """The digest of the weights according to the server; its names of model and revision if it reports none."""
        return self._served.weights

    @property
    def revision(self) -> None:
        """None, because the URL has no revision."""
        return

    def close(self) -> None:
        """Close the connections to the server. Running calls still finish."""
        self._finalizer()


def report_truncation(truncated: int, inputs: int, on_truncate: OnTruncate) -> None:
    """Warn or raise if a server has truncated inputs of a call.

    Raises:
        TextTooLongError: It has, and `on_truncate` is "error".
    """
    if truncated and on_truncate == "error":
        raise TextTooLongError(
            f"{truncated} of {inputs} distinct inputs are longer than max_length",
            advice="split them, raise max_length if the model allows it, or use on_truncate='warn'",
        )
    if truncated and on_truncate == "warn":
        warning = TruncationWarning(
            f"{truncated} of {inputs} distinct inputs were longer than max_length and were truncated by the server; "
            "split them, or raise max_length if the model allows it",
            count=truncated,
            total=inputs,
        )
        warn_caller(warning, TruncationWarning)
