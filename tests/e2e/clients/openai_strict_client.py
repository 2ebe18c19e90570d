"""What frameworks_test.py runs in a virtual environment: every answer and every event of the daemon at argv[1], model argv[2],
against the types of OpenAI's Python client, which itself takes whatever comes. argv[3]: as for openai_tools_client.py. Prints
"all good" at the end; any surprise is an exception."""

import os
import json
import sys
import urllib.request

import openai
import pydantic
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

PATIENCE_SECONDS = float(os.environ.get("KVASIR_PATIENCE_SECONDS", 180))

URL, MODEL = sys.argv[1:3]
GIVEN = json.loads(sys.argv[3])
TOOLS, ANSWER = GIVEN["tools"], GIVEN["answer"]
FLAT = [{"type": "function", "strict": True, **tool["function"]} for tool in TOOLS]
MESSAGES = [{"role": "user", "content": "How is the weather in Oslo?"}]
AS_MEANT = dict(model=MODEL, temperature=0, logit_bias=ANSWER, min_tokens=1)
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=PATIENCE_SECONDS)


def fetch(path, **body):
    request = urllib.request.Request(URL + path, json.dumps(body).encode() if body else None)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return answer.read().decode()


def events(path, **body):
    for block in fetch(path, stream=True, **body).split("\n\n"):
        data = [line[len("data: "):] for line in block.split("\n") if line.startswith("data: ")]
        if data and data[0] != "[DONE]":
            yield json.loads(data[0])


def each(adapter_of, found):
    adapter = pydantic.TypeAdapter(adapter_of)
    return [adapter.validate_python(json.loads(one) if isinstance(one, str) else one) for one in found]


def choices():
    models = json.loads(fetch("/models"))["data"]
    [model] = each(Model, models)
    assert model.created > 1_700_000_000 and model.owned_by, model
    chat = dict(messages=MESSAGES, tools=TOOLS, max_completion_tokens=8, logprobs=True, top_logprobs=2, n=2, **AS_MEANT)
    [whole] = each(ChatCompletion, [fetch("/chat/completions", **chat)])
    assert [choice.finish_reason for choice in whole.choices] == ["tool_calls"] * 2, whole
    chunks = each(ChatCompletionChunk, events("/chat/completions", stream_options={"include_usage": True}, **chat))
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    # With echo the first token has no log-probability, which is null in OpenAI's answers and not in these types.
    [_] = each(Completion, [fetch("/completions", model=MODEL, prompt=["One", "Two"], logprobs=2, max_tokens=3)])
    plain = dict(model=MODEL, prompt=["One", "Two"], echo=True, n=2, max_tokens=3, seed=4)
    [whole] = each(Completion, [fetch("/completions", **plain)])
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts = {}
    for chunk in each(Completion, ({**event, "choices": [{**choice, "finish_reason": choice["finish_reason"] or "stop"}
                                                         for choice in event["choices"]]}
                                   for event in events("/completions", **plain))):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert [texts[i] for i in range(4)] == [choice.text for choice in whole.choices], texts


def responses():
    asked = dict(input="Oslo?", instructions="Be brief.", tools=FLAT, tool_choice="auto", parallel_tool_calls=False,
                 top_p=0.5, max_output_tokens=8, metadata={"k": "v"}, user="u", reasoning={"effort": "low"},
                 truncation="disabled", include=["message.output_text.logprobs"], top_logprobs=1, **AS_MEANT)
    [whole] = each(Response, [fetch("/responses", **asked)])
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"], whole
    for name in ("instructions", "parallel_tool_calls", "temperature", "top_p", "max_output_tokens", "metadata", "user",
                 "truncation", "tool_choice"):
        assert getattr(whole, name) == asked[name], (name, getattr(whole, name))
    assert whole.tools[0].name == "weather" and whole.tools[0].strict and whole.reasoning.effort == "low"
    assert whole.text.format.type == "text" and whole.status == "completed" and whole.usage.output_tokens_details
    assert whole.created_at <= whole.completed_at
    each(Response, [fetch("/responses", model=MODEL, input="Oslo?", max_output_tokens=1)])

    told = each(ResponseStreamEvent, events("/responses", **asked))
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert (told[0].type, told[1].type, told[-1].type) == ("response.created", "response.in_progress", "response.completed")
    assert told[0].response.instructions == "Be brief." and told[0].response.tools[0].name == "weather"
    assert [item.type for item in told[-1].response.output] == [item.type for item in whole.output]

    free = dict(model=MODEL, input="Once upon a time", max_output_tokens=12, temperature=0, top_logprobs=2)
    [part] = [part for item in Response.model_validate_json(fetch("/responses", **free)).output for part in item.content]
    assert part.logprobs and all(len(token.top_logprobs) == 2 for token in part.logprobs), part
    assert "".join(token.token for token in part.logprobs) == part.text, part
    deltas = [event for event in each(ResponseStreamEvent, events("/responses", **free))
              if event.type == "response.output_text.delta"]
    assert "".join(token.token for event in deltas for token in event.logprobs) == part.text
    with client.responses.stream(model=MODEL, input="Oslo?", tools=FLAT, temperature=0, max_output_tokens=8,
                                 extra_body={"logit_bias": ANSWER, "min_tokens": 1}) as stream:
        assert stream.get_final_response().output_text == "Well."

    class Weather(pydantic.BaseModel):
        warm: bool

    parsed = client.responses.parse(model=MODEL, input="Oslo?", text_format=Weather, temperature=0,
                                    max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Weather) and parsed.text.format.type == "json_schema", parsed


choices()
responses()
print("all good")
