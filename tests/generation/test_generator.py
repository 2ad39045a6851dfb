"""Generators: answers, streams, stop words, sampling, cancelling, chat templates, bad input."""

import asyncio
import json
import shutil
import threading

import pytest
import torch
from generation_models import SPECIAL, TEMPLATE, save_tokenizer, words
from transformers import AutoModelForCausalLM

from bge_integrations.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ClosedError,
    GenerationCancelledError,
    InvalidInputError,
    NonFiniteError,
    NotSupportedError,
    TextTooLongError,
    UnknownModelError,
)
from bge_integrations.generation import load_generator
from bge_integrations.generation.generated_text import GeneratedText
from bge_integrations.generation.sampling import Sampler


def test_a_plain_model_generates_what_transformers_does(plain, plain_folder):
    network = AutoModelForCausalLM.from_pretrained(plain_folder)
    prompt = words(40)
    ids = torch.tensor([plain._prompts.ids_of(prompt, raw=True)])
    whole = network.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0)
    expected = plain._prompts.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
    assert plain.generate(prompt, max_new_tokens=12, raw=True).text == expected


def test_a_long_prompt_is_read_in_steps(plain, monkeypatch):
    expected = plain.generate(words(100), max_new_tokens=8).text
    monkeypatch.setattr("bge_integrations.generation.plain_model._STEP_TOKENS", 7)
    assert plain.generate(words(100), max_new_tokens=8).text == expected


def test_a_stream_yields_the_answer_in_pieces(generator):
    stream = generator.stream(words(50), max_new_tokens=10)
    pieces = list(stream)
    assert len(pieces) > 1
    assert stream.generation == generator.generate(words(50), max_new_tokens=10)
    assert "".join(pieces) == stream.generation.text == str(stream.generation)
    assert stream.generation.new_tokens == 10
    assert stream.generation.finish_reason == "length"


def test_a_chat_template_is_applied_unless_the_text_is_raw(generator):
    as_message = generator.generate([{"role": "user", "content": "w1 w2"}], max_new_tokens=5)
    assert generator.generate("w1 w2", max_new_tokens=5) == as_message
    assert as_message.prompt_tokens == 5  # <s> <user> w1 w2 <assistant>
    raw = generator.generate("w1 w2", max_new_tokens=5, raw=True)
    assert raw.prompt_tokens == 2
    system = [{"role": "system", "content": "w9"}, {"role": "user", "content": "w1 w2"}]
    assert generator.generate(system, max_new_tokens=5).prompt_tokens == 7


def test_a_stop_word_ends_the_answer_and_is_not_part_of_it(generator):
    whole = generator.generate(words(30), max_new_tokens=12).text
    third = whole.split()[2]
    answer = generator.generate(words(30), max_new_tokens=12, stop=["none of these", third])
    assert answer.text == whole[: whole.index(third)]
    assert answer.finish_reason == "stop"
    assert answer.new_tokens < 12
    assert "".join(generator.stream(words(30), max_new_tokens=12, stop=third)) == answer.text


def test_the_end_token_ends_the_answer(plain_folder, tmp_path):
    with load_generator(plain_folder) as generator:
        second = generator.generate(words(30), max_new_tokens=2, raw=True).text.split()[1]
        token = generator._prompts.tokenizer.get_vocab()[second]
    folder = tmp_path / "copy"
    shutil.copytree(plain_folder, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, token]}))
    with load_generator(folder) as generator:
        answer = generator.generate(words(30), max_new_tokens=9, raw=True)
    assert answer.finish_reason == "stop"
    assert answer.new_tokens == 2
    assert second not in answer.text


def test_a_seed_repeats_a_sample(generator):
    def sample(seed, **settings):
        return generator.generate(words(20), max_new_tokens=12, temperature=1.5, seed=seed, **settings).text

    assert sample(3) == sample(3)
    assert len({sample(seed) for seed in range(4)}) > 1
    assert sample(1, top_p=1e-6) == generator.generate(words(20), max_new_tokens=12).text


def test_samples_follow_the_probabilities():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    sampler = Sampler(1.0, 0.9, seed=0)
    counts = torch.bincount(torch.tensor([sampler.choose(logits) for _ in range(2000)]), minlength=4) / 2000
    assert torch.allclose(counts, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=0.04)
    with pytest.raises(NonFiniteError):
        sampler.choose(torch.tensor([0.0, float("nan")]))


class Letters:
    """A tokenizer of bytes, whose characters can need several tokens."""

    def decode(self, ids, **_):
        return bytes(ids).decode("utf-8", "replace")


def test_half_a_character_is_held_back():
    text = GeneratedText(Letters(), [])
    assert [text.add(byte) for byte in "aé竹".encode()] == ["a", "", "é", "", "", "竹"]
    assert text.add("竹".encode()[0]) == ""
    assert text.finish() == "\ufffd"


def test_the_beginning_of_a_stop_word_is_held_back():
    text = GeneratedText(Letters(), ["end", "xyz"])
    shown = [text.add(byte) for byte in b"a eneend"]
    assert "".join(shown) == text.text == "a ene"
    assert text.is_stopped
    other = GeneratedText(Letters(), ["end"])
    assert "".join([other.add(byte) for byte in b"the en"]) == "the "
    assert other.finish() == "en"


def test_an_event_cancels_reading_and_generating(generator):
    cancel = threading.Event()
    stream = generator.stream(words(40), max_new_tokens=50, cancel=cancel)
    next(stream)
    cancel.set()
    with pytest.raises(GenerationCancelledError):
        list(stream)
    assert stream.generation is None
    with pytest.raises(GenerationCancelledError):
        generator.read(words(40), cancel=cancel)
    assert generator.generate("w1", max_new_tokens=2).new_tokens == 2


def test_a_stream_that_is_not_read_to_its_end_blocks_nobody(generator):
    stream = generator.stream(words(40), max_new_tokens=50)
    next(stream)
    assert generator.generate("w1", max_new_tokens=2).new_tokens == 2
    stream.close()
    assert list(stream) == []


async def test_asyncio(generator):
    expected = generator.generate(words(40), max_new_tokens=10)
    answers = await asyncio.gather(*(generator.agenerate(words(40), max_new_tokens=10) for _ in range(3)))
    assert answers == [expected] * 3
    stream = generator.astream(words(40), max_new_tokens=10)
    assert "".join([piece async for piece in stream]) == expected.text
    assert stream.generation == expected
    with pytest.raises(InvalidInputError):
        await generator.agenerate(words(40), temperature=-1)


async def test_cancelling_a_task_ends_the_generation(generator):
    stream = generator.astream(words(40), max_new_tokens=400)
    async for _ in stream:
        break
    await stream.aclose()
    stream._thread.shutdown(wait=True)
    task = asyncio.create_task(generator.agenerate(words(40), max_new_tokens=400))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_threads_get_their_own_answers(generator):
    prompts = [words(20 + 7 * i, first=i) for i in range(6)]
    expected = [generator.generate(prompt, max_new_tokens=6) for prompt in prompts]
    found = [None] * 6

    def answer(i):
        found[i] = generator.generate(prompts[i], max_new_tokens=6)

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_model_without_a_chat_template_continues_texts(generator_folders):
    with load_generator(generator_folders["gpt2"]) as generator:
        assert not generator.has_chat_template
        assert generator.max_length == 128
        assert generator.generate(words(9), max_new_tokens=4).prompt_tokens == 9
        with pytest.raises(InvalidInputError):
            generator.generate([{"role": "user", "content": "w1"}])
        with pytest.raises(InvalidInputError):
            generator.read("w1", system="w2")
        context = generator.read(words(9))
        whole = generator.generate(words(9) + " w3 w4", max_new_tokens=4)
        assert generator.generate("w3 w4", context=context, max_new_tokens=4) == whole


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"prompt": 3}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["w1"]}, "prompt"),
        ({"prompt": [{"role": "tool", "content": "w1"}]}, "prompt"),
        ({"prompt": [{"role": "user", "content": "w1"}], "raw": True}, "raw"),
        ({"prompt": "w1", "max_new_tokens": 0}, "max_new_tokens"),
        ({"prompt": "w1", "temperature": -1}, "temperature"),
        ({"prompt": "w1", "temperature": float("nan")}, "temperature"),
        ({"prompt": "w1", "top_p": 0}, "top_p"),
        ({"prompt": "w1", "top_p": 2}, "top_p"),
        ({"prompt": "w1", "seed": -1}, "seed"),
        ({"prompt": "w1", "stop": ""}, "stop"),
        ({"prompt": "w1", "context": "w2"}, "context"),
        ({"prompt": "", "raw": True}, "prompt"),
    ],
)
def test_bad_arguments_are_named(plain, arguments, argument):
    with pytest.raises(InvalidInputError) as caught:
        plain.generate(**arguments)
    assert caught.value.argument == argument


def test_lone_surrogates_are_refused(plain):
    for prompt in ("\ud800", [{"role": "user", "content": "\ud800"}], [{"role": "user", "content": None}]):
        with pytest.raises(InvalidInputError):
            plain.generate(prompt)


def test_a_text_that_does_not_fit_is_refused_before_it_is_read(plain, beacon):
    with pytest.raises(TextTooLongError):
        plain.generate(words(400), max_new_tokens=200)
    with pytest.raises(TextTooLongError):
        plain.read(words(600))
    assert beacon.max_length == (512 - 32) * 4 + 32
    assert beacon.generate(words(1500), max_new_tokens=3).prompt_tokens == 1503


def test_a_closed_generator_says_so(plain_folder):
    with load_generator(plain_folder) as generator:
        pass
    with pytest.raises(ClosedError):
        generator.generate("w1")
    with pytest.raises(ClosedError):
        generator.read("w1")


def test_special_tokens_are_not_part_of_the_answer(generator):
    text = generator.generate(words(30), max_new_tokens=200, temperature=3.0, seed=0).text
    assert not any(special in text for special in SPECIAL[1:])


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"quantization": "3bit"}, "quantization"),
        ({"beacon_ratio": -1}, "beacon_ratio"),
        ({"beacon_ratio": 4}, "beacon_ratio"),  # not a beacon model
        ({"rope_theta": 0}, "rope_theta"),
        ({"max_length": 0}, "max_length"),
        ({"dtype": "int8"}, "dtype"),
        ({"dtype": "float8"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"device": ["cpu"]}, "device"),
    ],
)
def test_bad_settings_are_named(plain_folder, arguments, argument):
    with pytest.raises(InvalidInputError) as caught:
        load_generator(plain_folder, **arguments)
    assert caught.value.argument == argument


def test_models_that_generate_nothing_are_refused(tmp_path):
    from conftest import BASE, M3

    for folder in (BASE, M3):
        with pytest.raises(NotSupportedError):
            load_generator(folder)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "new", "auto_map": {"AutoConfig": "own.Config"}}))
    save_tokenizer(tmp_path)
    with pytest.raises(NotSupportedError):
        load_generator(tmp_path)
    with pytest.raises(CheckpointNotFoundError):
        load_generator(tmp_path / "missing")
    with pytest.raises(CheckpointNotFoundError):
        load_generator("namespace-Pt/no-such-model", local_files_only=True, cache_folder=str(tmp_path))
    with pytest.raises(UnknownModelError):
        load_generator("no-such-model")


def test_a_folder_without_weights_or_tokenizer_is_refused(plain_folder, tmp_path):
    shutil.copytree(plain_folder, tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        load_generator(tmp_path / "a")
    shutil.copytree(plain_folder, tmp_path / "b")
    (tmp_path / "b" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError):
        load_generator(tmp_path / "b")


def test_a_template_that_refuses_messages_is_an_error(plain_folder, tmp_path):
    folder = tmp_path / "strict"
    shutil.copytree(plain_folder, folder)
    save_tokenizer(folder, TEMPLATE + "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}")
    with load_generator(folder) as generator, pytest.raises(InvalidInputError):
        generator.generate([{"role": "user", "content": "w1"}] * 2)


def test_a_lora_adapter_is_merged_into_its_base_with_its_rope_base(plain_folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "Llama-3-8B-Instruct-80K-QLoRA"
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_pretrained(plain_folder)
    settings = LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)
    adapted = get_peft_model(network, settings)
    adapted.peft_config["default"].base_model_name_or_path = str(plain_folder)
    adapted.save_pretrained(folder)
    with load_generator(folder) as generator, load_generator(folder, rope_theta=1e4) as other:
        network_config = generator._model.network.config
        theta = getattr(network_config, "rope_theta", None) or network_config.rope_parameters["rope_theta"]
        assert theta == 200e6
        assert generator.max_length == 81920
        ids = torch.tensor([other._prompts.ids_of(words(60), raw=True)])
        logits = other._model.read(ids[0].tolist(), other._model.start(60), lambda: None)
        assert torch.allclose(logits, adapted.eval()(ids).logits[0, -1], atol=1e-4)
        context = generator.read(words(60))
        assert context._identity != other._identity


def test_rope_base_is_changed_in_both_layouts(plain_folder, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(plain_folder, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 10000.0, "rope_scaling": None}))
    with load_generator(folder) as old, load_generator(plain_folder) as new:
        assert old.generate(words(30), max_new_tokens=5).text == new.generate(words(30), max_new_tokens=5).text
    with load_generator(folder, rope_theta=5e5) as old, load_generator(plain_folder, rope_theta=5e5) as new:
        assert old.generate(words(90), max_new_tokens=9).text == new.generate(words(90), max_new_tokens=9).text


def test_bits_need_their_package(plain_folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError) as caught:
        load_generator(plain_folder, quantization="4bit")
    assert caught.value.name == "bitsandbytes"


@pytest.mark.parametrize(("quantization", "similarity"), [("8bit", 0.95), ("4bit", 0.5)])
def test_weights_in_few_bits_are_close_to_the_whole_ones(plain_folder, beacon_folder, quantization, similarity):
    pytest.importorskip("bitsandbytes")
    for folder in (plain_folder, beacon_folder):
        with load_generator(folder) as whole, load_generator(folder, quantization=quantization) as small:
            ids = whole._prompts.ids_of(words(70), raw=True)
            first, second = (each._model.read(ids, each._model.start(70), lambda: None) for each in (whole, small))
            assert torch.nn.functional.cosine_similarity(first, second, dim=0) > similarity
            assert not torch.equal(first, second)
            assert small.generate(words(20), max_new_tokens=3).new_tokens == 3
