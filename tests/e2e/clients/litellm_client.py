"""What frameworks_test.py runs in a virtual environment: LiteLLM's SDK against the daemon at argv[1], model argv[2]. argv[3]: as
for openai_tools_client.py. Prints "all good" at the end; any surprise is an exception."""

import os
import json
import sys

import litellm

PATIENCE_SECONDS = float(os.environ.get("KVASIR_PATIENCE_SECONDS", 180))

URL, MODEL = sys.argv[1:3]
GIVEN = json.loads(sys.argv[3])
MESSAGES = [{"role": "user", "content": "How is the weather in Oslo?"}]
litellm.num_retries = 0
litellm.telemetry = False


def check(provider):
    common = dict(model=f"{provider}/{MODEL}", api_base=URL, api_key="none", temperature=0, timeout=PATIENCE_SECONDS)
    answer = litellm.completion(messages=MESSAGES, tools=GIVEN["tools"], logit_bias=GIVEN["answer"], max_tokens=8,
                                extra_body={"min_tokens": 1}, **common).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content == "Well.", answer
    assert json.loads(answer.message.tool_calls[0].function.arguments) == {"city": "Oslo"}, answer
    assert answer.message.reasoning_content == "Ask.", answer
    whole = litellm.completion(messages=MESSAGES, max_tokens=12, **common)
    chunks = list(litellm.completion(messages=MESSAGES, max_tokens=12, stream=True,
                                     stream_options={"include_usage": True}, **common))
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert built.choices[0].message.content == whole.choices[0].message.content, built
    assert built.usage.completion_tokens == whole.usage.completion_tokens == 12, built
    try:
        litellm.completion(messages=MESSAGES, **{**common, "temperature": -1})
        raise AssertionError("a temperature of -1 was taken")
    except litellm.BadRequestError as error:
        assert "temperature" in str(error), error


check("openai")
check("hosted_vllm")
text = litellm.text_completion(model=f"text-completion-openai/{MODEL}", api_base=URL, api_key="none", temperature=0,
                               prompt="Once upon a time", max_tokens=8)
assert text.choices[0].text, text
response = litellm.responses(model=f"openai/{MODEL}", api_base=URL, api_key="none", input="Oslo?", max_output_tokens=8)
assert response.usage.output_tokens > 0, response
print("all good")
