"""What http_test.py runs in a virtual environment: OpenAI's Python client against the daemon at argv[1], model argv[2].
Prints "all good" at the end; any surprise is an exception."""

import os
import asyncio
import re
import sys

import openai

PATIENCE_SECONDS = float(os.environ.get("KVASIR_PATIENCE_SECONDS", 180))

URL, MODEL = sys.argv[1:]
PROMPT = "Once upon a time"
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=PATIENCE_SECONDS)


def completions():
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    whole = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=16, temperature=0, logprobs=2)
    assert whole.usage.completion_tokens <= 16 and whole.choices[0].text
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.completion_tokens
    assert whole.usage.model_extra["kvasir"]["kv_bytes_peak"] > 0
    text = ""
    usage = None
    for chunk in client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=16, temperature=0, stream=True,
                                           stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        text += chunk.choices[0].text if chunk.choices else ""
    assert text == whole.choices[0].text, (text, whole.choices[0].text)
    assert usage.total_tokens == whole.usage.total_tokens


def errors():
    def refused(error_type, **fields):
        try:
            client.completions.create(**{"model": MODEL, "prompt": "a", **fields})
        except error_type as error:
            return error
        raise AssertionError(f"{fields} was taken")

    assert refused(openai.BadRequestError, temperature=-1).param == "temperature"
    assert refused(openai.NotFoundError, model="none").code == "model_not_found"
    assert refused(openai.BadRequestError, extra_body={"guided_regex": 7}).param == "guided_regex"
    refused(openai.BadRequestError, extra_body={"guided_regex": "("})


def structured_output():
    answer = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=20, seed=1,
                                       extra_body={"guided_regex": "(red|green) [0-9]{2}"})
    assert re.fullmatch("(red|green) [0-9]{2}", answer.choices[0].text), answer.choices[0].text


def cancellation():
    stream = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=1900, stream=True, n=4, seed=1,
                                       extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()


async def together():
    """Many streams at once over one pool of kept connections, twice, so that they are used again."""
    async with openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0, timeout=PATIENCE_SECONDS) as many:
        async def one(seed):
            text = ""
            async for chunk in await many.completions.create(model=MODEL, prompt=PROMPT, max_tokens=12, seed=seed,
                                                             stream=True):
                text += chunk.choices[0].text
            return text

        for _ in range(2):
            first = await asyncio.gather(*(one(seed) for seed in range(16)))
            again = await asyncio.gather(*(one(seed) for seed in range(16)))
            assert first == again


completions()
errors()
structured_output()
cancellation()
asyncio.run(together())
print("all good")
