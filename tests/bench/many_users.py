#!/usr/bin/python3
"""Many users, their memory and their second turns: the tables of docs/performance.md, by one command.

    tests/bench/many_users.py                         # all three parts, some minutes
    tests/bench/many_users.py --only turns --repeats 9

Starts its own daemons (build/release/bin, or KVASIR_BIN) and prints Markdown:

  streams  concurrent streams whose prompts begin with one system prompt, with and without the prefix cache
  memory   sessions created on a daemon for each sharing scheme: the pool's live bytes beside the formula
  turns    time to first token of a session's second turn: computed again, kept in the pool, restored from disk after
           memory pressure, restored after a restart of the daemon

Exit code 1 when a demanded figure is missed: live bytes equal to the formula, a kept session at least 10 times faster
than computing it again, a restored one at least 3 times. Figures of a busy machine are not worth keeping.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import random
import re
import statistics
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, greedy, wait_until

from kvasir.v1 import generation_pb2, session_pb2

# name of the golden model: what the table calls its scheme
SCHEMES = {
    "tale-7m-mha": "MHA",
    "tale-7m-gqa4": "GQA-4",
    "tale-7m-gqa2": "GQA-2",
    "tale-7m-mqa": "MQA",
    "tale-7m-gqa2-cla2": "GQA-2 × CLA-2",
    "tale-7m-mqa-cla2": "MQA × CLA-2",
    "tale-7m-mlkv4": "MLKV-4",
    "tale-7m-mlkv2": "MLKV-2",
    "tale-7m-mlkv1": "MLKV-1",
}

KEPT_AT_LEAST = 10
RESTORED_AT_LEAST = 3


def random_ids(seed, count, vocab_size=4096):
    """Seeded prompt ids without the first few, which are special tokens."""
    generator = random.Random(seed)
    return [generator.randrange(8, vocab_size) for _ in range(count)]


def config(path, name=BUNDLED, capacity_bytes=64 << 20, prefix_cache=True, max_idle_bytes=None, spill_directory=""):
    return json.dumps({
        "models": [{
            "name": name, "path": str(path),
            "kv_cache": {"capacity_bytes": capacity_bytes, "prefix_cache": prefix_cache},
            "sessions": {"max_idle_bytes": max_idle_bytes or capacity_bytes, "spill_directory": str(spill_directory)},
        }],
        "logging": {"level": "warning"},
    })


def table(header, rows):
    """Markdown: the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def spread(values, scale=1.0, digits=1):
    """median (least to most)"""
    low, middle, high = (f"{scale * v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def machine():
    name = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text() or "")
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (f"{name.group(1) if name else platform.machine()}, {cores} cores = compute threads, {memory:.0f} GiB; "
            f"load average at the start {os.getloadavg()[0]:.1f}")


# --- streams ---


def measure_streams(options):
    """Interleaves runs with and without prefix cache, so that a disturbance meets both."""
    shape = ["--requests", 2 * options.streams, "--streams", options.streams, "--prompt_tokens", options.prompt_tokens,
             "--shared_prefix_tokens", options.shared_prefix_tokens, "--max_tokens", options.max_tokens]
    # Room for all streams at full length, so that the pool is not what is measured.
    capacity = options.streams * (options.prompt_tokens + options.max_tokens + 32) * 2048 * 2
    runs = {True: [], False: []}
    with Daemon(config=config(BUNDLED_FOLDER, capacity_bytes=capacity)) as cached, \
            Daemon(config=config(BUNDLED_FOLDER, capacity_bytes=capacity, prefix_cache=False)) as plain:
        for daemon in (cached, plain):  # fills the caches of compiled primitives
            daemon.cli("bench", *shape, "--seed", 1000, "--progress=false")
        for repeat in range(options.repeats):
            for prefix_cache, daemon in ((True, cached), (False, plain)):
                # A new seed: the first request of each run meets a cache that does not know its prompt.
                run = daemon.cli_json("bench", *shape, "--seed", repeat + 1, "--progress=false")
                assert run["succeeded"] == 2 * options.streams, run
                runs[prefix_cache].append(run)
    return runs


def report_streams(runs, options):
    def column(prefix_cache, name, percentile=None):
        values = [run[name] if percentile is None else run[name][percentile] for run in runs[prefix_cache]]
        return spread(values, 1 if percentile is None else 1e3, 0 if percentile is None else 1)

    rows = [["prompt tokens from the cache", *(
        f"{100 * statistics.median(run['cached_ratio'] for run in runs[on]):.1f} %" for on in (True, False))]]
    for name, label in (("time_to_first_token_seconds", "time to first token"),
                        ("inter_token_latency_seconds", "inter-token latency")):
        for percentile in ("p50", "p99"):
            rows.append([f"{label} {percentile}, ms", *(column(on, name, percentile) for on in (True, False))])
    rows.append(["generated tokens/s", *(column(on, "completion_tokens_per_second") for on in (True, False))])
    print(f"{options.streams} concurrent streams, closed loop, {2 * options.streams} requests: prompts of "
          f"{options.prompt_tokens} tokens that begin with the same {options.shared_prefix_tokens}, "
          f"{options.max_tokens} tokens generated each. {BUNDLED}, bf16. Median of {options.repeats} runs "
          "(least to most), each with a system prompt that the cache has not seen.\n")
    print(table(["", "prefix cache", "without"], rows))
    return []


# --- memory ---


def measure_memory(options):
    """{model: (bytes per token, block bytes, block tokens, live bytes)} with every session idle in the pool."""
    result = {}
    for name in SCHEMES:
        try:
            folder = harness.model_folder(name)
        except unittest.SkipTest:
            continue  # which model is missing has been said
        per_token = bytes_per_token(folder)
        blocks = -(-options.session_tokens // 32)
        capacity = (options.sessions * blocks + 256) * 32 * per_token
        with Daemon(config=config(folder, name, capacity, prefix_cache=False)) as daemon:
            model = daemon.generation.GetModel(generation_pb2.GetModelRequest(name=name))
            assert model.kv_bytes_per_token_resident == per_token, (name, model)

            def create(index, daemon=daemon, name=name):
                # The generated token has no K/V yet: the session holds that of the prompt.
                daemon.generate(greedy(random_ids(index, options.session_tokens), max_tokens=1, model=name,
                                       session_id=f"user-{index}"), timeout=600)

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(create, range(options.sessions)))
            # Published after the step whose end the last reader has seen already.
            wait_until(lambda daemon=daemon, name=name: daemon.stats(name).running == 0, "the last turn has ended")
            stats = daemon.stats(name)
            assert stats.sessions == options.sessions and stats.sessions_spilled == 0, stats
            scraped = harness.sample_sum(daemon.metrics(), "kvasir_kv_pool_bytes", model=name, state="live")
            assert scraped == stats.kv_live_bytes, (scraped, stats)
            listed = daemon.sessions.ListSessions(session_pb2.ListSessionsRequest(model=name, limit=1000)).sessions
            assert sum(s.kv_bytes_physical for s in listed) == stats.kv_live_bytes, stats
            result[name] = (per_token, stats.kv_block_bytes, stats.block_tokens, stats.kv_live_bytes)
            print(f"  {name}: {stats.kv_live_bytes} live bytes", file=sys.stderr)
    return result


def bytes_per_token(folder):
    """Of K and V at bf16, from config.json alone: the formula that the daemon is compared with."""
    model = json.loads((folder / "config.json").read_text())
    owners = model.get("num_key_value_layers", model["num_hidden_layers"])
    if model.get("use_cla"):
        owners = -(-model["num_hidden_layers"] // model["cla_share_factor"])
    return owners * model["num_key_value_heads"] * 2 * model["head_dim"] * 2


def report_memory(measured, options):
    print(f"KV cache of {options.sessions} sessions of {options.session_tokens} tokens each, bf16: live bytes of the "
          "pool (`GetStats`, equal to `/metrics` and to the sum over the sessions) beside the formula sessions × "
          "⌈tokens / block⌉ × block × bytes per token. Waste is what blocks hold beyond the tokens.\n")
    missed = []
    rows = []
    reference = max(live for _, _, _, live in measured.values())
    for name, (per_token, block_bytes, block_tokens, live) in measured.items():
        formula = options.sessions * -(-options.session_tokens // block_tokens) * block_tokens * per_token
        if live != formula or block_bytes != block_tokens * per_token:
            missed.append(f"{name}: {live} live bytes, the formula says {formula}")
        waste = live / (options.sessions * options.session_tokens * per_token) - 1
        rows.append([SCHEMES[name], per_token, f"{live:,}", f"{formula:,}", f"{100 * waste:.1f} %",
                     f"1/{reference / live:.4g}", f"{(1 << 30) * options.sessions // live:,}"])
    print(table(["scheme", "bytes per token", "live bytes", "formula", "waste", "of the largest", "sessions in 1 GiB"],
                rows))
    return missed


# --- turns ---


class TurnMeasurement:
    """Second turns of sessions on the bundled model, in a pool that holds one of them and little more."""

    def __init__(self, options, folder):
        self.options = options
        self.folder = pathlib.Path(folder)
        blocks = -(-(options.turn_history_tokens + options.turn_tokens) // 32)
        # Twice a session less a few blocks: one that runs pushes an idle one out.
        self.config = config(BUNDLED_FOLDER, capacity_bytes=(2 * blocks - 4) * 32 * 2048, prefix_cache=False,
                             spill_directory=folder)
        self.seconds = {"recomputed": [], "kept": [], "spilled": [], "restarted": []}

    def history(self, repeat):
        return random_ids(("history", repeat).__repr__(), self.options.turn_history_tokens)

    def turn(self, repeat):
        return random_ids(("turn", repeat).__repr__(), self.options.turn_tokens)

    def first_turn(self, daemon, repeat, name):
        daemon.generate(greedy(self.history(repeat), max_tokens=1, session_id=name))

    def second_turn(self, daemon, repeat, name, variant):
        usage = daemon.generate(greedy(self.turn(repeat), max_tokens=4, session_id=name)).usage
        # The count proves where the history came from.
        assert usage.cached_tokens == self.options.turn_history_tokens, usage
        self.seconds[variant].append(usage.time_to_first_token_seconds)
        daemon.sessions.DeleteSession(session_pb2.DeleteSessionRequest(session_id=name))

    def recompute(self, daemon, repeat, name):
        usage = daemon.generate(greedy(self.history(repeat) + self.turn(repeat), max_tokens=4, session_id=name)).usage
        assert usage.cached_tokens == 0, usage
        self.seconds["recomputed"].append(usage.time_to_first_token_seconds)
        daemon.sessions.DeleteSession(session_pb2.DeleteSessionRequest(session_id=name))

    def push_out(self, daemon, name):
        """Another request's blocks push the idle session out; returns when its file is on the disk."""
        daemon.generate(greedy(random_ids("pressure", self.options.turn_history_tokens + self.options.turn_tokens),
                               max_tokens=1))
        session = daemon.sessions.GetSession(session_pb2.GetSessionRequest(session_id=name))
        assert session.state == session_pb2.SESSION_STATE_SPILLED, session
        wait_until(self.files, "the session's file is written")

    def files(self):
        """Complete spill files: one that is being written has another name."""
        return list(self.folder.rglob("*.kvs"))

    def forget_page_cache(self):
        """So that a restore reads the disk, not the kernel's memory."""
        for file in self.files():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def warm_up(self, daemon):
        """Compiles the primitives of all shapes to come, which no measured turn should pay."""
        self.first_turn(daemon, "warm", "warm")
        daemon.generate(greedy(self.turn("warm"), max_tokens=4, session_id="warm"))
        daemon.sessions.DeleteSession(session_pb2.DeleteSessionRequest(session_id="warm"))

    def run(self):
        repeats = range(self.options.repeats)
        with Daemon(config=self.config) as daemon:
            self.warm_up(daemon)
            for repeat in repeats:
                self.recompute(daemon, repeat, "again")
                self.first_turn(daemon, repeat, "kept")
                self.second_turn(daemon, repeat, "kept", "kept")
                self.first_turn(daemon, repeat, "spilled")
                self.push_out(daemon, "spilled")
                self.forget_page_cache()
                self.second_turn(daemon, repeat, "spilled", "spilled")
            for repeat in repeats:
                self.first_turn(daemon, repeat, f"restarted-{repeat}")
            assert daemon.stop() == 0
        self.forget_page_cache()
        with Daemon(config=self.config) as daemon:
            self.warm_up(daemon)
            for repeat in repeats:
                self.second_turn(daemon, repeat, f"restarted-{repeat}", "restarted")
        return self.seconds


def measure_turns(options):
    with tempfile.TemporaryDirectory(prefix="kvasir-turns-") as folder:
        return TurnMeasurement(options, folder).run()


def report_turns(seconds, options):
    print(f"Time to first token of a session's second turn: {options.turn_tokens} new tokens after "
          f"{options.turn_history_tokens}. {BUNDLED}, bf16, no prefix cache, files read from the disk (page cache "
          f"dropped). Median of {options.repeats} (least to most).\n")
    missed = []
    rows = []
    slow = statistics.median(seconds["recomputed"])
    for variant, label, demanded in (("recomputed", "computed again (no session)", 1),
                                     ("kept", "kept in the pool", KEPT_AT_LEAST),
                                     ("spilled", "spilled under pressure, restored", RESTORED_AT_LEAST),
                                     ("restarted", "restored after a restart", RESTORED_AT_LEAST)):
        ratio = slow / statistics.median(seconds[variant])
        if ratio < demanded:
            missed.append(f"second turn, {label}: {ratio:.1f} times faster, demanded are {demanded}")
        rows.append([label, spread(seconds[variant], 1e3, 2), f"{ratio:.1f} ×"])
    print(table(["the session's KV", "time to first token, ms", "faster"], rows))
    return missed


PARTS = {"streams": (measure_streams, report_streams), "memory": (measure_memory, report_memory),
         "turns": (measure_turns, report_turns)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--repeats", type=int, default=5, help="runs per figure (default 5)")
    parser.add_argument("--streams", type=int, default=64, help="concurrent streams (default 64)")
    parser.add_argument("--prompt_tokens", type=int, default=544)
    parser.add_argument("--shared_prefix_tokens", type=int, default=512)
    parser.add_argument("--max_tokens", type=int, default=64)
    parser.add_argument("--sessions", type=int, default=64, help="sessions of the memory table (default 64)")
    parser.add_argument("--session_tokens", type=int, default=2000)
    parser.add_argument("--turn_history_tokens", type=int, default=1500)
    parser.add_argument("--turn_tokens", type=int, default=32)
    parser.add_argument("--json", type=pathlib.Path, help="also write every sample to this file")
    options = parser.parse_args()

    command = " ".join(["tests/bench/many_users.py", *sys.argv[1:]])
    print(f"`{command}` on {machine()}.\n")
    missed = []
    samples = {}
    for part in options.only or PARTS:
        measure, report = PARTS[part]
        samples[part] = measure(options)
        missed += report(samples[part], options)
        sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(samples, indent=1))
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
