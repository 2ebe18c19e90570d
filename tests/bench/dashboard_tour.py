#!/usr/bin/python3
"""The dashboards' pictures in deploy/grafana/images and a capture of `kvasir top`, from a real run, by one command.

    tests/bench/dashboard_tour.py --minutes 4

Starts a daemon with two models (grouped-query, and cross-layer sharing where KVASIR_MODELS has it) and three tenants,
the real prometheus with the shipped rules, and a load that changes: chats with sessions, a batch tenant with long
outputs and a common system prompt, a tenant whose requests attend with SparQ, clients that cancel, and a burst beyond
the queue; each tenant has a quota of KV bytes. Then deploy/grafana/render_panels.py draws every panel.
"""

import argparse
import hashlib
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BIN, BUNDLED, BUNDLED_FOLDER, ROOT, Daemon, greedy
from prometheus_server import PrometheusServer
from tenant_client import TenantClient

import grpc
from kvasir.v1 import generation_pb2 as pb

SHARED_LAYERS = "tale-7m-gqa2-cla2"
KEYS = {tenant: f"key-of-the-{tenant}-tenant" for tenant in ("chat", "batch", "search", "operator")}
QUOTAS = {"chat": "12MiB", "batch": "10MiB", "search": "16MiB"}
EXPECTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.CANCELLED)
SYSTEM_PROMPT = "You tell old tales. A tale has a king, a forest, three tasks and an end. " * 20
SPARQ = pb.Attention(sparq=pb.SparqAttention(rank=8, top_k=64, local_window=32, min_tokens=0))


def config(models, spill_directory):
    lines = ["models:"]
    for name, folder in models.items():
        lines.append(f"  - {{name: {name}, path: {folder}, kv_cache: {{capacity_bytes: 24MiB, sparq_keys: int8}}, "
                     f"scheduler: {{max_running: 24, max_waiting: 48}}, "
                     f"sessions: {{max_sessions: 300, spill_directory: {spill_directory}/{name}, "
                     f"max_spill_bytes: 160MiB}}}}")
    lines.append("tenants:")
    for tenant, key in KEYS.items():
        limits = f", limits: {{max_kv_bytes: {QUOTAS[tenant]}}}" if tenant in QUOTAS else ""
        lines.append(f"  - {{id: {tenant}, admin: {json.dumps(tenant == 'operator')}, "
                     f"key_sha256: [{hashlib.sha256(key.encode()).hexdigest()}]{limits}}}")
    return "\n".join(lines) + "\n"


class Load:
    """Threads, each one user in a closed loop, until stop()."""

    def __init__(self, daemon, models):
        self.daemon, self.models = daemon, list(models)
        self.over = threading.Event()
        self.threads = []
        self.numbers = itertools.count(1)
        self.clients = {tenant: TenantClient(daemon, key) for tenant, key in KEYS.items()}

    def start(self, users, number, seconds=float("inf")):
        end = time.monotonic() + seconds
        for index in range(number):
            thread = threading.Thread(target=self._repeat, args=(users, random.Random(f"{users.__name__}{index}"), end))
            thread.start()
            self.threads.append(thread)

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _repeat(self, users, dice, end):
        while not self.over.is_set() and time.monotonic() < end:
            try:
                users(self, dice)
            except grpc.RpcError as error:
                if error.code() not in EXPECTED:
                    raise
                self.over.wait(dice.uniform(1, 3))  # a client that was refused waits a little

    def generate(self, tenant, model, **fields):
        request_id = f"{tenant}-{next(self.numbers)}"
        self.clients[tenant].generate(greedy(model=model, request_id=request_id, **fields))

    def chat(self, dice):
        """Some turns of one session, with a pause to read."""
        session, model = f"s{dice.random()}", dice.choice(self.models)
        for _ in range(dice.randrange(2, 6)):
            self.generate("chat", model, text="And then? " * dice.randrange(4, 30), max_tokens=dice.randrange(20, 90),
                          session_id=session)
            if self.over.wait(dice.uniform(0.1, 0.8)):
                return

    def batch(self, dice):
        """A common beginning, then its own text; long outputs."""
        self.generate("batch", dice.choice(self.models), text=f"{SYSTEM_PROMPT} Tale {dice.random()}: ",
                      max_tokens=dice.randrange(150, 400))

    def search(self, dice):
        """Long prompts of its own, attended to with SparQ."""
        ids = [dice.randrange(8, 4096) for _ in range(dice.randrange(900, 1400))]
        self.generate("search", dice.choice(self.models), token_ids=ids, max_tokens=dice.randrange(100, 300),
                      attention=SPARQ)

    def impatient(self, dice):
        """Cancels after a few tokens, or wants eight long completions at once."""
        if dice.random() < 0.3:
            request = greedy(max_tokens=1900, model=self.models[0])
            request.sampling.n = 8
            self.clients["chat"].generate(request)
        call = self.clients["chat"].generation.Generate(greedy(max_tokens=500, model=self.models[0]), timeout=60)
        for _ in range(dice.randrange(2, 30)):
            next(call)
        call.cancel()
        self.over.wait(0.5)

    def burst(self, dice):
        """Many of these at once are more than fit into the queue."""
        self.generate("batch", self.models[0], max_tokens=dice.randrange(40, 80))


def capture_top(daemon):
    """What `kvasir top` shows at its second look, the first that knows rates."""
    with tempfile.NamedTemporaryFile("w", suffix=".key") as key:
        key.write(KEYS["operator"])
        key.flush()
        shown = subprocess.run([str(BIN / "kvasir"), "top", "--frames", "2", "--server", daemon.grpc_address,
                                "--api_key_file", key.name],
                               stdout=subprocess.PIPE, text=True, check=True, timeout=harness.PATIENCE_SECONDS,
                               env={**os.environ, "COLUMNS": "110"})
    frames = shown.stdout.split("\nkvasird ")
    return "\n".join(line.rstrip() for line in f"kvasird {frames[-1]}".strip().splitlines())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "deploy" / "grafana" / "images")
    options = parser.parse_args()

    models = {BUNDLED: BUNDLED_FOLDER}
    try:
        models[SHARED_LAYERS] = harness.model_folder(SHARED_LAYERS)
    except unittest.SkipTest:
        pass
    part = 60 * options.minutes / 6
    with tempfile.TemporaryDirectory() as spill, Daemon(config=config(models, spill)) as daemon, \
            PrometheusServer([daemon.metrics_address], "1s") as prometheus:
        load = Load(daemon, models)
        try:
            for users, number in ((Load.chat, 6), (Load.batch, 8), (Load.search, 5), (Load.impatient, 2)):
                load.start(users, number)
                time.sleep(part)
            load.start(Load.burst, 150, seconds=part)
            time.sleep(part / 2)
            top = capture_top(daemon)
            time.sleep(part * 1.5)
            end = time.time()
        finally:
            load.stop()
        print(top)
        return subprocess.run([sys.executable, str(ROOT / "deploy" / "grafana" / "render_panels.py"), "--prometheus",
                               f"http://{prometheus.address}", "--minutes", str(options.minutes), "--end", str(end),
                               "--rate_interval", "10s", "--output", str(options.output)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
