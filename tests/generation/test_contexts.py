"""Documents that are read once: many questions, saved and loaded, refused by other models."""

import threading

import pytest
from generation_models import words

from bge_integrations.errors import (
    ContextFileError,
    InvalidInputError,
    NotSupportedError,
    StorageError,
    WrongModelError,
)
from bge_integrations.generation import load_generator


def whole_prompt(document, question, system=None):
    content = f"{document}\n\n{question}"
    return [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": content}]


@pytest.mark.parametrize("system", [None, "w100 w101"])
def test_questions_about_a_context_are_answered_as_in_one_prompt(generator, system):
    document = words(100)
    context = generator.read(document, system=system)
    for question in ("w5 w6", "w7", "w5 w6"):
        expected = generator.generate(whole_prompt(document, question, system), max_new_tokens=8)
        assert generator.generate(question, context=context, max_new_tokens=8) == expected


def test_a_conversation_about_a_context(generator):
    turns = [
        {"role": "user", "content": "w5"},
        {"role": "assistant", "content": "w6"},
        {"role": "user", "content": "w7"},
    ]
    context = generator.read(words(70))
    first = {"role": "user", "content": f"{words(70)}\n\nw5"}
    expected = generator.generate([first, *turns[1:]], max_new_tokens=8)
    assert generator.generate(turns, context=context, max_new_tokens=8) == expected
    for messages in ([{"role": "system", "content": "w1"}, *turns], turns[1:]):
        with pytest.raises(InvalidInputError):
            generator.generate(messages, context=context)


def test_a_raw_context(generator):
    context = generator.read(words(50), raw=True)
    expected = generator.generate(words(50) + " w1 w2", raw=True, max_new_tokens=6)
    assert generator.generate("w1 w2", context=context, max_new_tokens=6) == expected
    with pytest.raises(InvalidInputError):
        generator.generate([{"role": "user", "content": "w1"}], context=context)


def test_a_saved_context_answers_the_same(generator, tmp_path):
    context = generator.read(words(90), system="w9")
    file = context.save(tmp_path / "new" / "folder")
    assert [path.name for path in file.parent.iterdir()] == ["context.safetensors"]
    expected = generator.generate("w5", context=context, max_new_tokens=8)
    for path in (file, file.parent, str(file)):
        loaded = generator.load_context(path)
        assert (loaded.tokens, loaded.system, loaded.bytes) == (context.tokens, "w9", context.bytes)
        assert generator.generate("w5", context=loaded, max_new_tokens=8) == expected
    generator.read(words(20)).save(file)
    assert generator.load_context(file).tokens < context.tokens


def test_a_condensed_context_is_small(beacon, plain):
    document = words(480)
    assert beacon.read(document).bytes < 0.3 * 2 * 3 * 2 * 8 * 4 * 482  # keys and values, layers, heads, size, bytes


def test_threads_share_a_context(beacon):
    context = beacon.read(words(100))
    expected = [beacon.generate(f"w{i}", context=context, max_new_tokens=5) for i in range(5)]
    found = [None] * 5

    def ask(i):
        found[i] = beacon.generate(f"w{i}", context=context, max_new_tokens=5)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_another_model_refuses_a_context(plain, beacon, plain_folder, tmp_path):
    file = beacon.read(words(50)).save(tmp_path)
    with pytest.raises(WrongModelError):
        plain.load_context(file)
    with pytest.raises(WrongModelError):
        plain.generate("w1", context=beacon.read(words(50)))
    with load_generator(plain_folder, rope_theta=5e5) as other, pytest.raises(WrongModelError):
        other.generate("w1", context=plain.read(words(50)))


def test_another_ratio_goes_on_where_one_has_stopped(beacon, beacon_folder, tmp_path):
    context = beacon.read(words(64))
    file = context.save(tmp_path)
    with load_generator(beacon_folder, beacon_ratio=8) as other:
        assert other.generate("w1", context=other.load_context(file), max_new_tokens=3).new_tokens == 3


def test_damaged_files_are_refused(beacon, tmp_path):
    with pytest.raises(ContextFileError):
        beacon.load_context(tmp_path / "missing")
    file = beacon.read(words(50)).save(tmp_path)
    whole = file.read_bytes()
    for damaged in (b"", b"text", whole[:100], whole[:-50], whole.replace(b'\\"state\\"', b'\\"stare\\"')):
        file.write_bytes(damaged)
        with pytest.raises(ContextFileError):
            beacon.load_context(file)
    file.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(ContextFileError):
        beacon.load_context(file)


def test_weights_are_not_a_context(beacon, beacon_folder):
    with pytest.raises(ContextFileError):
        beacon.load_context(beacon_folder / "model.safetensors")


def test_a_context_that_cannot_be_written_leaves_the_old_one(beacon, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError):
        beacon.read(words(20)).save(tmp_path / "file")
    (tmp_path / "full.safetensors").mkdir()
    with pytest.raises(StorageError):
        beacon.read(words(20)).save(tmp_path / "full.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full.safetensors"]


@pytest.mark.parametrize("document", ["", "  ", None, ["w1"], "\ud800"])
def test_bad_documents_are_refused(generator, document):
    with pytest.raises(InvalidInputError):
        generator.read(document)


def test_a_template_that_changes_messages_takes_no_context(plain_folder, tmp_path):
    import shutil

    from generation_models import save_tokenizer

    shutil.copytree(plain_folder, tmp_path / "own")
    save_tokenizer(tmp_path / "own", "<s> {{ messages[-1]['content'] | upper }}")
    with load_generator(tmp_path / "own") as generator, pytest.raises(NotSupportedError):
        generator.read("w1")
