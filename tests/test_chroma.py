"""Chroma in memory, on disk and on a real server: the stored settings, and the guard against another model."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import chromadb
import numpy as np
import pytest
import torch
from chromadb.utils.embedding_functions import known_embedding_functions, register_embedding_function
from conftest import BASE, M3, assert_close

from bge_integrations.chroma import BGEEmbeddingFunction
from bge_integrations.core.residency import models_in_memory
from bge_integrations.errors import InvalidInputError, UnknownModelError, WrongModelError

TEXTS = ["Pandas live in the bamboo forests of China.", "BM25 ranks documents by their words.", "hi"]
IDS = ["1", "2", "3"]


@pytest.fixture(scope="module")
def function():
    return BGEEmbeddingFunction(model_name=BASE)


@pytest.fixture
def client(tmp_path):
    return chromadb.PersistentClient(str(tmp_path / "db"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two checkpoints that the catalogue does not know, with the same shapes and different weights."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("own")
    for name in ("first", "second"):
        shutil.copytree(BASE, folder / name)
    weights = load_file(folder / "second" / "model.safetensors")
    name = next(name for name in weights if name.endswith("layer.0.output.dense.weight"))
    save_file({**weights, name: weights[name] * 1.5}, folder / "second" / "model.safetensors")
    return folder


def own_function(folder: Path, **settings):
    return BGEEmbeddingFunction(model_name=str(folder), family="encoder", pooling="cls", **settings)


def test_default_model_and_registration():
    assert known_embedding_functions["bge_integrations"] is BGEEmbeddingFunction
    assert BGEEmbeddingFunction.__init__.__defaults__[0] == "BAAI/bge-base-en-v1.5"


def test_vectors_are_the_cores_and_queries_get_the_instruction(function, base):
    assert_close(function(TEXTS), base.encode(TEXTS, kind="passage").dense)
    assert_close(function.embed_query(["hi"]), base.encode(["hi"], kind="query").dense)
    assert {vector.dtype for vector in function(TEXTS)} == {np.dtype(np.float32)}


def test_a_collection_compares_by_cosine_unless_told_otherwise(client, function, base):
    collection = client.create_collection("documents", embedding_function=function)
    assert collection.configuration_json["hnsw"]["space"] == "cosine"
    collection.add(ids=IDS, documents=TEXTS)
    found = collection.query(query_texts=["hi"], n_results=3)
    expected = 1 - base.encode(TEXTS).dense @ base.encode(["hi"], kind="query").dense[0]
    by_id = dict(zip(IDS, expected.tolist(), strict=True))
    assert_close(found["distances"][0], [by_id[i] for i in found["ids"][0]], 1e-4)
    other = client.create_collection("dots", embedding_function=function, configuration={"hnsw": {"space": "ip"}})
    assert other.configuration_json["hnsw"]["space"] == "ip"


def test_the_settings_are_stored_without_weights_or_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    function = BGEEmbeddingFunction(model_name=BASE, device="cpu", query_instruction="Find: ", max_length=32)
    config = json.loads(json.dumps(function.get_config()))
    assert config["model_name"] == BASE
    assert (config["device"], config["query_instruction"], config["max_length"]) == ("cpu", "Find: ", 32)
    assert "secret" not in str(config)
    assert len(json.dumps(config)) < 1000
    twin = BGEEmbeddingFunction.build_from_config(config)
    assert twin.get_config() == config
    assert_close(twin.embed_query(["hi"]), function.embed_query(["hi"]))


def test_building_from_a_configuration_loads_nothing():
    config = BGEEmbeddingFunction(model_name=M3).get_config()
    before = models_in_memory()
    twins = [BGEEmbeddingFunction.build_from_config({**config, "model_name": "./nowhere"}) for _ in range(3)]
    assert [twin.get_config()["model_name"] for twin in twins] == ["./nowhere"] * 3
    assert models_in_memory() == before


@pytest.mark.parametrize(
    "config",
    [
        {},
        None,
        {"model_name": BASE, "batch_size": 3},
        {"model_name": BASE, "model": M3},
        {"model_name": BASE, "made_by": "x"},
    ],
)
def test_a_bad_configuration_is_refused(config):
    with pytest.raises(InvalidInputError, match="configuration"):
        BGEEmbeddingFunction.build_from_config(config)


def test_bad_settings_raise_at_construction():
    with pytest.raises(UnknownModelError, match=r"bge-bas-en.*bge-base-en"):
        BGEEmbeddingFunction(model_name="bge-bas-en")
    with pytest.raises(TypeError, match="batch_size"):
        BGEEmbeddingFunction(model_name=BASE, batch_size=3)


def test_bad_input(function, client):
    collection = client.create_collection("documents", embedding_function=function)
    with pytest.raises(InvalidInputError, match=r"texts\[0\].*surrogate"):
        collection.add(ids=["1"], documents=["\ud800"])
    with pytest.raises(InvalidInputError, match=r"texts.*\bstr\b"):
        function("one text")
    assert collection.count() == 0


def test_a_collection_on_disk_is_opened_without_naming_the_function(tmp_path, function):
    """The collection is opened in another process, as in a user's second program."""
    made = chromadb.PersistentClient(str(tmp_path)).create_collection("documents", embedding_function=function)
    made.add(ids=IDS, documents=TEXTS)
    expected = made.query(query_texts=["hi"], n_results=3)
    code = f"""
import chromadb, json
import bge_integrations.chroma
collection = chromadb.PersistentClient({str(tmp_path)!r}).get_collection("documents")
collection.add(ids=["4"], documents=["one more"])
print(json.dumps(collection.query(query_texts=["hi"], n_results=4)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "4" in found["ids"][0]
    by_id = dict(zip(found["ids"][0], found["distances"][0], strict=True))
    assert_close([by_id[i] for i in expected["ids"][0]], expected["distances"][0], 1e-4)


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_same_weights_at_another_path_are_the_same_model(client, own, tmp_path, name):
    collection = client.create_collection("documents", embedding_function=own_function(own / name))
    collection.add(ids=IDS, documents=TEXTS)
    shutil.copytree(own / name, tmp_path / "moved")
    moved = client.get_collection("documents", embedding_function=own_function(tmp_path / "moved"))
    assert (
        moved.query(query_texts=["hi"], n_results=1)["ids"] == collection.query(query_texts=["hi"], n_results=1)["ids"]
    )


def test_a_folder_of_the_published_name_is_that_model(client, function, tmp_path):
    collection = client.create_collection("documents", embedding_function=function)
    collection.add(ids=IDS, documents=TEXTS)
    shutil.copytree(BASE, tmp_path / "bge-base-en-v1.5")
    twin = BGEEmbeddingFunction(model_name=str(tmp_path / "bge-base-en-v1.5"), query_instruction="")
    client.get_collection("documents", embedding_function=twin).query(query_texts=["hi"])


@pytest.mark.parametrize("get", ["get_collection", "get_or_create_collection"])
@pytest.mark.parametrize("case", ["another model", "other weights", "another width", "another instruction"])
def test_another_model_under_the_same_name_is_refused(client, own, get, case):
    maker = own_function(own / "first")
    other = {
        "another model": lambda: BGEEmbeddingFunction(model_name=M3),
        "other weights": lambda: own_function(own / "second"),
        "another width": lambda: own_function(own / "first", truncate_dim=16),
        "another instruction": lambda: own_function(own / "first", passage_instruction="Represent: "),
    }[case]()
    client.create_collection("documents", embedding_function=maker).add(ids=IDS, documents=TEXTS)
    collection = getattr(client, get)("documents", embedding_function=other)
    for call in (
        lambda: collection.add(ids=["4"], documents=["hi"]),
        lambda: collection.upsert(ids=["1"], documents=["hi"]),
        lambda: collection.update(ids=["1"], documents=["hi"]),
        lambda: collection.query(query_texts=["hi"]),
    ):
        with pytest.raises(WrongModelError, match=r"there, .* here"):
            call()
    assert collection.count() == 3
    assert client.get_collection("documents").get("1")["documents"] == TEXTS[:1]


def test_a_changed_checkpoint_at_the_same_path_is_refused(client, own, tmp_path):
    shutil.copytree(own / "first", tmp_path / "model")
    maker = own_function(tmp_path / "model")
    client.create_collection("documents", embedding_function=maker).add(ids=IDS, documents=TEXTS)
    shutil.copy(own / "second" / "model.safetensors", tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "model" / "model.safetensors")
    with pytest.raises(WrongModelError):
        client.get_collection("documents").query(query_texts=["hi"])


def test_a_collection_cannot_be_assigned_to_another_model(tmp_path, function):
    client = chromadb.PersistentClient(str(tmp_path))
    collection = client.create_collection("documents", embedding_function=function)
    collection.add(ids=IDS, documents=TEXTS)
    with pytest.raises(WrongModelError, match=r"there, .* here"):
        collection.modify(name="other", configuration={"embedding_function": BGEEmbeddingFunction(model_name=M3)})
    kept = client.get_collection("documents").configuration_json["embedding_function"]["config"]
    assert kept == function.get_config()
    collection.query(query_texts=["hi"])
    twin = BGEEmbeddingFunction(model_name=BASE, query_instruction="Find: ")
    collection.modify(configuration={"embedding_function": twin})
    kept = client.get_collection("documents").configuration_json["embedding_function"]["config"]
    assert kept["query_instruction"] == "Find: "


def test_a_collection_of_another_function_cannot_be_taken_over(tmp_path, function):
    client = chromadb.PersistentClient(str(tmp_path))
    collection = client.create_collection("documents", embedding_function=Named(BASE))
    collection.add(ids=IDS, documents=TEXTS)
    with pytest.raises(WrongModelError, match="'named'"):
        collection.modify(configuration={"embedding_function": BGEEmbeddingFunction(model_name=M3)})
    kept = client.get_collection("documents").configuration_json["embedding_function"]
    assert (kept["name"], kept["config"]["model_name"]) == ("named", BASE)


def test_a_digest_is_of_the_weights_in_memory(client, own, tmp_path):
    shutil.copytree(own / "first", tmp_path / "model")
    function = own_function(tmp_path / "model")
    shutil.copy(own / "second" / "model.safetensors", tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "model" / "model.safetensors")
    collection = client.create_collection("documents", embedding_function=function)
    collection.add(ids=IDS, documents=TEXTS)
    client.get_collection("documents", embedding_function=own_function(own / "first")).query(query_texts=["hi"])
    with pytest.raises(WrongModelError):
        client.get_collection("documents", embedding_function=own_function(tmp_path / "model")).query(
            query_texts=["hi"]
        )


def test_a_file_of_the_same_size_and_age_is_another_checkpoint(own, tmp_path):
    folder = Path(shutil.copytree(own / "first", tmp_path / "model"))
    before = own_function(folder)(["hi"])
    weights = folder / "model.safetensors"
    age = weights.stat().st_mtime_ns
    shutil.copy(own / "second" / "model.safetensors", tmp_path / "new")
    os.utime(tmp_path / "new", ns=(age, age))
    (tmp_path / "new").replace(weights)
    assert np.abs(own_function(folder)(["hi"])[0] - before[0]).max() > 1e-4


def test_a_published_name_does_not_stand_for_other_weights(client, own, tmp_path):
    folder = shutil.copytree(own / "second", tmp_path / "bge-base-en-v1.5")
    collection = client.create_collection("documents", embedding_function=BGEEmbeddingFunction(model_name=BASE))
    collection.add(ids=IDS, documents=TEXTS)
    with pytest.raises(WrongModelError):
        client.get_collection("documents", embedding_function=BGEEmbeddingFunction(folder)).query(query_texts=["hi"])


def test_a_large_file_is_identified_by_a_sample(tmp_path):
    from bge_integrations.models.checkpoint import weights_digest

    def digest(name, content):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
        return weights_digest(folder)

    content = bytes(20 << 20)
    first = digest("first", content)
    assert digest("same", content) == first
    assert digest("other", content[: 10 << 20] + b"\1" * (1 << 20) + content[11 << 20 :]) != first
    assert digest("longer", content + b"\0") != first


def test_a_collection_opened_without_a_function_loads_the_model_once(client, model_uses):
    function = BGEEmbeddingFunction(model_name=BASE, max_length=77)
    client.create_collection("documents", embedding_function=function).add(ids=IDS, documents=TEXTS)
    model_uses.clear()
    opened = client.get_collection("documents")
    for _ in range(3):
        opened.query(query_texts=["hi"])
        opened.upsert(ids=["1"], documents=["hi"])
    assert len(model_uses) == 1


class Lowered(BGEEmbeddingFunction):
    def __call__(self, input):
        return super().__call__([text.lower() for text in input])


class LoweredTwice(Lowered):
    def __call__(self, input):
        return super().__call__([text.lower() for text in input])


@register_embedding_function
class Named(LoweredTwice):
    @staticmethod
    def name():
        return "named"


@pytest.mark.parametrize("kind", [Lowered, LoweredTwice, Named])
def test_subclasses_are_guarded_too(client, kind):
    client.create_collection("documents", embedding_function=kind(BASE)).add(ids=IDS, documents=TEXTS)
    with pytest.raises(WrongModelError):
        client.get_collection("documents", embedding_function=kind(M3)).add(ids=["4"], documents=["hi"])


def test_a_subclass_with_its_own_name_is_restored(client):
    collection = client.create_collection("documents", embedding_function=Named(BASE))
    collection.add(ids=["1"], documents=["HI"])
    assert type(client.get_collection("documents").configuration["embedding_function"]) is Named


def test_the_guard_ignores_another_function_in_a_data_loader(client, function):
    other = BGEEmbeddingFunction(model_name=M3)

    def load(uris):
        return [f"{uri} {len(other(['hi']))}" for uri in uris]

    collection = client.create_collection("documents", embedding_function=function, data_loader=load)
    collection.add(ids=["1"], uris=["somewhere"])
    assert collection.count() == 1


def test_paths_and_torch_dtypes_are_stored_as_text(client):
    function = BGEEmbeddingFunction(Path(BASE), dtype=torch.float32)
    client.create_collection("documents", embedding_function=function)
    assert (function.get_config()["model_name"], function.get_config()["dtype"]) == (BASE, "float32")


def test_the_guard_ignores_the_users_own_vectors(client, function):
    """Two functions side by side, a collection without a function, and calls from a user's class."""
    plain = client.create_collection("plain", embedding_function=None)
    plain.add(ids=IDS, embeddings=function(TEXTS), documents=TEXTS)
    assert plain.query(query_embeddings=BGEEmbeddingFunction(model_name=BASE).embed_query(["hi"]))["ids"]

    class Caller:
        def embed(self, texts):
            return function(texts)

    assert len(Caller().embed(TEXTS)) == 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start a real Chroma server and return its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(folder), "--host", "127.0.0.1"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
        try:
            _wait_for(port, process, folder / "log")
            yield port
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        try:
            chromadb.HttpClient(host="127.0.0.1", port=port).heartbeat()
        except Exception:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def test_on_a_server(server, function, base):
    client = chromadb.HttpClient(host="127.0.0.1", port=server)
    collection = client.create_collection("documents", embedding_function=function)
    assert collection.configuration_json["hnsw"]["space"] == "cosine"
    collection.add(ids=IDS, documents=TEXTS)
    expected = 1 - base.encode(TEXTS).dense @ base.encode(["hi"], kind="query").dense[0]
    for opened in (
        collection,
        client.get_collection("documents"),
    ):  # the second uses the stored settings
        found = opened.query(query_texts=["hi"], n_results=3)
        by_id = dict(zip(found["ids"][0], found["distances"][0], strict=True))
        assert_close([by_id[i] for i in IDS], expected, 1e-4)
    other = client.get_or_create_collection("documents", embedding_function=BGEEmbeddingFunction(model_name=M3))
    with pytest.raises(WrongModelError):
        other.query(query_texts=["hi"])


async def test_on_a_server_with_the_async_client(server, function):
    client = await chromadb.AsyncHttpClient(host="127.0.0.1", port=server)
    collection = await client.create_collection("async", embedding_function=function)
    await collection.add(ids=IDS, documents=TEXTS)
    assert (await collection.query(query_texts=[TEXTS[0]], n_results=1))["ids"] == [["1"]]
    other = await client.get_collection("async", embedding_function=BGEEmbeddingFunction(model_name=M3))
    with pytest.raises(WrongModelError):
        await other.add(ids=["4"], documents=["hi"])


def test_many_threads_on_a_server(server, function):
    from concurrent.futures import ThreadPoolExecutor

    client = chromadb.HttpClient(host="127.0.0.1", port=server)
    collection = client.create_collection("threads", embedding_function=function)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda i: collection.add(ids=[str(i)], documents=[f"document {i}"]), range(64)))
        found = list(threads.map(lambda i: collection.query(query_texts=[f"document {i}"], n_results=1), range(64)))
    assert collection.count() == 64
    assert all(len(answer["ids"][0]) == 1 for answer in found)
