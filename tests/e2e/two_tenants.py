"""Tenants that compete on one daemon: floods of `kvasir bench`, the latency of who is beside one, and served tokens."""

import hashlib
import json
import math
import pathlib
import random
import subprocess
import tempfile
import time

import harness
from harness import BIN, greedy, sample_sum, wait_until
from tenant_client import TenantClient

from kvasir.v1 import admin_pb2

KEYS = {"a": "key-of-tenant-a-0123456789", "b": "key-of-tenant-b-0123456789"}
FAR_MORE_REQUESTS_THAN_ANYBODY_WAITS_FOR = 10_000_000
# Time to first token beside a flood, over that alone on the tenant's share of the machine.
TTFT_AT_MOST = 2
# Of the tokens that two backlogged tenants of one weight get; of what weights 1 and 3 get over 3.
JAIN_AT_LEAST = 0.98
WEIGHTS_WITHIN = 0.05


def config(folder, weights=None, capacity="256MiB", model="model", **scheduler):
    """Tenants a and b on one model. No prefix cache: every prompt is computed. weights: {tenant: weight}."""
    return json.dumps({
        "models": [{"name": model, "path": str(folder), "scheduler": scheduler,
                    "kv_cache": {"capacity_bytes": capacity, "prefix_cache": False}}],
        "tenants": [{"id": name, "key_sha256": [hashlib.sha256(key.encode()).hexdigest()],
                     "weight": (weights or {}).get(name, 1)} for name, key in KEYS.items()],
        "logging": {"level": "warning"},
    })


def percentile(values, percent):
    """The smallest value that at least `percent` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def jain(values):
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    values = list(values)
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


class Flood:
    """A tenant's closed loop of `streams` streams, from __enter__, which waits until they are all there, to __exit__."""

    def __init__(self, daemon, tenant, streams, prompt_tokens, max_tokens, seed=1):
        self._daemon, self._streams = daemon, streams
        self._client = TenantClient(daemon, KEYS[tenant])
        self._key_file = tempfile.NamedTemporaryFile("w", suffix=".key")
        self._key_file.write(KEYS[tenant] + "\n")
        self._key_file.flush()
        self._command = [str(BIN / "kvasir"), "bench", "--server", daemon.grpc_address, "--api_key_file",
                         self._key_file.name, "--streams", str(streams), "--prompt_tokens", str(prompt_tokens),
                         "--max_tokens", str(max_tokens), "--seed", str(seed), "--progress=false",
                         "--requests", str(FAR_MORE_REQUESTS_THAN_ANYBODY_WAITS_FOR)]

    def _under_way(self):
        return sum(model.running + model.waiting for model in self._client.stats().models)

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        # A stream that just ended leaves a gap until its reader sends the next request.
        wait_until(lambda: self._under_way() >= 0.9 * self._streams or self._process.poll() is not None,
                   f"{self._streams} streams are under way")
        if self._process.poll() is not None:
            raise AssertionError(f"{' '.join(self._command)}\nended with {self._process.returncode}: "
                                 f"{self._process.stderr.read()}")
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()
        wait_until(lambda: self._under_way() == 0, "the flood's streams are gone")
        self._client.channel.close()
        self._key_file.close()


class OneAtATime:
    """A tenant that sends its next request when the one before has ended."""

    def __init__(self, daemon, tenant, prompt_tokens, max_tokens, vocab_size=4096):
        self._client = TenantClient(daemon, KEYS[tenant])
        self._random = random.Random(7)
        self._prompt_tokens, self._max_tokens, self._vocab_size = prompt_tokens, max_tokens, vocab_size

    def times_to_first_token(self, requests):
        """Seconds from arrival to first token, as the daemon's Usage says: readers of a flood that take the cores of
        the daemon are no matter of its fairness."""
        result = []
        for _ in range(requests):
            prompt = [self._random.randrange(8, self._vocab_size) for _ in range(self._prompt_tokens)]
            result.append(self._client.generate(greedy(prompt, self._max_tokens)).usage.time_to_first_token_seconds)
        return result

    def close(self):
        self._client.channel.close()


def generated_tokens(daemon):
    """{tenant: tokens generated so far}"""
    samples = daemon.metrics()
    return {name: sample_sum(samples, "kvasir_generation_tokens_total", tenant=name) for name in KEYS}


def neighbour_round(daemon, requests, prompt_tokens, streams, flood_prompt_tokens, flood_max_tokens):
    """p95 of b's time to first token in seconds: (alone, beside the flood of a)."""
    b = OneAtATime(daemon, "b", prompt_tokens, max_tokens=4)
    b.times_to_first_token(2)  # compiles the shapes' primitives
    alone = b.times_to_first_token(requests)
    with Flood(daemon, "a", streams, flood_prompt_tokens, flood_max_tokens):
        b.times_to_first_token(2)
        beside = b.times_to_first_token(requests)
    b.close()
    return percentile(alone, 95), percentile(beside, 95)


def backlogged(daemon, streams, seconds, prompt_tokens, max_tokens):
    """{tenant: tokens generated} in a window of that many seconds while both flood."""
    with Flood(daemon, "a", streams, prompt_tokens, max_tokens, seed=1), \
            Flood(daemon, "b", streams, prompt_tokens, max_tokens, seed=2):
        begun = generated_tokens(daemon)

        def has_settled():  # who came first has had its lead
            return all(now - begun[name] >= streams * max_tokens / 2 for name, now in generated_tokens(daemon).items())

        wait_until(has_settled, "both tenants are served")
        before = generated_tokens(daemon)
        time.sleep(seconds)  # the length of the window, not a wait for anything
        return {name: now - before[name] for name, now in generated_tokens(daemon).items()}
