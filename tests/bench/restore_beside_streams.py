"""What streams feel while sessions come back from disk: the gaps between their tokens while 100 sessions take a turn each whose
K/V stand on disk, beside the same turns with K/V in the pool, and beside the same histories sent as fresh prompts, to be
computed. The ratio of the 99th percentiles of disk and pool, over the gaps of all rounds, is what restoring costs others; that
of disk and fresh is what it saves them. Each round takes the three in turns on daemons of one machine, and the gaps of streams
alone beside them say how even the machine is.

Gaps are told apart by what the turns did meanwhile: `prefill`, a turn computed its new tokens in it; `restoring`, none did, but
some turn's K/V were being read; `quiet`, neither.

Sessions go to disk by a drain and a new start before each round, and stay in the pool when they are back; with --spill_again
each goes back to disk after its turn, which costs as well.

  /usr/bin/python3 -B tests/bench/restore_beside_streams.py [--rounds 5] [--sessions 100] [--history 1500] [--streams 4] [--at_once 4] [--spill_again] [--no_fresh]

Quiet machine; KVASIR_BIN names the folder of kvasird. Prints one JSON object.
"""

import argparse
import bisect
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

KINDS = ("quiet", "restoring", "prefill")


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
    """Endless streams; records each gap between tokens, as (begin, end), while it is told to."""

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
                    self.gaps.append((last, now))
                last = now
                if self.stopping:
                    call.cancel()
                    break

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()


class Intervals:
    """Whether something overlaps any of them."""

    def __init__(self, intervals):
        self.merged = []
        for begin, end in sorted(intervals):
            if self.merged and begin <= self.merged[-1][1]:
                self.merged[-1][1] = max(self.merged[-1][1], end)
            else:
                self.merged.append([begin, end])
        self.begins = [begin for begin, _ in self.merged]

    def meet(self, begin, end):
        before = bisect.bisect_right(self.begins, end) - 1
        return before >= 0 and self.merged[before][1] >= begin


def cpu_seconds(daemon):
    return sample_sum(daemon.metrics(), "process_cpu_seconds_total")


def alone(daemon, arguments):
    streams = Streams(daemon, arguments.streams)
    time.sleep(1)
    streams.recording = True
    time.sleep(2)
    streams.recording = False
    streams.stop()
    return [end - begin for begin, end in streams.gaps]


def turn(daemon, request):
    """When it was sent, scheduled and done; and its cached tokens."""
    sent = scheduled = time.monotonic()
    cached = 0
    for response in daemon.generation.Generate(request):
        event = response.WhichOneof("event")
        if event == "accepted":
            scheduled = time.monotonic()
        elif event == "final":
            cached = response.final.usage.cached_tokens
    return sent, scheduled, time.monotonic(), cached


def phase(daemon, arguments, requests, cached):
    """The gaps of streams while the requests are answered: {kind: seconds}; and how long it took."""
    streams = Streams(daemon, arguments.streams)
    time.sleep(1)
    streams.recording = True
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
        turns = list(pool.map(lambda request: turn(daemon, request), requests))
    took = time.monotonic() - begin
    streams.recording = False
    streams.stop()
    for *_, tokens in turns:
        assert tokens >= cached, "K/V were computed, not found"
    prefill = Intervals([(scheduled, done) for _, scheduled, done, _ in turns])
    restoring = Intervals([(sent, scheduled) for sent, scheduled, _, _ in turns])
    gaps = {kind: [] for kind in KINDS}
    for begin, end in streams.gaps:
        kind = "prefill" if prefill.meet(begin, end) else "restoring" if restoring.meet(begin, end) else "quiet"
        gaps[kind].append(end - begin)
    return gaps, took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--history", type=int, default=1500)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--at_once", type=int, default=4)
    parser.add_argument("--spill_again", action="store_true")
    parser.add_argument("--no_fresh", action="store_true")
    arguments = parser.parse_args()
    places = ["pool", "disk"] + ([] if arguments.no_fresh else ["fresh"])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        def start(name):
            return stack.enter_context(Daemon(config=config(
                f"{folder}/{name}", "1" if name == "disk" and arguments.spill_again else "1Gi")))
        daemons = {"pool": start("pool"), "disk": start("disk")}
        for daemon in daemons.values():
            for number in range(arguments.sessions):
                daemon.generate(greedy(ids(number, arguments.history), max_tokens=2, session_id=f"s{number}"))
        daemons["fresh"] = daemons["pool"]
        p99 = {name: [] for name in places}
        took = {name: [] for name in places}
        gaps = {name: {kind: [] for kind in KINDS} for name in places}
        quiet_machine = []
        cpu = dict.fromkeys(places, 0)
        for round_number in range(1, arguments.rounds + 1):
            assert daemons["disk"].stop() == 0
            daemons["disk"] = start("disk")
            daemons["disk"].generate(greedy(ids(0, 60), max_tokens=50))  # warm
            turned = round_number % len(places)
            for name in places[turned:] + places[:turned]:
                daemon = daemons[name]
                before = cpu_seconds(daemon)
                if name == "fresh":
                    requests = [greedy(ids(number, arguments.history + 8), max_tokens=1)
                                for number in range(arguments.sessions)]
                else:
                    requests = [greedy(ids(round_number * 1000 + number, 8), max_tokens=1, session_id=f"s{number}")
                                for number in range(arguments.sessions)]
                found, seconds = phase(daemon, arguments, requests, 0 if name == "fresh" else arguments.history)
                cpu[name] += cpu_seconds(daemon) - before
                took[name].append(seconds)
                p99[name].append(percentile(sum(found.values(), []), 0.99))
                for kind in KINDS:
                    gaps[name][kind] += found[kind]
            quiet_machine += alone(daemons["disk"], arguments)
        assert sample_sum(daemons["disk"].metrics(), "kvasir_spill_damaged_total") == 0, "sessions were lost"

    def ms(values):
        return [round(value * 1e3, 3) for value in values]

    def of(share):
        values = {name: sum(gaps[name].values(), []) for name in places} | {"alone": quiet_machine}
        return {name: round(percentile(some, share) * 1e3, 3) for name, some in values.items()}
    ratios = sorted(disk / pool for disk, pool in zip(p99["disk"], p99["pool"]))
    print(json.dumps({"p99_gap_ms": {name: ms(values) for name, values in p99.items()},
                      "gaps": {name: {kind: len(gaps[name][kind]) for kind in KINDS} for name in places},
                      "p99_ms_by_kind": {name: {kind: round(percentile(gaps[name][kind], 0.99) * 1e3, 3)
                                                for kind in KINDS if gaps[name][kind]} for name in places},
                      "p50_ms": of(0.5), "p90_ms": of(0.9), "p99_ms": of(0.99), "p99.9_ms": of(0.999),
                      "seconds": {name: round(sum(values) / len(values), 2) for name, values in took.items()},
                      "cpu_seconds": {name: round(value, 2) for name, value in cpu.items()},
                      "ratios_of_rounds": [round(ratio, 3) for ratio in ratios],
                      "ratio": round(of(0.99)["disk"] / of(0.99)["pool"], 3),
                      "arguments": vars(arguments)}, indent=1))


if __name__ == "__main__":
    main()
