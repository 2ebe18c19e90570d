"""How the workers that run inside an engine's own environment time it: by its steps. Only the standard library.

A worker has add(prompt, max_tokens) and step(), which returns how many tokens each open request has so far, as a list in
the order of adding; requests that ended keep their number."""

import json
import random
import time


def prompt(length, seed, vocabulary):
    generator = random.Random(seed)
    return [generator.randrange(8, vocabulary) for _ in range(length)]


def prefill_rate(engine, length, vocabulary, seed):
    engine.add(prompt(length, seed, vocabulary), 1)
    begin = time.perf_counter()
    while sum(engine.step()) < 1:
        pass
    return length / (time.perf_counter() - begin)


def decode_rate(engine, streams, context, generate, vocabulary):
    """From the step at whose end every stream has a token to the step before the first stream's end."""
    for stream in range(streams):
        engine.add(prompt(context, 1000 * streams + stream, vocabulary), generate + 2)
    times = []
    while True:
        counts = engine.step()
        if len(counts) == streams and min(counts) >= 1:
            times.append((time.perf_counter(), sum(counts)))
        if len(counts) == streams and min(counts) >= generate + 2:
            break
    return rate(times, streams * generate)


def rate(times, tokens):
    """Tokens per second over the first steps that make at least `tokens`; times: (end of a step, tokens so far)."""
    begin, first = times[0]
    for end, count in times:
        if count - first >= tokens:
            return (count - first) / (end - begin)
    end, count = times[-1]
    return (count - first) / (end - begin)


def measure(engine, prefills, streams, context, generate, vocabulary):
    # Once for what is compiled or allocated at the first use.
    prefill_rate(engine, min(prefills), vocabulary, seed=1)
    decode_rate(engine, max(streams), context, 1, vocabulary)
    for length in prefills:
        report(f"prefill {length}", prefill_rate(engine, length, vocabulary, seed=length + 1))
    for count in streams:
        report(f"decode {count}", decode_rate(engine, count, context, generate, vocabulary))


def report(name, tokens_per_second):
    print(json.dumps({"measure": name, "tokens_per_second": tokens_per_second}), flush=True)
