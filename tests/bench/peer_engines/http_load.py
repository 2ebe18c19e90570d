"""Streams of one server's /v1/completions at once, as each peer has it: prompts of random token ids, ends ignored. Only the
standard library, and one small thread per stream, for the client shares the server's cores."""

import http.client
import json
import statistics
import threading
import time

import random


def _stream(port, body, result):
    begin = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            result["failed"] = f"{response.status} {response.read(300).decode(errors='replace')}"
            return
        usage = None
        for line in response:
            if not line.startswith(b"data:") or line.startswith(b"data: [DONE]"):
                continue
            said = json.loads(line[5:])
            if said.get("choices") and "first" not in result:
                result["first"] = time.perf_counter() - begin
            usage = said.get("usage") or usage
        if usage is None or "first" not in result:
            result["failed"] = "the stream ended without its usage"
            return
        result["tokens"] = usage["completion_tokens"]
        result["end"] = time.perf_counter()
    except (OSError, ValueError, http.client.HTTPException) as error:
        result["failed"] = f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def round_of(port, model, streams, prompt_tokens, max_tokens, vocabulary, seed):
    """(tokens per second, median seconds to the first token) of `streams` requests that begin at once; from then to the
    last one's end."""
    generator = random.Random(seed)
    bodies = [{"model": model, "prompt": [generator.randrange(8, vocabulary) for _ in range(prompt_tokens)],
               "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
               "stream_options": {"include_usage": True}} for _ in range(streams)]
    results = [{} for _ in bodies]
    begin = time.perf_counter()
    threads = [threading.Thread(target=_stream, args=(port, body, result)) for body, result in zip(bodies, results)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [result["failed"] for result in results if "failed" in result]
    if failed:
        raise RuntimeError(f"{len(failed)} of {streams} streams failed: {failed[0]}")
    return (sum(result["tokens"] for result in results) / (max(result["end"] for result in results) - begin),
            statistics.median(result["first"] for result in results))


def wait_ready(port, process, seconds, clock=time.monotonic):
    """Until the server answers GET /v1/models."""
    end = clock() + seconds
    while clock() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/v1/models")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.3)
    raise RuntimeError(f"the server was not ready within {seconds} s")
