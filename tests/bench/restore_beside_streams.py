"""What streams feel while sessions come back from disk: the gaps between their tokens while 100 sessions take a turn each
whose K/V stand on disk, beside the same turns with K/V in the pool, in turns on two daemons of one machine. The ratio of the
99th percentiles, over the gaps of all rounds, is what restoring costs others. Beside it the gaps of streams alone, which say
how even the machine is, and the CPU time that both daemons took for their rounds. Sessions go to disk by a drain and a new
start before each round, and stay in the pool when they are back; with --spill_again each goes back to disk after its turn, which
costs as well.

  /usr/bin/python3 -B tests/bench/restore_beside_streams.py [--rounds 5] [--sessions 100] [--history 1500] [--streams 4] [--at_once 4] [--spill_again]

Quiet machine; KVASIR_BIN names the folder of kvasird. Prints one JSON object.
"""

import argparse
import concurrent.futures
import contextlib
import json
import pathlib
import random
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, greedy, sample_sum


def config(folder, idle):
    return f"""
models:
  - name: {BUNDLED}
    path: {BUNDLED_FOLDER}
    kv_cache: {{capacity_bytes: 1Gi, prefix_cache: false}}
    sessions: {{spill_directory: {folder}, max_idle_bytes: {idle}}}
"""


def ids(seed, count):
    source = random.Random(seed)
    return [source.randrange(10, 2000) for _ in range(count)]


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Streams:
    """Endless streams; records each gap between tokens while it is told to."""

    def __init__(self, daemon, count):
        self.daemon, self.recording, self.stopping, self.gaps = daemon, False, False, []
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        while not self.stopping:
            last = None
            call = self.daemon.generation.Generate(greedy(ids(1000 + number, 60), max_tokens=400))
            for response in call:
                if response.WhichOneof("event") != "delta":
                    continue
                now = time.monotonic()
                if last is not None and self.recording:
                    self.gaps.append(now - last)
                last = now
                if self.stopping:
                    call.cancel()
                    break

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()


def cpu_seconds(daemon):
    return sample_sum(daemon.metrics(), "process_cpu_seconds_total")


def alone(daemon, arguments):
    streams = Streams(daemon, arguments.streams)
    time.sleep(1)
    streams.recording = True
    time.sleep(2)
    streams.recording = False
    streams.stop()
    return streams.gaps


def phase(daemon, arguments, round_number):
    """The gaps of streams while every session takes one turn."""
    streams = Streams(daemon, arguments.streams)
    time.sleep(1)
    streams.recording = True
    with concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
        replies = list(pool.map(lambda number: daemon.generate(
            greedy(ids(round_number * 1000 + number, 8), max_tokens=1, session_id=f"s{number}")),
            range(arguments.sessions)))
    streams.recording = False
    streams.stop()
    for reply in replies:
        assert reply.usage.cached_tokens >= arguments.history, "K/V were computed, not found"
    return streams.gaps


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--history", type=int, default=1500)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--at_once", type=int, default=4)
    parser.add_argument("--spill_again", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        def start(name):
            return stack.enter_context(Daemon(config=config(
                f"{folder}/{name}", "1" if name == "disk" and arguments.spill_again else "1Gi")))
        daemons = {"pool": start("pool"), "disk": start("disk")}
        for daemon in daemons.values():
            for number in range(arguments.sessions):
                daemon.generate(greedy(ids(number, arguments.history), max_tokens=2, session_id=f"s{number}"))
        result = {"pool": [], "disk": []}
        gaps = {"pool": [], "disk": [], "alone": []}
        cpu = {"pool": 0, "disk": 0}
        for round_number in range(1, arguments.rounds + 1):
            assert daemons["disk"].stop() == 0
            daemons["disk"] = start("disk")
            daemons["disk"].generate(greedy(ids(0, 60), max_tokens=50))  # warm
            order = ["pool", "disk"]
            for name in order if round_number % 2 else reversed(order):
                daemon = daemons[name]
                before = cpu_seconds(daemon)
                found = phase(daemon, arguments, round_number)
                cpu[name] += cpu_seconds(daemon) - before
                gaps[name] += found
                result[name].append(percentile(found, 0.99) * 1e3)
            gaps["alone"] += alone(daemons["disk"], arguments)
        spilled = sample_sum(daemons["disk"].metrics(), "kvasir_spill_damaged_total")
        assert spilled == 0, "sessions were lost"
    def of(share):
        return {name: round(percentile(values, share) * 1e3, 3) for name, values in gaps.items()}
    print(json.dumps({"p99_gap_ms": {name: [round(v, 3) for v in values] for name, values in result.items()},
                      "gaps": {name: len(values) for name, values in gaps.items()},
                      "p50_ms": of(0.5), "p90_ms": of(0.9), "p99_ms": of(0.99), "p99.9_ms": of(0.999),
                      "cpu_seconds": {name: round(value, 2) for name, value in cpu.items()},
                      "ratio": round(percentile(gaps["disk"], 0.99) / percentile(gaps["pool"], 0.99), 3),
                      "arguments": vars(arguments)}, indent=1))


if __name__ == "__main__":
    main()
