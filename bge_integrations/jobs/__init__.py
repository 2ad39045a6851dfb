"""Jobs over more rows than fit into memory or one process.

`EmbeddingJob` is for files. `BatchEmbedder`, `BatchReranker` and `BatchIndexer` are for engines; the modules `ray`,
`spark` and `daft` apply them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.jobs.batches import BatchEmbedder as BatchEmbedder
    from bge_integrations.jobs.batches import BatchIndexer as BatchIndexer
    from bge_integrations.jobs.batches import BatchReranker as BatchReranker
    from bge_integrations.jobs.embedding import EmbeddingJob as EmbeddingJob
    from bge_integrations.jobs.embedding import JobReport as JobReport
    from bge_integrations.jobs.estimation import Estimate as Estimate
    from bge_integrations.jobs.estimation import estimate as estimate

_MODULES = {
    "BatchEmbedder": "bge_integrations.jobs.batches",
    "BatchIndexer": "bge_integrations.jobs.batches",
    "BatchReranker": "bge_integrations.jobs.batches",
    "EmbeddingJob": "bge_integrations.jobs.embedding",
    "JobReport": "bge_integrations.jobs.embedding",
    "Estimate": "bge_integrations.jobs.estimation",
    "estimate": "bge_integrations.jobs.estimation",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
