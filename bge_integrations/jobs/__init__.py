"""Jobs over more rows than fit into memory or one process: `EmbeddingJob` for files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.jobs.embedding import EmbeddingJob as EmbeddingJob
    from bge_integrations.jobs.embedding import JobReport as JobReport
    from bge_integrations.jobs.estimation import Estimate as Estimate
    from bge_integrations.jobs.estimation import estimate as estimate

_MODULES = {
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
