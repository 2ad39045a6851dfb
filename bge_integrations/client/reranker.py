"""A reranker whose model runs on a server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations import network_loop
from bge_integrations.client.batches import in_batches
from bge_integrations.client.calls import ScoreCall
from bge_integrations.client.remote import Remote, report_truncation
from bge_integrations.core.reranker import Pair, Reranker, check_pairs
from bge_integrations.validation import check_on_truncate, check_whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.client.calls import Dialect, ServedModel
    from bge_integrations.client.transport import Transport
    from bge_integrations.core.request import OnTruncate

#: A batch's scores, and the number of pairs that the server truncated.
Answer = tuple["NDArray[np.float32]", int]


class RemoteReranker(Remote, Reranker):
    """A reranker whose model runs on a server: what `load_reranker` returns for a URL.

    It has the interface of `Reranker`. Whether the model stops at an earlier layer is set where the server is started.
    """

    def __init__(
        self,
        transport: Transport,
        dialect: Dialect,
        served: ServedModel,
        max_length: int | None,
        query_max_length: int | None,
    ) -> None:
        Remote.__init__(self, transport, dialect, served)  # not Reranker's, which needs a model in this process
        self._longest = served.max_length
        self._own_length = max_length is None and query_max_length is None
        self.max_length = served.max_length if max_length is None else max_length
        check_whole_number(self.max_length, "max_length", most=self._longest)
        self.query_max_length = query_max_length
        if query_max_length is not None:
            check_whole_number(query_max_length, "query_max_length", most=self.max_length)
        self.cutoff_layers, self.compression, self.prompt = (), (), ""

    def score(
        self,
        pairs: Iterable[Pair],
        *,
        normalize: bool = False,
        max_length: int | None = None,
        query_max_length: int | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """Score pairs on the server; see `Reranker.score`.

        Raises:
            ServerError: The server could not be reached, failed, or answered something unexpected.
            OverloadedError: The server was overloaded for longer than the timeout.
            NotSupportedError: The server does not support an argument.
        """
        call, checked = self._call(normalize, max_length, query_max_length, on_truncate), check_pairs(pairs)
        return self._gathered(call, checked, network_loop.run(self._send(call, checked, show_progress)))

    async def ascore(
        self,
        pairs: Iterable[Pair],
        *,
        normalize: bool = False,
        max_length: int | None = None,
        query_max_length: int | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """Score pairs without blocking the event loop; cancelling drops the requests. See `score`."""
        call, checked = self._call(normalize, max_length, query_max_length, on_truncate), check_pairs(pairs)
        return self._gathered(call, checked, await network_loop.arun(self._send(call, checked, show_progress)))

    def _call(
        self, normalize: bool, max_length: int | None, query_max_length: int | None, on_truncate: OnTruncate
    ) -> ScoreCall:
        """Check the arguments of a call."""
        self._transport.check_open()
        check_on_truncate(on_truncate)
        if self._own_length and max_length is None and query_max_length is None:
            return ScoreCall(bool(normalize), None, None, on_truncate)
        longest = self.max_length if max_length is None else max_length
        check_whole_number(longest, "max_length", most=self._longest)
        if query_max_length is None and max_length is None:
            query_max_length = self.query_max_length
        if query_max_length is not None:
            check_whole_number(query_max_length, "query_max_length", most=longest)
        return ScoreCall(bool(normalize), longest, query_max_length, on_truncate)

    async def _send(self, call: ScoreCall, pairs: list[Pair], show_progress: bool) -> list[Answer]:
        """Return the answers to the batches of the distinct pairs."""

        async def ask(batch: Sequence[Pair]) -> Answer:
            return await self._dialect.score(batch, call)

        return await in_batches(list(dict.fromkeys(pairs)), self._dialect, ask, show_progress=show_progress)

    def _gathered(self, call: ScoreCall, pairs: list[Pair], answers: list[Answer]) -> NDArray[np.float32]:
        """Return the scores in the order of the call's pairs, which may repeat."""
        numbers = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
        report_truncation(sum(truncated for _, truncated in answers), len(numbers), call.on_truncate)
        scores = np.concatenate([np.empty(0, np.float32), *(scores for scores, _ in answers)])
        return scores[[numbers[pair] for pair in pairs]] if pairs else scores
