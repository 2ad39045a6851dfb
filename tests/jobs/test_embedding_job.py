"""Jobs embed every row of many files exactly once, whatever happens to their processes."""

import gzip
import json
import multiprocessing
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import BASE
from datasets import Dataset, DatasetDict
from job_process import run_job

from bge_integrations.errors import InvalidInputError, UnknownModelError
from bge_integrations.jobs import EmbeddingJob, estimate

#: Starts processes that have imported everything already.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["job_process"])


def rows(first: int, count: int) -> list[dict]:
    return [{"id": i, "text": f"Panda {i} eats bamboo." + " Rome." * (i % 7)} for i in range(first, first + count)]


def write_lines(path: Path, some: list[dict]) -> None:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in some))


def ids_of(output: Path) -> list[int]:
    return sorted(pq.read_table(output).column("id").to_pylist())


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Rows 0 to 119, in four formats."""
    folder = tmp_path / "corpus"
    (folder / "more").mkdir(parents=True)
    write_lines(folder / "a.jsonl", rows(0, 30))
    write_lines(folder / "b.jsonl.gz", rows(30, 30))
    pq.write_table(pa.Table.from_pylist(rows(60, 30)), folder / "more" / "c.parquet", row_group_size=7)
    table = pa.Table.from_pylist(rows(90, 30))
    with pa.ipc.new_stream(folder / "more" / "d.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=11)
    (folder / "_ignored.jsonl").write_text("not JSON")
    return folder


def test_every_row_of_every_format_gets_its_vectors(corpus, tmp_path, pocket):
    with EmbeddingJob(str(corpus), str(tmp_path / "out"), pocket.source, sparse=True, rows_per_file=13) as job:
        report = job.run()
    assert (report.rows, report.earlier_rows) == (120, 0)
    table = pq.read_table(tmp_path / "out")
    order = np.argsort(table.column("id").to_numpy())
    assert table.column("id").to_numpy()[order].tolist() == list(range(120))
    texts = table.column("text").take(order).to_pylist()
    assert texts == [row["text"] for row in rows(0, 120)]
    expected = pocket.encode(texts, kind="passage", sparse=True)
    dense = np.stack(table.column("dense").take(order).to_numpy())
    np.testing.assert_allclose(dense, expected.dense, atol=1e-6)
    sparse = table.column("sparse").take(order).to_pylist()
    assert [row["indices"] for row in sparse] == [row.indices.tolist() for row in expected.sparse]
    note = json.loads(table.schema.metadata[b"bge_integrations"])
    assert note["weights"] == pocket.weights_digest


def test_multi_vectors_and_precisions(corpus, tmp_path, pocket):
    texts = [row["text"] for row in rows(0, 30)]
    expected = pocket.encode(texts, kind="passage", multi_vector=True)
    tables = {}
    for precision in ("float16", "int8", "binary"):
        output = str(tmp_path / precision)
        with EmbeddingJob(str(corpus / "a.jsonl"), output, "pocket", precision=precision, multi_vector=True) as job:
            job.run()
        tables[precision] = pq.read_table(output)
    values = {name: np.stack(table.column("dense").to_numpy()) for name, table in tables.items() if name != "binary"}
    np.testing.assert_allclose(values["float16"], expected.dense, atol=1e-3)
    scale = tables["int8"].column("dense_scale").to_numpy()
    np.testing.assert_allclose(values["int8"] * scale[:, None], expected.dense, atol=scale.max() / 2 + 1e-6)
    bits = np.array(
        [np.unpackbits(np.frombuffer(row, np.uint8)) for row in tables["binary"].column("dense").to_pylist()]
    )
    assert (bits == (expected.dense > 0)).all()
    vectors = tables["int8"].column("multi_vector").to_pylist()
    np.testing.assert_allclose(np.array(vectors[3], np.float32), expected.multi_vector[3], atol=1e-3)


def test_a_job_killed_again_and_again_loses_and_doubles_nothing(tmp_path):
    corpus, output = tmp_path / "rows.jsonl", tmp_path / "out"
    write_lines(corpus, rows(0, 1200))
    for _ in range(3):
        files = len(list(output.glob("*.parquet")))
        processes = [PROCESSES.Process(target=run_job, args=(str(corpus), str(output))) for _ in range(2)]
        for each in processes:
            each.start()
        while len(list(output.glob("*.parquet"))) < files + 2 and any(each.is_alive() for each in processes):
            time.sleep(0.005)
        for each in processes:
            each.kill()
            each.join()
    finished = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    with EmbeddingJob(str(corpus), str(output), "pocket", rows_per_file=40) as job:
        report = job.run()
    assert ids_of(output) == list(range(1200))
    assert report.earlier_rows == 40 * len(finished)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in finished.items())  # not computed again


def test_two_processes_share_the_work(tmp_path):
    write_lines(tmp_path / "rows.jsonl", rows(0, 600))
    counts = PROCESSES.Queue()
    arguments = str(tmp_path / "rows.jsonl"), str(tmp_path / "out"), counts
    processes = [PROCESSES.Process(target=run_job, args=arguments) for _ in range(2)]
    for each in processes:
        each.start()
    assert sum(counts.get(timeout=250) for _ in processes) == 600
    for each in processes:
        each.join()
    assert ids_of(tmp_path / "out") == list(range(600))


def test_shares_divide_an_object_store(corpus):
    output = f"memory://{uuid.uuid4()}/vectors"
    counts = []
    for i in (1, 2, 3):
        with EmbeddingJob(str(corpus), output, "pocket", rows_per_file=10, part=(i, 3)) as job:
            counts.append(job.run().rows)
            again = job.run()
        assert (again.rows, again.earlier_rows) == (0, counts[-1])
    assert counts == [60, 30, 30]  # the compressed file can't be divided
    import fsspec

    system, path = fsspec.core.url_to_fs(output)
    assert not [name for name in system.ls(path, detail=False) if ".new" in name]


def test_a_folder_keeps_to_its_inputs_and_settings(corpus, tmp_path):
    output = str(tmp_path / "out")
    with EmbeddingJob(str(corpus / "a.jsonl"), output, "pocket") as job:
        job.run()
    with pytest.raises(InvalidInputError, match="precision"):
        EmbeddingJob(str(corpus / "a.jsonl"), output, "pocket", precision="int8")
    with pytest.raises(InvalidInputError, match="weights"):
        EmbeddingJob(str(corpus / "a.jsonl"), output, BASE)
    write_lines(corpus / "a.jsonl", rows(0, 31))
    with pytest.raises(InvalidInputError, match="input"):
        EmbeddingJob(str(corpus / "a.jsonl"), output, "pocket")
    assert ids_of(tmp_path / "out") == list(range(30))


@pytest.mark.parametrize(
    ("content", "argument"),
    [
        ('{"text": "one"}\n{"txt": "two"}\n', None),
        ('{"text": "one"}\nnot JSON\n', None),
        ('{"text": "one", "n": 1}\n{"text": "two", "n": "x"}\n', "inputs"),
        ('{"text": "one", "dense": 1}\n', "inputs"),
        ("", "inputs"),
    ],
)
def test_bad_rows_are_named_before_anything_is_written(tmp_path, content, argument):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(InvalidInputError) as raised:
        EmbeddingJob(str(tmp_path / "rows.jsonl"), str(tmp_path / "out"), "pocket")
    assert raised.value.argument == argument
    assert not (tmp_path / "out").exists()


def test_a_refused_job_leaves_the_folder_as_it_was(tmp_path):
    write_lines(tmp_path / "rows.jsonl", rows(0, 3))
    (tmp_path / "empty").mkdir()
    for output in ("empty", "new"):
        with pytest.raises(UnknownModelError):
            EmbeddingJob(str(tmp_path / "rows.jsonl"), str(tmp_path / output), "no-such-model")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "rows.jsonl"]


def test_damaged_and_missing_inputs_are_named(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(InvalidInputError):
        EmbeddingJob(str(tmp_path / "missing"), str(output), "pocket")
    assert not output.exists()
    whole = gzip.compress(b'{"text": "one"}\n' * 100)
    for content in (whole[:-12], b"no gzip", whole[:15] + b"\xff" * 20):
        (tmp_path / "rows.jsonl.gz").write_bytes(content)
        with pytest.raises(InvalidInputError, match=r"rows\.jsonl\.gz") as raised:
            EmbeddingJob(str(tmp_path / "rows.jsonl.gz"), str(output), "pocket")
        assert raised.value.argument == "inputs"


def test_a_text_missing_from_a_parquet_file_stops_the_job_and_keeps_finished_files(tmp_path):
    texts = ["Panda."] * 15 + [None]
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet")
    job = EmbeddingJob(str(tmp_path / "rows.parquet"), str(tmp_path / "out"), "pocket", rows_per_file=5)
    with job, pytest.raises(InvalidInputError, match="row 16"):
        job.run()
    assert len(pq.read_table(tmp_path / "out")) == 15


def test_other_files_and_missing_representations_are_refused(corpus, tmp_path):
    with pytest.raises(InvalidInputError):
        EmbeddingJob(str(corpus), str(tmp_path / "out"), BASE, sparse=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError) as raised:
        EmbeddingJob(str(corpus), str(tmp_path / "mine"), "pocket")
    assert raised.value.argument == "output"
    with pytest.raises(InvalidInputError) as raised:
        EmbeddingJob(str(tmp_path / "nothing"), str(tmp_path / "out"), "pocket")
    assert raised.value.argument == "inputs"
    with pytest.raises(InvalidInputError) as raised:
        EmbeddingJob(str(corpus), str(tmp_path / "out"), "pocket", part=(3, 2))
    assert raised.value.argument == "part"


def test_an_output_inside_the_input_folder_is_not_an_input(corpus, pocket):
    for _ in range(2):
        with EmbeddingJob(str(corpus), str(corpus / "vectors"), "pocket") as job:
            job.run()
    assert ids_of(corpus / "vectors") == list(range(120))


def test_a_data_set_is_read_by_position(tmp_path, pocket):
    dataset = Dataset.from_list(rows(0, 50)).select(range(45, 4, -1))  # its rows are not in the order of its file
    for expected in (41, 0):
        with EmbeddingJob(dataset, str(tmp_path / "out"), "pocket", rows_per_file=10) as job:
            assert job.run().rows == expected
    table = pq.read_table(tmp_path / "out")
    assert table.column("id").to_pylist() == list(range(45, 4, -1))
    expected = pocket.encode_dense(table.column("text").to_pylist(), kind="passage")
    np.testing.assert_allclose(np.stack(table.column("dense").to_numpy()), expected, atol=1e-6)
    with pytest.raises(InvalidInputError, match="input"):
        EmbeddingJob(dataset.select(range(40)), str(tmp_path / "out"), "pocket", rows_per_file=10)
    with pytest.raises(InvalidInputError) as raised:
        EmbeddingJob(DatasetDict(train=dataset), str(tmp_path / "other"), "pocket")
    assert raised.value.argument == "inputs"


def test_an_estimate_scales_a_sample(corpus, tmp_path):
    with EmbeddingJob(str(corpus), str(tmp_path / "out"), "pocket", rows_per_file=10) as job:
        estimated = estimate(job, price_per_hour=3600)
    assert (estimated.rows, estimated.files) == (120, 10)
    assert 0 < estimated.sampled_rows <= 120
    assert estimated.seconds == pytest.approx(120 / estimated.rows_per_second)
    assert estimated.cost == pytest.approx(estimated.seconds)
    assert not list((tmp_path / "out").glob("*.parquet"))
