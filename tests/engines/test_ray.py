"""Ray embeds, reranks and indexes every row of a dataset exactly once, also if its workers die."""

import os
import signal
from collections.abc import Iterator

import numpy as np
import psutil
import pyarrow as pa
import pytest

ray = pytest.importorskip("ray")


from bge_integrations.errors import InvalidInputError  # noqa: E402
from bge_integrations.index import M3Index  # noqa: E402
from bge_integrations.jobs.batches import BatchIndexer  # noqa: E402
from bge_integrations.jobs.ray import embed_dataset, index_dataset, rerank_dataset  # noqa: E402


@pytest.fixture(scope="module")
def cluster(engine_workers) -> Iterator[None]:
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def rows(count: int) -> list[dict]:
    return [{"id": i, "text": f"Panda {i} eats bamboo." + " Rome." * (i % 7)} for i in range(count)]


def dataset(count: int, blocks: int) -> "ray.data.Dataset":
    return ray.data.from_items(rows(count), override_num_blocks=blocks)


def kill_a_worker(title: str) -> None:
    """Kill an actor whose process has `title` in its name."""
    children = psutil.Process().children(recursive=True)
    actors = [child.pid for child in children if any(title in part for part in child.cmdline()[:1])]
    assert actors
    os.kill(actors[0], signal.SIGKILL)


def test_a_killed_worker_loses_and_doubles_no_row(cluster, pocket):
    ds = embed_dataset(dataset(1200, 40), "pocket", sparse=True, concurrency=2, batch_size=10)
    tables = []
    for table in ds.iter_batches(batch_size=10, batch_format="pyarrow", prefetch_batches=0):
        if not tables:
            kill_a_worker("BatchEmbedder")
        tables.append(table)
    table = pa.concat_tables(tables).sort_by("id")
    assert table.column("id").to_pylist() == list(range(1200))
    expected = pocket.encode([row["text"] for row in rows(1200)], kind="passage", sparse=True)
    np.testing.assert_allclose(np.stack(table.column("dense").to_numpy()), expected.dense, atol=1e-6)
    assert table.column("sparse").to_pylist()[7]["indices"] == expected.sparse[7].indices.tolist()


def test_an_index_is_filled_while_its_writer_dies(cluster, tmp_path):
    folder = str(tmp_path / "index")
    M3Index.open(folder, "pocket").close()
    ids = dataset(200, 20).map_batches(
        BatchIndexer,
        fn_constructor_kwargs={"url": folder, "model": "pocket", "id_column": "id"},
        batch_format="pyarrow",
        batch_size=10,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    stored: list[str] = []
    for table in ids.iter_batches(batch_size=10, batch_format="pyarrow", prefetch_batches=0):
        if not stored:
            kill_a_worker("BatchIndexer")
        stored += table.column("id").to_pylist()
    assert sorted(map(int, stored)) == list(range(200))
    with M3Index.open(folder) as index:
        assert sorted(int(document.id) for document in index) == list(range(200))


def test_an_index_is_created_filled_and_updated(cluster, tmp_path):
    folder = str(tmp_path / "index")
    for _ in range(2):
        ds = ray.data.from_items([{"id": i, "text": f"Panda {i}", "year": 2000 + i} for i in range(30)])
        assert index_dataset(ds, folder, "pocket", id_column="id", batch_size=10) == 30
    with M3Index.open(folder) as index:
        assert len(index) == 30
        hit = index.search("Panda 7", k=1, filter={"year": 2007})[0]
    assert (hit.id, hit.text, hit.metadata) == ("7", "Panda 7", {"year": 2007})


def test_pairs_get_the_scores_of_the_reranker(cluster, pocket_reranker):
    pairs = [("What do pandas eat?", f"Panda {i} eats bamboo.") for i in range(20)]
    ds = ray.data.from_items([{"id": i, "query": query, "text": text} for i, (query, text) in enumerate(pairs)])
    table = pa.Table.from_pylist(rerank_dataset(ds, "pocket", num_cpus=1).take_all()).sort_by("id")
    np.testing.assert_allclose(table.column("score").to_numpy(), pocket_reranker.score(pairs), atol=1e-5)


def test_mistakes_reach_the_caller(cluster):
    with pytest.raises(InvalidInputError):
        embed_dataset(dataset(2, 1), "pocket", dense=False)
    with pytest.raises(ray.exceptions.RayTaskError, match="'txt'") as raised:
        embed_dataset(dataset(2, 1), "pocket", column="txt").take_all()
    assert isinstance(raised.value.cause, InvalidInputError) or "InvalidInputError" in str(raised.value)
