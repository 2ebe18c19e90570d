"""What tools_test.py runs in a virtual environment: tools by OpenAI's Python client, against the daemon at argv[1], model
argv[2]. argv[3]: a JSON object with tools, the bias that makes the model write reasoning, answer and call, and the marker of
its calls. Prints "all good" at the end; any surprise is an exception."""

import os
import json
import sys

import openai

PATIENCE_SECONDS = float(os.environ.get("KVASIR_PATIENCE_SECONDS", 180))

URL, MODEL = sys.argv[1:3]
GIVEN = json.loads(sys.argv[3])
TOOLS, STRICT_TOOLS = GIVEN["tools"], GIVEN["strict_tools"]
MESSAGES = [{"role": "user", "content": "How is the weather in Oslo?"}]
AS_MEANT = dict(model=MODEL, tools=TOOLS, temperature=0, logit_bias=GIVEN["answer"], max_tokens=8,
                extra_body={"min_tokens": 1})
FREE = dict(model=MODEL, messages=MESSAGES, tools=STRICT_TOOLS, temperature=1, seed=3, max_tokens=200,
            logit_bias={str(GIVEN["marker"]): 100})
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=PATIENCE_SECONDS)


def check_call(name, arguments):
    values = json.loads(arguments)
    if name == "now":
        assert values == {}, values
    else:
        assert name == "weather" and set(values) == {"city", "days"} and values["days"] in range(1, 10), values


def streamed(**fields):
    """(content, calls by index, finish reason): as applications put deltas together."""
    content, calls, reason, first = "", {}, None, True
    for chunk in client.chat.completions.create(stream=True, **fields):
        [choice] = chunk.choices
        if first:
            assert choice.delta.role == "assistant"
            first = False
        content += choice.delta.content or ""
        for delta in choice.delta.tool_calls or []:
            if delta.index not in calls:
                assert delta.id and delta.type == "function" and delta.function.name, delta
                calls[delta.index] = [delta.id, delta.function.name, ""]
            calls[delta.index][2] += delta.function.arguments or ""
        reason = choice.finish_reason or reason
    return content, calls, reason


def results_are_sent_back():
    answer = client.chat.completions.create(messages=MESSAGES, **AS_MEANT)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Well.", choice
    assert answer.usage.completion_tokens_details.reasoning_tokens == 1, answer.usage
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", "weather", {"city": "Oslo"})
    turns = MESSAGES + [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
    again = client.chat.completions.create(messages=turns, **AS_MEANT)
    assert again.choices[0].finish_reason == "tool_calls"
    assert again.usage.prompt_tokens > answer.usage.prompt_tokens
    content, calls, reason = streamed(messages=turns, **AS_MEANT)
    assert (content, reason) == ("Well.", "tool_calls"), (content, reason)
    assert [call[1:] for call in calls.values()] == [["weather", choice.message.tool_calls[0].function.arguments]]


def choices():
    for choice in ("required", {"type": "function", "function": {"name": "now"}}):
        answer = client.chat.completions.create(tool_choice=choice, parallel_tool_calls=False, **FREE).choices[0]
        assert answer.finish_reason == "tool_calls" and len(answer.message.tool_calls) == 1, answer
        check_call(answer.message.tool_calls[0].function.name, answer.message.tool_calls[0].function.arguments)
        if choice != "required":
            assert answer.message.tool_calls[0].function.name == "now"
    allowed = {"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}}
    for seed in range(3, 8):
        answer = client.chat.completions.create(tool_choice=allowed, parallel_tool_calls=False,
                                                **{**FREE, "seed": seed}).choices[0]
        assert [call.function.name for call in answer.message.tool_calls] == ["now"], answer
    # With auto it may say what it likes, but calls of others are left out.
    allowed["allowed_tools"]["mode"] = "auto"
    both = {**AS_MEANT, "tools": TOOLS + STRICT_TOOLS[1:]}
    answer = client.chat.completions.create(messages=MESSAGES, tool_choice=allowed, **both).choices[0]
    assert (answer.finish_reason, answer.message.content, answer.message.tool_calls) == ("stop", "Well.", None), answer
    allowed["allowed_tools"]["tools"] = [{"type": "function", "function": {"name": "weather"}}]
    answer = client.chat.completions.create(messages=MESSAGES, tool_choice=allowed, **both).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.tool_calls[0].function.name == "weather", answer
    flat = [{"type": "function", "strict": True, **tool["function"]} for tool in STRICT_TOOLS]
    answer = client.responses.create(
        model=MODEL, input="Oslo?", tools=flat, temperature=1, max_output_tokens=200,
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]},
        extra_body={"logit_bias": {str(GIVEN["marker"]): 100}, "seed": 3}, parallel_tool_calls=False)
    assert [item.name for item in answer.output if item.type == "function_call"] == ["now"], answer
    assert answer.tool_choice.type == "allowed_tools" and answer.tool_choice.mode == "required", answer.tool_choice
    content, calls, reason = streamed(tool_choice="required", parallel_tool_calls=False, **FREE)
    assert (content, sorted(calls), reason) == ("", [0], "tool_calls"), (content, calls, reason)
    check_call(*calls[0][1:])
    for seed in range(3, 12):
        content, calls, reason = streamed(tool_choice="required", **{**FREE, "seed": seed})
        if reason == "tool_calls":
            assert sorted(calls) == list(range(len(calls))) and calls, calls
            for call in calls.values():
                check_call(*call[1:])
    none = client.chat.completions.create(messages=MESSAGES, tool_choice="none", **AS_MEANT).choices[0]
    assert not none.message.tool_calls and "tool_call" in none.message.content
    allowed["allowed_tools"]["tools"] = [{"type": "function", "function": {"name": "nobody"}}]
    for unknown in ({"type": "function", "function": {"name": "nobody"}}, allowed):
        try:
            client.chat.completions.create(tool_choice=unknown, **FREE)
            raise AssertionError("nothing was refused")
        except openai.BadRequestError as error:
            assert "nobody" in str(error) and error.param == "tool_choice", error


results_are_sent_back()
choices()
print("all good")
