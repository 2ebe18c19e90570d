"""A clock that is set, a day forwards and a day back, under a daemon that runs (clock_shim.cc) and under one that starts so
(faketime, where it is installed): no deadline, age, rate, measured time or wait goes by it."""

import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, PATIENCE_SECONDS, Daemon, greedy, long_request, sample_sum, wait_until

import grpc
from kvasir.v1 import admin_pb2, session_pb2

SHIM = pathlib.Path(os.environ.get("KVASIR_CLOCK_SHIM", harness.ROOT / "build" / "release" / "lib" / "libclock_shim.so"))
DAY = 86400


def config(folder, more=""):
    return f"""
server:
  drain_grace_seconds: 1
  authentication: {{anonymous_limits: {{max_requests: 4}}}}
models:
  - name: {BUNDLED}
    path: {BUNDLED_FOLDER}
    kv_cache: {{capacity_bytes: 64Mi}}
    scheduler: {{max_running: 2, stall_limit_seconds: 1s}}
    sessions: {{ttl_seconds: 600, spill_directory: {folder}/spill, max_idle_bytes: 8Mi, max_prefix_spill_bytes: 8Mi{more}}}
"""


class Clock:
    """The offset that the shim adds."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.set(0)

    def set(self, seconds):
        if not self.path.exists():
            self.path.write_bytes(bytes(8))
        with open(self.path, "r+b") as file:  # in place: it is mapped
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    def environment(self):
        return {"LD_PRELOAD": str(SHIM), "CLOCK_SECONDS_FILE": str(self.path)}


class ClockTest(unittest.TestCase):
    def exercise(self, daemon, session, move):
        """Everything that goes by time, the clock being set in the middle of it. Ends with a drain."""
        daemon.generate(greedy(max_tokens=4, session_id=session))
        probe = daemon.generate(greedy([5, 6, 7], max_tokens=8)).token_ids[0]

        # A stream that runs goes on; one that waits for it ends by its deadline, no sooner and no later.
        streams = [daemon.stream(long_request(n=1, max_tokens=1900)) for _ in range(2)]
        for stream in streams:
            stream.wait_streaming()
        begun = time.monotonic()
        ended = {}

        def wait():
            try:
                daemon.generate(greedy(max_tokens=1900), timeout=2)
            except grpc.RpcError as error:
                ended["code"], ended["after"] = error.code(), time.monotonic() - begun
        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until(lambda: daemon.stats().waiting == 1, "one waits")
        move()
        for stream in streams:
            self.assertTrue(stream.thread.is_alive() or stream.error is None)
            stream.call.cancel()
        waiting.join(60)
        self.assertFalse(waiting.is_alive())
        if ended:  # it may have run, when the streams were gone
            self.assertEqual(ended["code"], grpc.StatusCode.DEADLINE_EXCEEDED)
            self.assertGreater(ended["after"], 1.5)
        daemon.wait_kv_idle() if not session else wait_until(lambda: daemon.stats().running == 0, "nothing runs")

        # A session is as old as it is.
        info = daemon.sessions.GetSession(session_pb2.GetSessionRequest(model=BUNDLED, session_id=session),
                                          timeout=PATIENCE_SECONDS)
        self.assertLess(info.idle_seconds, 300)
        self.assertGreater(info.idle_seconds, -1)
        self.assertGreater(daemon.generate(greedy([9], max_tokens=2, session_id=session)).usage.prompt_tokens, 4)

        # An idle engine's timer: a reader that stalls is ended by its limit.
        call = daemon.generation.Generate(greedy(max_tokens=1900))
        next(call)
        self.assertEqual(daemon.generate(greedy([5, 6, 7], max_tokens=8)).token_ids[0], probe)
        call.cancel()

        # A constraint is compiled within its time.
        request = greedy(max_tokens=8)
        request.sampling.constraint.json_schema = '{"type": "object", "properties": {"clock": {"type": "integer"}}}'
        request.stopping.ignore_eos = False
        daemon.generate(request)

        # Files are read, models come and go.
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: "reloaded tenants" in daemon.log(), "reloaded")
        daemon.admin.LoadModel(admin_pb2.LoadModelRequest(name="guest", path=str(BUNDLED_FOLDER), wait=True,
                                                          options="kv_cache: {capacity_bytes: 8MiB}"),
                                                          timeout=PATIENCE_SECONDS)
        daemon.admin.UnloadModel(admin_pb2.UnloadModelRequest(name="guest"), timeout=PATIENCE_SECONDS)

        # No figure has a day in it.
        samples = daemon.metrics()
        for name in ("kvasir_time_to_first_token_seconds_sum", "kvasir_queue_time_seconds_sum",
                     "kvasir_inter_token_latency_seconds_sum", "kvasir_step_duration_seconds_sum", "kvasir_request_duration_seconds_sum"):
            values = [value for key, value in samples.items() if key.startswith(name)]
            self.assertTrue(values, name)
            self.assertTrue(all(0 <= value < 600 for value in values), (name, values))
        self.assertLess(daemon.admin.GetStats(admin_pb2.GetStatsRequest(), timeout=PATIENCE_SECONDS).uptime_seconds, 600)

        # And it drains: the session to the disk, where it is found again.
        self.assertEqual(daemon.stop(), 0)

    def test_set_while_it_runs(self):
        for seconds in (DAY, -DAY):
            with self.subTest(seconds=seconds), tempfile.TemporaryDirectory() as folder:
                clock = Clock(f"{folder}/clock")
                with Daemon(config=config(folder), environment=clock.environment()) as daemon:
                    self.exercise(daemon, "kept", lambda: clock.set(seconds))
                # The next life has the clock of the last one; the file is from its own time.
                with Daemon(config=config(folder), environment=clock.environment()) as daemon:
                    reply = daemon.generate(greedy([9], max_tokens=2, session_id="kept"))
                    self.assertGreater(reply.usage.cached_tokens, 0)

    def test_set_back_while_it_waits(self):
        """Waits that were begun by a clock that is a day ahead do not last a day."""
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock(f"{folder}/clock")
            clock.set(DAY)
            with Daemon(config=config(folder), environment=clock.environment()) as daemon:
                self.exercise(daemon, "kept", lambda: clock.set(0))

    def test_rates_go_on(self):
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock(f"{folder}/clock")
            limited = config(folder).replace("max_requests: 4", "tokens_per_minute: 120")
            with Daemon(config=limited, environment=clock.environment()) as daemon:
                def granted(tokens):
                    try:
                        daemon.generate(greedy([5, 6], max_tokens=tokens))
                    except grpc.RpcError as error:
                        self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
                        return False
                    return True
                self.assertTrue(granted(110))
                for seconds in (DAY, -DAY, 0):
                    clock.set(seconds)
                    self.assertFalse(granted(90), "a day gave a minute's tokens")
                    wait_until(lambda: granted(5), "what is used comes back, two a second")

    def test_a_shared_directory_loses_nothing(self):
        for seconds in (DAY, -DAY):
            with self.subTest(seconds=seconds), tempfile.TemporaryDirectory() as folder:
                clock = Clock(f"{folder}/clock")
                with Daemon(config=config(folder, ", share_spill_directory: true"), environment=clock.environment()) as daemon:
                    files = lambda: len(list(pathlib.Path(folder, "spill").rglob("*.kvs")))
                    daemon.generate(greedy(max_tokens=4, session_id="a"))
                    wait_until(lambda: files() == 1, "it is written")
                    clock.set(seconds)
                    # The next write looks through the folder first.
                    daemon.generate(greedy(max_tokens=4, session_id="b"))
                    wait_until(lambda: files() == 2, "the other is written, and the first not removed")
                    self.assertEqual(daemon.stop(), 0)

    def test_a_restart_under_another_clock_loses_nothing(self):
        for more in ("", ", share_spill_directory: true"):
            for before, after in ((0, DAY), (DAY, 0), (0, -DAY)):
                with self.subTest(more=more, before=before, after=after), tempfile.TemporaryDirectory() as folder:
                    clock = Clock(f"{folder}/clock")
                    clock.set(before)
                    with Daemon(config=config(folder, more), environment=clock.environment()) as daemon:
                        first = daemon.generate(greedy(max_tokens=4, session_id="kept"))
                        self.assertEqual(daemon.stop(), 0)
                    clock.set(after)
                    with Daemon(config=config(folder, more), environment=clock.environment()) as daemon:
                        # A turn that is written looks through a shared folder.
                        daemon.generate(greedy(max_tokens=4, session_id="other"))
                        reply = daemon.generate(greedy([9], max_tokens=2, session_id="kept"))
                        self.assertGreater(reply.usage.cached_tokens, 0)
                        self.assertEqual(reply.usage.prompt_tokens, first.usage.prompt_tokens + 4 + 1)
                        self.assertEqual(daemon.stop(), 0)

    def test_faketime(self):
        if shutil.which("faketime") is None:
            print("*** faketime is not installed: this test is skipped", file=sys.stderr)
            self.skipTest("faketime is not installed")
        library = next(pathlib.Path("/usr/lib").rglob("libfaketime.so.1"))
        # Both clocks are faked: where libfaketime leaves the monotonic one alone, it ends waits that go by it at once.
        for offset in ("+1d", "-1d"):
            with self.subTest(offset=offset), tempfile.TemporaryDirectory() as folder:
                with Daemon(config=config(folder), environment={"LD_PRELOAD": str(library), "FAKETIME": offset}) as daemon:
                    self.exercise(daemon, "kept", lambda: None)


if __name__ == "__main__":
    if not SHIM.exists():
        print(f"*** {SHIM} is not built: this test is skipped", file=sys.stderr)
        sys.exit(0)
    unittest.main(verbosity=2)
