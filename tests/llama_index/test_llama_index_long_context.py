"""`BGELongContextLLM`: completions and chats, contexts, query engines, pickling, bad input."""

import pickle

import pytest
from llama_index.core import Document, SummaryIndex
from llama_index.core.llms import ChatMessage, ImageBlock, MessageRole
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer

from bge_integrations.errors import InvalidInputError
from bge_integrations.llama_index import BGELongContextLLM

DOCUMENT = " ".join(f"w{i}" for i in range(80))


@pytest.fixture(scope="module")
def llm(beacon_folder):
    return BGELongContextLLM(model=str(beacon_folder), max_new_tokens=8)


async def test_all_calls_give_the_same_answer(llm):
    answer = llm.complete("w1 w2")
    assert answer.additional_kwargs["completion_tokens"] == 8
    assert (await llm.acomplete("w1 w2")).text == answer.text
    messages = [ChatMessage(role="user", content="w1 w2")]
    assert llm.chat(messages).message.content == answer.text
    assert (await llm.achat(messages)).message.content == answer.text
    pieces = list(llm.stream_complete("w1 w2"))
    assert pieces[-1].text == "".join(piece.delta for piece in pieces) == answer.text
    assert list(llm.stream_chat(messages))[-1].message.content == answer.text
    assert [piece async for piece in await llm.astream_complete("w1 w2")][-1].text == answer.text
    assert [piece async for piece in await llm.astream_chat(messages)][-1].message.content == answer.text


def test_a_context_is_read_once(llm, tmp_path):
    context = llm.read(DOCUMENT)
    expected = llm.complete(f"{DOCUMENT}\n\nw5").text
    assert llm.complete("w5", context=context).text == expected
    context.save(tmp_path)
    assert llm.complete("w5", context=llm.load_context(tmp_path)).text == expected


def test_settings_of_a_call_take_precedence(llm):
    assert llm.complete("w1", max_new_tokens=2).additional_kwargs["completion_tokens"] == 2
    word = llm.complete("w1").text.split()[1]
    assert word not in llm.complete("w1", stop=[word]).text
    with pytest.raises(InvalidInputError):
        llm.complete("w1", tools=[])


def test_its_metadata_are_those_of_the_model(llm):
    assert llm.metadata.context_window == (512 - 32) * 4 + 32
    assert llm.metadata.num_output == 8
    assert llm.metadata.is_chat_model
    assert llm.class_name() == llm.to_dict()["class_name"] == "BGELongContextLLM"


def test_a_query_engine_answers_with_it(llm):
    index = SummaryIndex.from_documents([Document(text=DOCUMENT)])
    synthesizer = get_response_synthesizer(llm, response_mode=ResponseMode.COMPACT)
    assert str(index.as_query_engine(llm=llm, response_synthesizer=synthesizer).query("w5"))


def test_messages_that_are_not_text_are_refused(llm):
    picture = ChatMessage(role="user", blocks=[ImageBlock(url="https://example.org/a.png")])
    for message in (picture, ChatMessage(role=MessageRole.TOOL, content="w1")):
        with pytest.raises(InvalidInputError) as caught:
            llm.chat([message])
        assert caught.value.argument == "messages"


def test_pickles_and_dicts_have_settings_and_no_weights(llm):
    stored = pickle.dumps(llm)
    assert len(stored) < 10000
    assert pickle.loads(stored).complete("w1").text == llm.complete("w1").text
    assert BGELongContextLLM.from_dict(llm.to_dict()).complete("w1").text == llm.complete("w1").text
