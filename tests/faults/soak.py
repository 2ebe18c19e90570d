"""One daemon under load for a while, with mixed faults: clients that cancel, read slowly or set deadlines that pass, over gRPC
and HTTP; sessions and prefix blocks that spill and come back, a disk that is full and free again, reloads of whole and of
half-written files, models that load and unload by calls and by the file, preemption. At the end, with nothing held any more:
memory, descriptors, threads, live blocks and files are back where they were. All the time the greedy text of a probe, of
prompts whose blocks come back from disk, of the models that come and go, and of sessions whose history the client knows, is
that of an undisturbed computation: f32 throughout, so to the token. A kind of these that was never checked is a fault too.

  /usr/bin/python3 -B tests/faults/soak.py --minutes 60

As root it mounts a tmpfs of 64 MiB for the disk; else the disk is a folder and is never full. Prints one JSON object; exit
code 1 when something is left behind. Not part of the suite.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, PATIENCE_SECONDS, Daemon, greedy, sample_sum, wait_until

import grpc
from kvasir.v1 import admin_pb2, generation_pb2, session_pb2

EXPECTED_REFUSALS = (grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED,
                     grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND)
SESSIONS = 24
CHECKED = 4  # sessions whose history the client knows


def config(folder, more=""):
    return f"""
models:
  - name: {BUNDLED}
    path: {BUNDLED_FOLDER}
    compute_type: f32
    kv_cache: {{capacity_bytes: 7Mi, element_type: f32}}
    scheduler: {{stall_limit_seconds: 2}}
    sessions: {{spill_directory: {folder}/spill, max_idle_bytes: 2Mi, max_prefix_spill_bytes: 24Mi, max_spill_bytes: 24Mi}}
{more}"""


GUEST = "compute_type: f32, kv_cache: {capacity_bytes: 5Mi, element_type: f32}"


def guest(name):
    return f"  - {{name: {name}, path: {BUNDLED_FOLDER}, {GUEST}}}\n"


def ask(ids, model=BUNDLED, **fields):
    return greedy(ids, model=model, **fields)


class Soak:
    def __init__(self, daemon, disk, can_fill, seed):
        self.daemon, self.disk, self.can_fill = daemon, disk, can_fill
        self.ending = threading.Event()
        self.counts, self.wrong = {}, []
        self.lock = threading.Lock()
        self.seed = seed
        self.histories = {}
        self.config_file = pathlib.Path(daemon.command[daemon.command.index("--config") + 1])
        self.file_lock = threading.Lock()
        self.probe_ids = [100 + 13 * i % 1700 for i in range(200)]
        self.probe = self.ask_probe()
        self.guest_tokens = self.ask_guest(BUNDLED)
        self.texts = {}  # by prompt: the most tokens that one has given

    def ask_probe(self):
        return list(self.daemon.generate(ask(self.probe_ids, max_tokens=16)).token_ids[0])

    def ask_guest(self, model):
        return list(self.daemon.generate(ask([5, 6, 7], max_tokens=4, model=model)).token_ids[0])

    def check(self, what, tokens, usual):
        if tokens == usual:
            return self.count(f"{what}: tokens checked")
        with self.lock:
            self.wrong.append(f"{what}: {tokens} for {usual}")

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def loop(self, name, body, pause):
        source = random.Random(f"{self.seed} {name}")
        while not self.ending.is_set():
            try:
                body(source)
                self.count(name)
            except grpc.RpcError as error:
                full = error.code() == grpc.StatusCode.INVALID_ARGUMENT and (  # a long session
                    "context" in error.details() or "could never fit" in error.details())
                if error.code() not in EXPECTED_REFUSALS and not full:
                    with self.lock:
                        self.wrong.append(f"{name}: {error.code()} {error.details()}")
                self.count(f"{name}: {error.code().name}")
            except Exception as error:  # told at the end, not lost with a thread
                with self.lock:
                    self.wrong.append(f"{name}: {error!r}")
            self.ending.wait(source.random() * 2 * pause)

    def turn(self, source):
        ids = [source.randrange(10, 2000) for _ in range(source.randrange(5, 200))]
        name = f"s{source.randrange(SESSIONS)}"
        try:
            self.daemon.generate(ask(ids, max_tokens=source.randrange(1, 40), session_id=name,
                                     session_input=source.choice([1, 2])))
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.INVALID_ARGUMENT:
                raise
            self.daemon.sessions.DeleteSession(session_pb2.DeleteSessionRequest(model=BUNDLED, session_id=name),
                                               timeout=PATIENCE_SECONDS)

    def prompt(self, source):
        number = source.randrange(30)
        ids = [random.Random(number).randrange(10, 2000) for _ in range(300)]
        tokens = list(self.daemon.generate(ask(ids, max_tokens=source.randrange(1, 60))).token_ids[0])
        with self.lock:
            usual = self.texts.get(number)
            if usual is None or len(tokens) > len(usual):
                self.texts[number] = tokens
        if usual is not None:
            both = min(len(tokens), len(usual))  # of two greedy continuations, one may be longer
            self.check("prompt", tokens[:both], usual[:both])

    def cancel(self, source):
        ids = [source.randrange(10, 2000) for _ in range(100)]
        request = ask(ids, max_tokens=400)
        if source.random() < 0.5:
            request.session_id = f"s{source.randrange(SESSIONS)}"
        call = self.daemon.generation.Generate(request)
        for _ in range(source.randrange(1, 30)):
            if next(call, None) is None:
                return
        call.cancel()

    def slow(self, source):
        call = self.daemon.generation.Generate(ask([source.randrange(10, 2000)] * 20, max_tokens=1500))
        for _ in call:
            if self.ending.wait(0.05):
                call.cancel()

    def probes(self, source):
        self.check("probe", self.ask_probe(), self.probe)

    def checked(self, source):
        """A turn of a session, and the same tokens asked for without a session."""
        name = f"c{source.randrange(CHECKED)}"
        history = self.histories.get(name, [])
        ids = [source.randrange(10, 2000) for _ in range(source.randrange(5, 120))]
        count = source.randrange(2, 24)
        if len(history) + len(ids) + count > 1500:
            self.forget(name)
            return
        try:
            reply = self.daemon.generate(ask(ids, max_tokens=count, session_id=name))
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED):
                self.forget(name)
            raise
        known = len(history) + len(ids)
        if reply.usage.prompt_tokens == len(ids) and history:
            self.count("checked: lost")
            history = []
        elif reply.usage.prompt_tokens != known:
            with self.lock:
                self.wrong.append(f"{name} has {reply.usage.prompt_tokens} tokens, the client {known}")
        self.histories[name] = history + ids + list(reply.token_ids[0])
        alone = self.daemon.generate(ask(history + ids, max_tokens=count))
        self.check("session" if history else "session's first turn", list(reply.token_ids[0]), list(alone.token_ids[0]))

    def forget(self, name):
        self.histories.pop(name, None)

        def gone():
            try:
                self.daemon.sessions.DeleteSession(session_pb2.DeleteSessionRequest(model=BUNDLED, session_id=name),
                                                   timeout=PATIENCE_SECONDS)
            except grpc.RpcError as error:
                return error.code() == grpc.StatusCode.NOT_FOUND
            return True
        wait_until(gone, "the session is deleted")

    def deadline(self, source):
        request = ask([source.randrange(10, 2000) for _ in range(100)], max_tokens=400)
        self.daemon.generate(request, timeout=source.random() * 0.3)

    def http(self, source):
        """A stream over HTTP, read to its end, left in the middle, or read by its first line alone."""
        body = {"model": BUNDLED, "stream": True, "max_tokens": source.randrange(2, 200), "temperature": 0,
                "prompt": [source.randrange(10, 2000) for _ in range(60)]}
        request = urllib.request.Request(f"http://{self.daemon.http_address}/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        leave_after = source.choice([1, 5, 10000])
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
                for number, line in enumerate(response):
                    if number == leave_after:
                        return
                    if line.startswith(b"data: {") and b'"error"' in line:
                        self.count("http: error in the stream")
                        return
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                with self.lock:
                    self.wrong.append(f"http: {error.code} {error.read()[:200]}")
            self.count(f"http: {error.code}")
        except http.client.HTTPException as error:
            self.count(f"http: {type(error).__name__}")

    def fill(self, source):
        filler = pathlib.Path(self.disk, "filler")
        try:
            with open(filler, "wb") as file:
                while True:
                    file.write(bytes(1 << 16))
        except OSError:
            pass
        self.ending.wait(source.random() * 3)
        filler.unlink(missing_ok=True)

    def reload(self, source):
        self.daemon.signal(signal.SIGHUP)

    def torn(self, source):
        """A reload while somebody writes the file in place."""
        with self.file_lock:
            text = config(self.disk)
            with open(self.config_file, "w") as file:
                file.write(text[:source.randrange(len(text))])
                file.flush()
                self.daemon.signal(signal.SIGHUP)
                time.sleep(0.05)
            self.config_file.write_text(text)

    def load_by_file(self, source):
        def models():
            return {model.name: model.state for model in self.daemon.generation.ListModels(
                generation_pb2.ListModelsRequest(), timeout=PATIENCE_SECONDS).models}

        with self.file_lock:
            for more, there in ((guest("filed"), True), ("", False)):
                self.config_file.write_text(config(self.disk, more))
                self.daemon.signal(signal.SIGHUP)
                wait_until(lambda: models().get("filed") == (generation_pb2.MODEL_STATE_READY if there else None),
                           f"the model of the file is there: {there}")
                if there:
                    self.check("model of the file", self.ask_guest("filed"), self.guest_tokens)

    def load(self, source):
        self.daemon.admin.LoadModel(admin_pb2.LoadModelRequest(name="guest", path=str(BUNDLED_FOLDER), wait=True,
                                                               options=f"{{{GUEST}}}"), timeout=PATIENCE_SECONDS)
        self.check("model", self.ask_guest("guest"), self.guest_tokens)
        self.daemon.admin.UnloadModel(admin_pb2.UnloadModelRequest(name="guest"), timeout=PATIENCE_SECONDS)

    def scrape(self, source):
        self.daemon.metrics()

    def run(self, seconds):
        plan = [("turn", self.turn, 0.05)] * 4 + [("prompt", self.prompt, 0.05)] * 3 + [
            ("cancel", self.cancel, 0.2), ("slow", self.slow, 1), ("probe", self.probes, 1), ("reload", self.reload, 3),
            ("load", self.load, 4), ("scrape", self.scrape, 1), ("checked", self.checked, 0.1), ("deadline", self.deadline, 0.5),
            ("http", self.http, 0.3), ("torn", self.torn, 10), ("load by the file", self.load_by_file, 10)]
        if self.can_fill:
            plan.append(("fill", self.fill, 8))
        threads = [threading.Thread(target=self.loop, args=entry) for entry in plan]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.ending.set()
        for thread in threads:
            thread.join()

    def empty(self):
        """Deletes every session, so that nothing is held."""
        self.ending.clear()
        for name in [f"s{number}" for number in range(SESSIONS)] + [f"c{number}" for number in range(CHECKED)]:
            self.forget(name)
        self.daemon.wait_kv_idle()

    def state(self):
        process = pathlib.Path(f"/proc/{self.daemon.process.pid}")
        samples = self.daemon.metrics()
        status = process.joinpath("status").read_text()
        field = lambda name: int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))
        spill = pathlib.Path(self.disk, "spill")
        return {"rss_mib": field("VmRSS") / 1024, "descriptors": len(os.listdir(process / "fd")), "threads": field("Threads"),
                "live_bytes": sample_sum(samples, "kvasir_kv_pool_bytes", state="live"),
                "session_files": len(list(spill.rglob("*.kvs"))), "temporaries": len(list(spill.rglob("*.tmp"))),
                "prefix_bytes_untold": sum(path.stat().st_size for path in spill.rglob("*.kvp"))
                - sample_sum(samples, "kvasir_prefix_spill_bytes"),
                "spill_bytes_untold": sum(path.stat().st_size for path in spill.rglob("*.kvs"))
                - sample_sum(samples, "kvasir_spill_bytes")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        can_fill = os.geteuid() == 0 and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=False).returncode == 0
        try:
            with Daemon(config=config(folder)) as daemon:
                soak = Soak(daemon, folder, can_fill, arguments.seed)
                soak.run(min(60, arguments.minutes * 6))  # until all has been used once
                soak.empty()
                time.sleep(15)  # freed memory is given back some seconds later
                before = soak.state()
                soak.counts.clear()
                soak.run(arguments.minutes * 60)
                soak.empty()
                time.sleep(15)
                after = soak.state()
                samples = daemon.metrics()
                told = {name: sample_sum(samples, name) for name in (
                    "kvasir_spill_damaged_total", "kvasir_prefix_spill_failures_total", "kvasir_preemptions_total")}
                told["prefix_blocks_read"] = sample_sum(samples, "kvasir_prefix_spill_blocks_total", event="read")
                code = daemon.stop()
        finally:
            if can_fill:
                subprocess.run(["umount", "-l", folder], check=False)
    left = []
    if after["rss_mib"] > before["rss_mib"] * 1.1 + 16:
        left.append("memory")
    left += [name for name in ("descriptors", "threads") if after[name] > before[name] + 8]  # connections come and go
    left += [name for name in ("live_bytes", "session_files", "temporaries", "prefix_bytes_untold", "spill_bytes_untold")
             if after[name] != 0]
    left += [f"no {what} checked" for what in ("probe", "prompt", "session", "model", "model of the file")
             if not soak.counts.get(f"{what}: tokens checked")]
    print(json.dumps({"minutes": arguments.minutes, "done": soak.counts, "told": told, "before": before, "after": after,
                      "left": left, "wrong": len(soak.wrong), "first_wrong": soak.wrong[:20], "exit_code": code}, indent=1))
    return 1 if left or soak.wrong or code != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
