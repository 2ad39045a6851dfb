"""Runs batches on a shared model, and recomputes non-finite results in float32."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bge_integrations.core import runtime
from bge_integrations.errors import BGEError, ComputationError, NonFiniteError, OutOfMemoryError

if TYPE_CHECKING:
    from bge_integrations.core.batch_queue import QueuedSequence
    from bge_integrations.core.residency import SharedModel
    from bge_integrations.models.interface import OutputSpec

_logger = logging.getLogger(__name__)
_HALF_PRECISION = ("bfloat16", "float16")


@dataclass(frozen=True)
class ModelRunner:
    """Computes the batches of one shared model and one kind of output; called by the scheduler."""

    shared: SharedModel
    spec: OutputSpec

    def run(self, batch: list[QueuedSequence], between_layers: Callable[[], None]) -> None:
        """Compute a batch and deliver each output to its call.

        Non-finite outputs of a half-precision model are recomputed in float32; with any other model, they are an error.
        """
        outputs = self.shared.model.run([queued.sequence for queued in batch], self.spec, between_layers)
        non_finite = []
        for queued, output in zip(batch, outputs, strict=True):
            if output.is_finite():
                queued.call.deliver(queued.index, output)
            else:
                non_finite.append(queued)
        if not non_finite:
            return
        if self.shared.key.dtype in _HALF_PRECISION:
            # in a separate thread, because loading the weights must not block other callers' batches
            threading.Thread(target=self._recompute, args=(non_finite,), name="bge-float32", daemon=True).start()
        else:
            _fail(non_finite, "in float32; its weights are probably damaged")

    def _recompute(self, non_finite: list[QueuedSequence]) -> None:
        """Queue the sequences for the same model in float32."""
        dtype, device = self.shared.key.dtype, self.shared.key.device
        _logger.warning("%d sequences were not finite in %s and are recomputed in float32", len(non_finite), dtype)
        runtime.counters_of(device).count(recomputed_sequences=len(non_finite))
        for queued in non_finite:
            queued.call.slowdowns.add(
                f"the model returned NaN or infinity in {dtype}, and these texts were computed again in float32; "
                "use dtype='float32' to avoid this"
            )
        try:
            exact = self.shared.in_float32()
            exact.scheduler.submit(ModelRunner(exact, self.spec), non_finite, urgent=False, is_new=False)
        except OutOfMemoryError as error:
            _fail(
                non_finite,
                f"in {dtype}, and there is not enough memory to recompute it in float32 ({error}); leave the text out",
            )
        except BaseException as error:
            failure = (
                error if isinstance(error, BGEError) else ComputationError(f"recomputing in float32 failed: {error}")
            )
            for queued in non_finite:
                queued.call.fail(failure)


def _fail(sequences: list[QueuedSequence], where: str) -> None:
    for queued in sequences:
        queued.call.fail(
            NonFiniteError(f"the model returned NaN or infinity for a text of {len(queued.sequence)} tokens {where}")
        )
