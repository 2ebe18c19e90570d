"""Starts real kvasird processes for tests and talks to them: gRPC, the command line, /metrics.

Conditions are polled with a deadline (wait_until); nothing sleeps for a fixed time and hopes.
Environment: KVASIR_BIN = folder of kvasird and kvasir (default build/release/bin), KVASIR_MODELS = golden models
(default ../shared/models beside the checkout), KVASIR_PATIENCE_SECONDS = how long to wait for what has to happen (default 180).
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client" / "python"))

import grpc
import kvasir_stubs

kvasir_stubs.load(ROOT / "proto", ROOT / "tests" / "e2e" / "protos")

from google.rpc import error_details_pb2, status_pb2
from grpc.health.v1 import health_pb2, health_pb2_grpc
from kvasir.v1 import admin_pb2, admin_pb2_grpc, generation_pb2, generation_pb2_grpc, session_pb2, session_pb2_grpc

BIN = pathlib.Path(os.environ.get("KVASIR_BIN", ROOT / "build" / "release" / "bin"))
MODELS = pathlib.Path(os.environ.get("KVASIR_MODELS", ROOT.parent / "shared" / "models"))
BUNDLED = "tale-7m-gqa2"
BUNDLED_FOLDER = ROOT / "deploy" / "models" / BUNDLED

# How long any of these tests waits for what has to happen: enough for a slow, busy or sanitized machine, and a passing test
# never waits this long. Clients that tests start read the variable too.
PATIENCE_SECONDS = float(os.environ.setdefault("KVASIR_PATIENCE_SECONDS", "180"))


def golden(folder=BUNDLED_FOLDER):
    return json.loads((folder / "golden.json").read_text())


def model_folder(name):
    """Folder of a golden model; skips the test, loudly, where it is not on this machine."""
    for folder in (MODELS / name, ROOT / "deploy" / "models" / name):
        if (folder / "model.safetensors").exists():
            return folder
    print(f"*** {name} is not in {MODELS}: this test is skipped", file=sys.stderr)
    raise unittest.SkipTest(f"{name} is not in {MODELS}; set KVASIR_MODELS")


def wait_until(condition, what, timeout_seconds=PATIENCE_SECONDS):
    """Polls until condition() is true and returns its value; AssertionError names `what` otherwise."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds:g} s: {what}; last value: {value!r}")
        time.sleep(0.02)


def as_nobody(*limits):
    """A Daemon's wrapper: as a user without other processes, with these limits (prlimit(1)). Skips the test, loudly, where
    that cannot be."""
    wrapper = ["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups"]
    # setpriv itself may still start what that user may not.
    if os.geteuid() != 0 or subprocess.run([*wrapper, "env", str(BIN / "kvasird"), "--version"], check=False,
                                           capture_output=True).returncode != 0:
        print("*** needs root, and kvasird where others may run it: this test is skipped", file=sys.stderr)
        raise unittest.SkipTest("needs root, and kvasird where others may run it")
    return [*wrapper, "prlimit", *limits, "--"] if limits else wrapper


class Daemon:
    """One kvasird process on free ports. A context manager; prints the daemon's log when a test fails inside."""

    def __init__(self, *flags, models=None, config=None, kv_capacity="64MiB", compute_type="bf16", environment=None,
                 listen="127.0.0.1:0", http_listen="127.0.0.1:0", wrapper=()):
        """models: {name: folder}, default the bundled one. config: text of a YAML file instead of model flags.
        environment: variables beside those of this process. wrapper: a command that becomes the daemon's, with arguments."""
        command = [str(BIN / "kvasird"), "--listen", listen, "--metrics_listen", "127.0.0.1:0",
                   "--http_listen", http_listen]
        self._config_file = None
        if config is not None:
            self._config_file = tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False)
            self._config_file.write(config)
            self._config_file.close()
            command += ["--config", self._config_file.name]
        else:
            for name, folder in (models or {BUNDLED: BUNDLED_FOLDER}).items():
                command += ["--model", f"{name}={folder}"]
            command += ["--kv_capacity_bytes", kv_capacity, "--compute_type", compute_type]
        self.command = command + [str(flag) for flag in flags]
        self.log_lines = []
        self.grpc_address = self.metrics_address = self.http_address = None
        self._listening = threading.Event()
        self.process = subprocess.Popen([*wrapper, *self.command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        errors="replace", env={**os.environ, **(environment or {})})
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._listening.wait(PATIENCE_SECONDS) or self.grpc_address is None:
            self.kill()
            raise AssertionError(f"{' '.join(self.command)}\nended with {self.process.returncode} before listening:\n"
                                 f"{self.log()}")
        self.channel = self.new_channel()
        self.generation = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def _read_log(self):
        for line in self.process.stdout:
            self.log_lines.append(line)
            match = re.match(r"listening grpc=(\S+) metrics=(\S+) http=(\S+)", line)
            if match:
                self.grpc_address, self.metrics_address, self.http_address = match.groups()
                self._listening.set()
        self._listening.set()  # end of file: stop waiting for the line

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        if error_type is not None and error_type is not unittest.SkipTest:
            print(f"--- log of {' '.join(self.command)}\n{self.log()}", file=sys.stderr)
        self.kill()

    def log(self):
        return "".join(self.log_lines[-200:])

    def new_channel(self, **options):
        """A connection of its own; option names get their dots from double underscores."""
        pairs = [("grpc.use_local_subchannel_pool", 1)]
        pairs += [(name.replace("__", "."), value) for name, value in options.items()]
        return grpc.insecure_channel(self.grpc_address, options=pairs)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, timeout_seconds=PATIENCE_SECONDS):
        """The exit code."""
        return self.process.wait(timeout_seconds)

    def stop(self):
        """An orderly end; returns the exit code."""
        self.signal()
        code = self.wait()
        self._reader.join()  # what it said last is in the log
        return code

    def kill(self):
        if getattr(self, "channel", None) is not None:
            self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        if self._config_file is not None:
            pathlib.Path(self._config_file.name).unlink(missing_ok=True)
            self._config_file = None

    # --- questions ---

    def stats(self, model=BUNDLED):
        for stats in self.admin.GetStats(admin_pb2.GetStatsRequest(), timeout=PATIENCE_SECONDS).models:
            if stats.model == model:
                return stats
        raise AssertionError(f"GetStats has no model {model}")

    def requests(self):
        return self.admin.ListRequests(admin_pb2.ListRequestsRequest(), timeout=PATIENCE_SECONDS).requests

    def metrics(self):
        """{sample name with labels: value} of one scrape, read by a strict parser of the text format."""
        return parse_metrics(self.metrics_text())

    def metrics_text(self):
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=PATIENCE_SECONDS) as response:
            assert response.status == 200, response.status
            return response.read().decode()

    def serving(self, service="kvasir.v1.GenerationService"):
        reply = self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_SECONDS)
        return reply.status == health_pb2.HealthCheckResponse.SERVING

    def wait_kv_idle(self, model=BUNDLED):
        """Until no request runs and no KV bytes are held by any."""

        def idle():
            stats = self.stats(model)
            return stats.running == 0 and stats.waiting == 0 and stats.kv_live_bytes == 0

        wait_until(idle, "no running request and no live KV bytes")

    # --- generation ---

    def stream(self, request):
        """The request's Stream, begun."""
        return Stream(self.generation.Generate(request, timeout=PATIENCE_SECONDS))

    def generate(self, request, timeout=PATIENCE_SECONDS):
        """Runs a request to its end; returns a Reply. Raises grpc.RpcError."""
        reply = Reply()
        for response in self.generation.Generate(request, timeout=timeout):
            reply.take(response)
        return reply

    def cli(self, *arguments, check=True, stdin=None):
        """Runs kvasir against this daemon; returns the CompletedProcess."""
        result = subprocess.run([str(BIN / "kvasir"), arguments[0], "--server", self.grpc_address, *map(str, arguments[1:])],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, input=stdin,
                                timeout=2 * PATIENCE_SECONDS, check=False)
        if check and result.returncode != 0:
            raise AssertionError(f"kvasir {' '.join(map(str, arguments))} ended with {result.returncode}\n"
                                 f"{result.stdout}{result.stderr}")
        return result

    def cli_json(self, *arguments):
        return json.loads(self.cli(arguments[0], "--json", *arguments[1:]).stdout)


class Reply:
    """A stream put together, and the order of its events."""

    def __init__(self):
        self.events = []
        self.accepted = self.final = None
        self.text = {}
        self.token_ids = {}
        self.logprobs = {}
        self.prompt_logprobs = []

    def take(self, response):
        event = response.WhichOneof("event")
        self.events.append(event)
        if event == "accepted":
            self.accepted = response.accepted
        elif event == "prompt_logprobs":
            self.prompt_logprobs += response.prompt_logprobs.tokens
        elif event == "delta":
            delta = response.delta
            self.text[delta.index] = self.text.get(delta.index, "") + delta.text
            self.token_ids.setdefault(delta.index, []).extend(delta.token_ids)
            self.logprobs.setdefault(delta.index, []).extend(delta.logprobs)
        elif event == "final":
            self.final = response.final

    @property
    def usage(self):
        return self.final.usage

    def finish_reason(self, index=0):
        return generation_pb2.FinishReason.Name(self.final.completions[index].finish_reason)


class Stream:
    """A Generate call, read by a thread of its own into `reply`, or to its `error`."""

    def __init__(self, call):
        self.call, self.reply, self.error = call, Reply(), None
        self.begun = threading.Event()  # by the first text, or by the end
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        try:
            for response in self.call:
                self.reply.take(response)
                if response.HasField("delta"):
                    self.begun.set()
        except grpc.RpcError as error:
            self.error = error
        self.begun.set()

    def wait_streaming(self):
        assert self.begun.wait(PATIENCE_SECONDS)
        assert self.error is None, self.error

    def join(self):
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive()
        return self


def greedy(token_ids=None, text=None, max_tokens=16, model="", **fields):
    """A greedy request that does not stop early."""
    request = generation_pb2.GenerateRequest(
        model=model, sampling=generation_pb2.Sampling(temperature=0),
        stopping=generation_pb2.Stopping(max_tokens=max_tokens, ignore_eos=True), **fields)
    if token_ids is not None:
        request.token_ids.ids.extend(token_ids)
    else:
        request.text = "Once upon a time" if text is None else text
    return request


def long_request(n=8, max_tokens=1900, **fields):
    """Thousands of tokens: runs for seconds unless it is ended."""
    request = greedy(max_tokens=max_tokens, **fields)
    request.sampling.temperature = 1
    request.sampling.seed = 7
    request.sampling.n = n
    return request


def error_details(error, message_type):
    """The first detail of that type in a failed call's grpc-status-details-bin, or None."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                message = message_type()
                if detail.Unpack(message):
                    return message
    return None


_SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*\})? '
                     r'([-+]?(?:[0-9.]+(?:[eE][-+]?[0-9]+)?|Inf|NaN|inf|nan))(?: [0-9]+)?$')


def parse_metrics(text):
    """Reads the Prometheus text format; AssertionError on any line that is not of it, or a sample given twice."""
    samples = {}
    types = {}
    for line in text.splitlines():
        if not line:
            continue
        if line.startswith("#"):
            words = line.split(" ", 3)
            assert words[1] in ("HELP", "TYPE"), line
            if words[1] == "TYPE":
                assert words[2] not in types, f"two TYPE lines for {words[2]}"
                types[words[2]] = words[3]
            continue
        match = _SAMPLE.match(line)
        assert match, f"not a sample: {line!r}"
        name = match.group(1) + (match.group(2) or "")
        assert name not in samples, f"sample given twice: {name}"
        family = re.sub(r"_(bucket|sum|count)$", "", match.group(1))
        assert match.group(1) in types or family in types, f"no TYPE for {name}"
        samples[name] = float(match.group(3))
    return samples


def sample_sum(samples, name, **labels):
    """Sum over the samples of that name whose labels contain the given ones."""
    total = 0
    found = False
    for key, value in samples.items():
        base, _, rest = key.partition("{")
        if base == name and all(f'{label}="{wanted}"' in rest for label, wanted in labels.items()):
            total += value
            found = True
    assert found, f"no sample {name} with {labels}"
    return total
