"""What python_package_test.py runs: every call of kvasir_client against the daemon of $KVASIR_SERVER, model argv[1]. Prints
"all good" at the end; any surprise is an exception."""

import asyncio
import os
import sys

import grpc
from kvasir_client import AsyncClient, Client, KvasirError
from kvasir_client.v1 import generation_pb2

MODEL = sys.argv[1]
PROMPT = "Once upon a time"


def refused(call):
    try:
        call()
    except KvasirError as error:
        return error
    raise AssertionError("nothing was refused")


def blocking():
    with Client() as client:
        assert client.server == os.environ["KVASIR_SERVER"]
        assert client.is_serving() and client.is_serving("")
        assert [model.name for model in client.models()] == [MODEL]
        whole = client.generate(PROMPT, max_tokens=12, temperature=0, logprobs=1, ignore_eos=True)
        assert whole.finish_reason == "length" and len(whole.token_ids) == 12, whole
        assert b"".join(each.text for each in whole.completions[0].logprobs).decode() == whole.text
        assert whole.usage.completion_tokens == 12 and whole.usage.kv_bytes_peak > 0 and whole.model == MODEL
        stream = client.stream(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
        pieces = [delta.text for delta in stream]
        assert "".join(pieces) == whole.text == stream.result.text
        with client.stream(PROMPT, max_tokens=1500, temperature=0, ignore_eos=True) as stream:
            assert 0 < len(next(iter(stream)).token_ids) < 1500
        ids = client.tokenize(PROMPT)
        assert client.detokenize(ids, skip_special_tokens=True) == PROMPT
        by_ids = client.generate(ids, max_tokens=12, temperature=0, ignore_eos=True)
        assert by_ids.text == whole.text
        message = generation_pb2.GenerateRequest(text=PROMPT, stopping=generation_pb2.Stopping(max_tokens=3))
        assert client.generate(message).usage.completion_tokens <= 3

        client.generate(PROMPT, max_tokens=2, session_id="s", model=MODEL)
        assert client.session("s").turns == 1 and client.fork_session("s", "t").session_id == "t"
        assert {each.session_id for each in client.sessions()} == {"s", "t"}
        for name in ("s", "t"):
            client.delete_session(name)

        with client.stream(PROMPT, max_tokens=1900, ignore_eos=True, n=4, seed=1, request_id="long") as running:
            next(running)
            assert client.stats().models[0].running >= 1
            assert [each.request_id for each in client.requests()] == ["long"]
        with client.stream(PROMPT, max_tokens=1900, ignore_eos=True, n=4, request_id="aborted") as running:
            next(running)
            client.abort("aborted")
            assert refused(lambda: list(running)).code == grpc.StatusCode.CANCELLED

        error = refused(lambda: client.generate("x", temperature=-1))
        assert error.code == grpc.StatusCode.INVALID_ARGUMENT, error
        assert [each.field for each in error.violations] == ["sampling.temperature"]
        assert refused(lambda: client.session("none")).code == grpc.StatusCode.NOT_FOUND
        assert refused(lambda: client.generate("x", timeout=1e-4)).code == grpc.StatusCode.DEADLINE_EXCEEDED
        try:
            client.generate("x", temprature=1)
            raise AssertionError("a field that is none was taken")
        except TypeError:
            pass
    with Client("127.0.0.1:1") as nobody:
        assert not nobody.is_serving(timeout=1)


async def together():
    async with AsyncClient() as client:
        assert await client.is_serving()
        results = await asyncio.gather(*(client.generate(PROMPT, max_tokens=8, seed=seed % 4, ignore_eos=True)
                                         for seed in range(16)))
        assert len({result.text for result in results}) <= 4
        stream = client.stream(PROMPT, max_tokens=8, seed=0, ignore_eos=True)
        assert "".join([delta.text async for delta in stream]) == results[0].text == stream.result.text
        assert (await client.detokenize(await client.tokenize("tale"), skip_special_tokens=True)) == "tale"
        async with client.stream(PROMPT, max_tokens=1900, n=4, ignore_eos=True) as running:
            async for _ in running:
                break

        async def read_for_ever():
            async for _ in client.stream(PROMPT, max_tokens=1900, n=8, ignore_eos=True):
                pass

        task = asyncio.create_task(read_for_ever())
        while not await client.requests():
            pass
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        try:
            await client.generate("x", top_p=7)
            raise AssertionError("nothing was refused")
        except KvasirError as error:
            assert error.violations[0].field == "sampling.top_p"


# A proxy that does not exist must not be asked for a daemon on this machine.
os.environ["http_proxy"] = os.environ["grpc_proxy"] = "http://127.0.0.1:1"
blocking()
asyncio.run(together())
print("all good")
