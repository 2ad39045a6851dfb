"""`bge index --vectors` adds rows with the vectors from `bge embed`, if the index's model computes the same."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import BASE

from bge_integrations import load_embedder
from bge_integrations.errors import InvalidInputError, WrongModelError
from bge_integrations.index import M3Index
from bge_integrations.jobs import EmbeddingJob
from bge_integrations.jobs.embedded_rows import EmbeddedRows

ROWS = [
    {"id": i, "text": f"Panda {i} eats {'bamboo' if i % 2 else 'fish'}.", "n": i, "tags": ["a", str(i)]}
    for i in range(90)
]
TEXTS = [row["text"] for row in ROWS]
QUERY = "Which panda eats fish?"
ALL = ("--sparse", "--multi-vector", "--quiet")


@pytest.fixture(scope="module")
def expected(pocket):
    """The scores of all rows by id."""
    with M3Index.open(":memory:", pocket) as index:
        index.add(TEXTS, [str(row["id"]) for row in ROWS])
        return {hit.id: hit.score for hit in index.search(QUERY, k=100, candidates=100)}


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def table(pocket, tmp_path, lines):
    """A Parquet file with the vectors of the rows."""
    with EmbeddingJob(str(lines), str(tmp_path / "job"), pocket.source, sparse=True, multi_vector=True) as job:
        job.run()
    return next((tmp_path / "job").glob("*.parquet"))


def scores(folder):
    with M3Index.open(folder) as index:
        assert index.get(["7"])[0].metadata == {"n": 7, "tags": ["a", "7"]}
        return {hit.id: hit.score for hit in index.search(QUERY, k=100, candidates=100)}


def with_note(table, target, **changes):
    """Write the file again with changes in what it says about its vectors."""
    read = pq.read_table(table)
    note = json.loads(read.schema.metadata[b"bge_integrations"]) | changes
    pq.write_table(read.replace_schema_metadata({b"bge_integrations": json.dumps(note).encode()}), target)
    return str(target)


def test_a_file_becomes_an_index(bge, lines, tmp_path, expected):
    parquet, folder = tmp_path / "rows.parquet", tmp_path / "index"
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "source.parquet")
    assert bge("embed", tmp_path / "source.parquet", parquet, "--model", "pocket", *ALL)[0] == 0
    report = json.loads(bge("index", "--vectors", parquet, "--index", folder, "--json", "--quiet")[1])
    assert (report["rows"], report["documents"]) == (90, 90)
    assert scores(folder) == pytest.approx(expected, abs=1e-5)
    bge("index", "--vectors", parquet, "--index", folder, "--quiet")
    assert len(scores(folder)) == 90


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("float16", 2e-3), ("int8", 5e-3)])
def test_a_folder_of_each_precision_becomes_an_index(bge, lines, tmp_path, expected, precision, error):
    vectors, folder = f"{tmp_path}/vectors/", tmp_path / "index"
    options = ("--precision", precision, "--rows-per-file", "40")
    bge("embed", lines, vectors, "--model", "pocket", *ALL, *options)
    bge("index", "--vectors", vectors, "--index", folder, "--quiet")
    assert scores(folder) == pytest.approx(expected, abs=error)


def test_one_bit_per_number_is_refused(lines, tmp_path, pocket):
    with EmbeddingJob(str(lines), str(tmp_path / "bits"), pocket.source, precision="binary") as job:
        job.run()
    with pytest.raises(InvalidInputError):
        EmbeddedRows(str(tmp_path / "bits"))


def test_vectors_of_another_model_or_setting_are_refused_and_nothing_is_created(bge, table, tmp_path):
    folder = tmp_path / "index"
    for changes in (
        {"weights": "others"},
        {"pooling": "mean"},
        {"instruction": "Text: "},
        {"max_length": 9},
        {"dimension": 32},
    ):
        wrong = with_note(table, tmp_path / "wrong.parquet", **changes)
        with load_embedder("pocket") as embedder, pytest.raises(WrongModelError):
            EmbeddedRows(wrong).check(embedder, ["dense"])
        assert bge("index", "--vectors", wrong, "--index", folder, "--model", "pocket")[0] == 1
        assert not folder.exists()
    assert bge("index", "--vectors", table, "--index", folder, "--model", BASE)[0] == 1
    assert bge("index", "--vectors", table, "--index", folder, "--overlap", "3")[0] == 1
    assert not folder.exists()


def test_vectors_as_queries_fit_only_without_instructions(table, tmp_path):
    with load_embedder("pocket") as embedder:
        EmbeddedRows(with_note(table, tmp_path / "a.parquet", kind=None, instruction="unused")).check(embedder, [])
        with pytest.raises(WrongModelError):
            EmbeddedRows(with_note(table, tmp_path / "b.parquet", kind="query", instruction="Q: ")).check(embedder, [])


def test_missing_representations_are_refused_unless_the_index_does_not_store_them(bge, lines, tmp_path):
    parquet, folder = tmp_path / "rows.parquet", tmp_path / "index"
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "source.parquet")
    bge("embed", tmp_path / "source.parquet", parquet, "--model", "pocket", "--sparse", "--quiet")
    assert bge("index", "--vectors", parquet, "--index", folder)[0] == 1
    assert not folder.exists()
    assert bge("index", "--vectors", parquet, "--index", folder, "--multi-vectors", "recompute")[0] == 0
    with M3Index.open(folder) as index:
        assert len(index.search(QUERY, k=100, weights=(1, 1, 0))) == 90


def test_files_that_are_not_vectors_of_ours_are_refused(table, lines, tmp_path):
    read = pq.read_table(table)
    twice = pa.concat_tables([read, read.slice(3, 1)])
    dated = read.append_column("date", pa.array(np.zeros(90, "datetime64[s]")))
    tables = {
        "twice": twice,
        "dated": dated,
        "unsaid": read.replace_schema_metadata(None),
        "garbled": read.replace_schema_metadata({b"bge_integrations": b"{"}),
        "incomplete": read.replace_schema_metadata({b"bge_integrations": b'{"model": "pocket"}'}),
        "without texts": read.drop_columns(["text"]),
        "without vectors": read.drop_columns(["dense"]),
    }
    for name, wrong in tables.items():
        pq.write_table(wrong, tmp_path / f"{name}.parquet")
        with pytest.raises(InvalidInputError) as refused:
            EmbeddedRows(str(tmp_path / f"{name}.parquet"))
        assert refused.value.argument == "inputs", name
    (tmp_path / "damaged.parquet").write_bytes(table.read_bytes()[:-9])
    for other in (lines, tmp_path / "damaged.parquet", tmp_path / "missing.parquet"):
        with pytest.raises(InvalidInputError):
            EmbeddedRows(str(other))
    with_note(table, tmp_path / "one.parquet")
    with_note(table, tmp_path / "other.parquet", max_length=9)
    with pytest.raises(InvalidInputError):
        EmbeddedRows([str(tmp_path / "one.parquet"), str(tmp_path / "other.parquet")])


def test_rows_without_ids_or_other_columns_get_derived_ids(table, tmp_path, pocket):
    pq.write_table(pq.read_table(table).drop_columns(["id", "n", "tags"]), tmp_path / "bare.parquet")
    rows = EmbeddedRows(str(tmp_path / "bare.parquet"))
    with M3Index.open(":memory:", pocket) as given, M3Index.open(":memory:", pocket) as encoded:
        for some in rows.documents(pocket):
            given.add(some.texts, some.ids, some.metadatas, embeddings=some.embeddings)
        encoded.add(TEXTS)
        assert {document.id for document in given} == {document.id for document in encoded}


def test_a_row_without_a_vector_is_refused(table, tmp_path, pocket):
    read = pq.read_table(table)
    dense = pa.array([None, *read.column("dense").to_pylist()[1:]], read.schema.field("dense").type)
    broken = read.set_column(read.schema.get_field_index("dense"), read.schema.field("dense"), dense)
    pq.write_table(broken, tmp_path / "broken.parquet")
    with pytest.raises(InvalidInputError):
        list(EmbeddedRows(str(tmp_path / "broken.parquet")).documents(pocket))
