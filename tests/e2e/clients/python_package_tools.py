"""What python_package_test.py runs for tools and reasoning: kvasir_client against the daemon of $KVASIR_SERVER, whose model
tools_test.py made. argv[1]: a JSON object with its tools and the biases that make it answer. Prints "all good" at the end."""

import asyncio
import json
import sys

from kvasir_client import AsyncClient, Client, KvasirError

GIVEN = json.loads(sys.argv[1])
TOOLS, ANSWER, MARKED = GIVEN["tools"], {int(k): v for k, v in GIVEN["answer"].items()}, GIVEN["marker"]
MESSAGES = [{"role": "user", "content": "How is the weather in Oslo?"}]
AS_MEANT = dict(tools=TOOLS, temperature=0, logit_bias=ANSWER, min_tokens=1, max_tokens=8)
FREE = dict(tools=TOOLS, temperature=1, seed=3, max_tokens=200, logit_bias={MARKED: 100})


def check(result):
    assert (result.text, result.reasoning, result.finish_reason) == ("Well.", "Ask.", "tool_calls"), result
    [call] = result.tool_calls
    assert call.id.startswith("call_") and (call.name, call.arguments) == ("weather", {"city": "Oslo"}), call
    assert 0 < result.usage.reasoning_tokens <= result.usage.completion_tokens, result.usage
    message = result.message()
    assert message["tool_calls"][0]["function"]["name"] == "weather" and message["reasoning_content"] == "Ask."
    return message, call


def blocking():
    with Client() as client:
        stream = client.stream(MESSAGES, **AS_MEANT)
        deltas = list(stream)
        assert "".join(delta.reasoning for delta in deltas) == "Ask."
        assert [piece.name for delta in deltas for piece in delta.tool_calls] == ["weather"]
        message, call = check(stream.result)
        # The next turn, with the call's result.
        turns = MESSAGES + [message, {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
        assert client.generate(turns, **AS_MEANT).finish_reason == "tool_calls"
        whole = client.generate(MESSAGES, parse_response=False, **AS_MEANT)
        assert "<think>" in whole.text and not whole.tool_calls and whole.usage.reasoning_tokens == 0

        for choice in ("required", TOOLS[0]["function"]["name"]):
            answer = client.generate(MESSAGES, tool_choice=choice, parallel_tool_calls=False, **FREE)
            assert answer.finish_reason == "tool_calls" and len(answer.tool_calls) == 1, answer
            assert isinstance(answer.tool_calls[0].arguments, dict)
        assert not client.generate(MESSAGES, tool_choice="none", **AS_MEANT).tool_calls
        two = {**AS_MEANT, "tools": TOOLS + [{"type": "function", "function": {"name": "moon"}}]}
        assert client.generate(MESSAGES, allowed_tools=["weather"], **two).tool_calls
        assert not client.generate(MESSAGES, allowed_tools=["moon"], **two).tool_calls

        picked = client.generate(MESSAGES, choice=["yes", "no"], temperature=1, seed=1)
        assert picked.text in ("yes", "no") and picked.finish_reason in ("grammar", "eos"), picked
        for fields in ({"tools": TOOLS}, {"tool_choice": "auto"}):
            try:
                client.generate("text", **fields)
                raise AssertionError(f"{fields} went with a text")
            except TypeError:
                pass
        try:
            client.generate(MESSAGES, tools=TOOLS, tool_choice="nobody")
            raise AssertionError("nothing was refused")
        except KvasirError as error:
            assert "nobody" in str(error)


async def together():
    async with AsyncClient() as client:
        stream = client.stream(MESSAGES, **AS_MEANT)
        reasoning = [delta.reasoning async for delta in stream]
        assert "".join(reasoning) == "Ask."
        check(stream.result)
        answer = await client.generate(MESSAGES, tool_choice="required", parallel_tool_calls=False, **FREE)
        assert len(answer.tool_calls) == 1, answer


blocking()
asyncio.run(together())
print("all good")
