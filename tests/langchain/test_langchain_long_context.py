"""`BGELongContextChat`: LangChain's own suites, contexts, settings of a call, pickling, bad input."""

import pickle

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from bge_integrations.errors import InvalidInputError
from bge_integrations.langchain import BGELongContextChat


class Suite:
    @pytest.fixture(autouse=True)
    def _model(self, beacon_folder):
        type(self).folder = str(beacon_folder)

    @property
    def chat_model_class(self):
        return BGELongContextChat

    @property
    def chat_model_params(self):
        return {"model": self.folder}

    @property
    def standard_chat_model_params(self):
        return {"temperature": 0, "max_tokens": 8, "stop": []}  # no timeout and no retries: nothing is sent anywhere

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False


class TestUnit(Suite, ChatModelUnitTests):
    """LangChain's unit tests."""

    @pytest.fixture
    def model(self, _model):
        return self.chat_model_class(**{**self.standard_chat_model_params, **self.chat_model_params})


class TestIntegration(Suite, ChatModelIntegrationTests):
    """LangChain's integration tests."""

    @pytest.fixture
    def model(self, _model):
        return self.chat_model_class(**{**self.standard_chat_model_params, **self.chat_model_params})


@pytest.fixture(scope="module")
def chat(beacon_folder):
    return BGELongContextChat(model=str(beacon_folder), max_new_tokens=8)


def test_messages_become_the_chat_template(chat):
    messages = [
        SystemMessage("w1"),
        HumanMessage("w2"),
        AIMessage("w3"),
        HumanMessage([{"type": "text", "text": "w4"}]),
    ]
    answer = chat.invoke(messages)
    roles = ["system", "user", "assistant", "user"]
    given = [{"role": role, "content": f"w{i}"} for i, role in enumerate(roles, start=1)]
    expected = chat._generator.generate(given, max_new_tokens=8)
    assert answer.content == expected.text
    assert answer.usage_metadata["input_tokens"] == expected.prompt_tokens
    assert answer.response_metadata["finish_reason"] == "length"


async def test_all_calls_give_the_same_answer(chat):
    expected = chat.invoke("w1 w2").content
    assert (await chat.ainvoke("w1 w2")).content == expected
    chunks = list(chat.stream("w1 w2"))
    assert "".join(chunk.content for chunk in chunks) == expected
    assert sum(chunks[1:], chunks[0]).usage_metadata["output_tokens"] == 8
    assert "".join([chunk.content async for chunk in chat.astream("w1 w2")]) == expected
    assert [message.content for message in chat.batch(["w1 w2"] * 2)] == [expected] * 2


def test_settings_of_a_call_take_precedence(chat):
    assert chat.bind(max_tokens=2).invoke("w1").usage_metadata["output_tokens"] == 2
    word = chat.invoke("w1").content.split()[1]
    assert word not in chat.invoke("w1", stop=[word]).content
    samples = {chat.bind(temperature=2.0, seed=seed).invoke("w1").content for seed in range(3)}
    assert len(samples) > 1
    with pytest.raises(InvalidInputError):
        chat.bind(tools=[]).invoke("w1")


def test_a_context_is_bound(chat, tmp_path):
    document = " ".join(f"w{i}" for i in range(80))
    context = chat.read(document)
    expected = chat.invoke(f"{document}\n\nw5").content
    assert chat.bind(context=context).invoke("w5").content == expected
    context.save(tmp_path)
    loaded = chat.load_context(str(tmp_path))
    assert chat.bind(context=loaded).invoke("w5").content == expected


def test_messages_that_are_not_text_are_refused(chat):
    picture = HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])
    for message in (picture, ToolMessage("w1", tool_call_id="1")):
        with pytest.raises(InvalidInputError) as caught:
            chat.invoke([message])
        assert caught.value.argument == "messages"


def test_pickles_have_settings_and_no_weights(chat):
    stored = pickle.dumps(chat)
    assert len(stored) < 5000
    assert pickle.loads(stored).invoke("w1").content == chat.invoke("w1").content
    assert chat.get_num_tokens("w1 w2") == 2
