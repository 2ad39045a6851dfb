"""Ray: vectors, scores and indexes for the rows of a `ray.data.Dataset`.

Each function runs one of the callables of `jobs/batches.py` in a pool of actors. Every actor holds one copy of the
model. If an actor or a machine dies, Ray starts another actor and repeats the batches that were not finished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bge_integrations.jobs.batches import BATCH_SIZE, BatchEmbedder, BatchIndexer, BatchReranker
from bge_integrations.optional import needed_by

with needed_by("bge_integrations.jobs.ray", "bge-integrations[ray]"):
    import ray
    from ray.data import ActorPoolStrategy

if TYPE_CHECKING:
    from ray.data import Dataset


def embed_dataset(
    ds: Dataset,
    model: str = "BAAI/bge-m3",
    *,
    concurrency: int | tuple[int, int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    batch_size: int | None = None,
    **settings: Any,
) -> Dataset:
    """Return a dataset with the vectors as additional columns; it is computed when it is read.

    Args:
        ds: The rows.
        model: An embedding model: hub id, "pocket", the URL of a server, or a folder that all machines can read.
        concurrency: Number of actors; (1, 8) lets Ray start more as they are needed.
        num_cpus: Cores per actor, which is also the number of threads that a model on the CPU computes with.
        num_gpus: GPUs per actor. Ray hides the GPUs from actors that have none.
        batch_size: Maximum rows per batch; None uses 1024, or 32 with multi-vectors.
        settings: Other arguments of `BatchEmbedder`: column, kind, sparse, …, and those of `load_embedder`.

    Raises:
        InvalidInputError: There is nothing to compute, or the precision is unknown.
    """
    size = batch_size or BatchEmbedder(model, **settings).batch_size
    return _map(ds, BatchEmbedder, {"model": model, **settings}, concurrency, num_cpus, num_gpus, size)


def rerank_dataset(
    ds: Dataset,
    model: str = "BAAI/bge-reranker-v2-m3",
    *,
    concurrency: int | tuple[int, int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    batch_size: int = BATCH_SIZE,
    **settings: Any,
) -> Dataset:
    """Return a dataset of queries and passages with the additional column `score`; it is computed when it is read.

    Args:
        ds: The rows.
        model: A reranker.
        concurrency, num_cpus, num_gpus, batch_size: As in `embed_dataset`.
        settings: Other arguments of `BatchReranker`: query, passage, normalize, and those of `load_reranker`.
    """
    return _map(ds, BatchReranker, {"model": model, **settings}, concurrency, num_cpus, num_gpus, batch_size)


def index_dataset(
    ds: Dataset,
    url: str,
    model: str = "BAAI/bge-m3",
    *,
    concurrency: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    batch_size: int = BATCH_SIZE,
    **settings: Any,
) -> int:
    """Add all rows to an `M3Index` on a Qdrant server, which is created if it does not exist.

    An actor reads its next batch when the server has stored the last one, so a slow server slows reading down and
    memory stays level. Rows whose text is stored already are not encoded again: after an interruption, the same call
    continues.

    Args:
        ds: The rows.
        url: The server's URL. Or a folder, with one actor, on a cluster of one machine.
        model: The index's embedding model; see `embed_dataset`.
        concurrency, num_cpus, num_gpus, batch_size: As in `embed_dataset`.
        settings: Other arguments of `BatchIndexer`: column, id_column, collection, api_key, and those of
            `load_embedder`.

    Returns:
        The number of rows.
    """
    arguments = {"url": url, "model": model, **settings}
    create = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(_create)
    ray.get(create.remote(arguments))  # in the cluster, because this machine may lack the model; once, not per actor
    ids = _map(ds, BatchIndexer, arguments, concurrency, num_cpus, num_gpus, batch_size)
    return sum(len(table) for table in ids.iter_batches(batch_size=None, batch_format="pyarrow"))


def _map(
    ds: Dataset,
    call: type,
    arguments: dict[str, Any],
    concurrency: int | tuple[int, int],
    num_cpus: float,
    num_gpus: float,
    batch_size: int,
) -> Dataset:
    least, most = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    return ds.map_batches(
        call,
        fn_constructor_kwargs=arguments,
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        udf_modifying_row_count=False,
    )


def _create(arguments: dict[str, Any]) -> None:
    BatchIndexer(**arguments).open(create=True).close()
