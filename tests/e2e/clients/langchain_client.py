"""What frameworks_test.py runs in a virtual environment: LangChain's ChatOpenAI and OpenAI against the daemon at argv[1], model
argv[2]. argv[3]: as for openai_tools_client.py. Prints "all good" at the end; any surprise is an exception."""

import os
import asyncio
import json
import sys

import pydantic
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI

PATIENCE_SECONDS = float(os.environ.get("KVASIR_PATIENCE_SECONDS", 180))

URL, MODEL = sys.argv[1:3]
GIVEN = json.loads(sys.argv[3])
COMMON = dict(model=MODEL, base_url=URL, api_key="none", temperature=0, max_retries=0, timeout=PATIENCE_SECONDS)
ANSWERS = dict(logit_bias=GIVEN["answer"], extra_body={"min_tokens": 1}, max_tokens=8)
MESSAGES = [SystemMessage("Be brief."), HumanMessage("How is the weather in Oslo?")]


class Weather(pydantic.BaseModel, extra="forbid"):
    """How the weather is."""
    warm: bool


def tools(**more):
    chat = ChatOpenAI(**COMMON, **ANSWERS, **more).bind_tools(GIVEN["tools"])
    answer = chat.invoke(MESSAGES)
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"}), answer
    assert answer.usage_metadata["output_tokens"] > 0, answer
    again = chat.invoke([*MESSAGES, answer, ToolMessage("Rain.", tool_call_id=call["id"])])
    assert again.usage_metadata["input_tokens"] > answer.usage_metadata["input_tokens"], again
    whole = None
    for chunk in chat.stream(MESSAGES, stream_usage=True):
        whole = chunk if whole is None else whole + chunk
    [streamed] = whole.tool_calls
    assert (streamed["name"], streamed["args"]) == ("weather", {"city": "Oslo"}), whole
    assert whole.usage_metadata["output_tokens"] == answer.usage_metadata["output_tokens"], whole


def text():
    llm = OpenAI(model=MODEL, base_url=URL, api_key="none", temperature=0, max_tokens=8, max_retries=0)
    answers = llm.generate(["Once upon a time", "One day"])  # a list of prompts in one request
    assert [bool(found[0].text) for found in answers.generations] == [True, True], answers
    assert "".join(llm.stream("Once upon a time")) == answers.generations[0][0].text
    chat = ChatOpenAI(**COMMON, max_tokens=12, logprobs=True, top_logprobs=2)
    whole = chat.invoke(MESSAGES)
    tokens = whole.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == whole.content, whole
    assert chat.get_num_tokens is not None
    for method in ("json_schema", "function_calling"):
        found = ChatOpenAI(**COMMON, max_tokens=200).with_structured_output(Weather, method=method).invoke(MESSAGES)
        assert isinstance(found, Weather), (method, found)


async def together():
    chat = ChatOpenAI(**COMMON, max_tokens=8)
    answers = await chat.abatch([MESSAGES] * 8)
    assert len({answer.content for answer in answers}) == 1, answers
    streamed = "".join([chunk.content async for chunk in chat.astream(MESSAGES)])
    assert streamed == answers[0].content


def responses():
    chat = ChatOpenAI(**{**COMMON, "max_tokens": 8}, use_responses_api=True)
    answer = chat.invoke(MESSAGES)
    assert answer.text and answer.usage_metadata["output_tokens"] == 8, answer
    whole = None
    for chunk in chat.stream(MESSAGES):
        whole = chunk if whole is None else whole + chunk
    assert whole.text == answer.text, (whole, answer)


tools()
text()
asyncio.run(together())
responses()
print("all good")
