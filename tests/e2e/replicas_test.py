"""Two daemons behind a real HAProxy with the shipped configuration: sessions stick, a killed replica takes only its own
streams with it, draining loses none.

Needs Debian's haproxy; without it these tests are skipped, loudly.
"""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

import harness
from harness import BUNDLED, ROOT, Daemon, Reply, greedy, wait_until

import grpc
from kvasir.v1 import generation_pb2_grpc

CONFIG = ROOT / "deploy" / "haproxy" / "haproxy.cfg"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_haproxy():
    path = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/sbin")
    if path is None:
        print("*** haproxy is not installed: this test is skipped", file=sys.stderr)
        raise unittest.SkipTest("haproxy is not installed")
    return path


class Proxy:
    """HAProxy before the given daemons, with the shipped configuration's addresses replaced."""

    def __init__(self, daemons):
        self.address = f"127.0.0.1:{free_port()}"
        text = CONFIG.read_text()
        replacements = {"127.0.0.1:50050": self.address, "inter 1s": "inter 100ms"}
        for number, daemon in enumerate(daemons):
            replacements[f"127.0.0.1:{50051 + number} proto h2 check port {9464 + number}"] = (
                f"{daemon.grpc_address} proto h2 check port {daemon.metrics_address.rpartition(':')[2]}")
        for old, new in replacements.items():
            assert old in text, f"{CONFIG} has no {old}"
            text = text.replace(old, new)
        self._file = tempfile.NamedTemporaryFile("w", suffix=".cfg")
        self._file.write(text)
        self._file.flush()
        self.process = subprocess.Popen([find_haproxy(), "-db", "-f", self._file.name], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        self.lines = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self._reader.start()
        self.channel = grpc.insecure_channel(self.address)
        self.generation = generation_pb2_grpc.GenerationServiceStub(self.channel)
        try:
            grpc.channel_ready_future(self.channel).result(harness.PATIENCE_SECONDS)
        except grpc.FutureTimeoutError:
            self.__exit__()
            raise AssertionError(f"haproxy does not listen:\n{''.join(self.lines)}") from None

    def __enter__(self):
        return self

    def __exit__(self, error_type=None, *ignored):
        if error_type is not None:
            print(f"--- log of haproxy\n{''.join(self.lines[-50:])}", file=sys.stderr)
        self.channel.close()
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self._file.close()

    def generate(self, session, **fields):
        call = self.start(session, **fields)
        reply = Reply()
        for response in call:
            reply.take(response)
        return reply

    def start(self, session, **fields):
        return self.generation.Generate(greedy(session_id=session, **fields), timeout=harness.PATIENCE_SECONDS,
                                        metadata=[("x-session-id", session)])


def home_of(daemons, session):
    """Which daemon knows the session: its number, or None."""
    homes = [number for number, daemon in enumerate(daemons) if daemon.process.poll() is None
             and any(row.session_id == session for row in daemon.sessions.ListSessions(
                 harness.session_pb2.ListSessionsRequest(), timeout=harness.PATIENCE_SECONDS).sessions)]
    assert len(homes) <= 1, f"{session} is on both replicas"
    return homes[0] if homes else None


def a_session_on(daemons, proxy, number, prefix):
    """Opens sessions until one lands on that replica; returns its name."""
    for attempt in range(64):
        name = f"{prefix}-{attempt}"
        proxy.generate(name, max_tokens=4)
        if home_of(daemons, name) == number:
            return name
    raise AssertionError(f"64 sessions and none on replica {number}")


class ReplicasTest(unittest.TestCase):
    def setUp(self):
        find_haproxy()

    def test_sessions_stick_and_spread(self):
        with Daemon() as a, Daemon() as b, Proxy([a, b]) as proxy:
            names = [f"chat-{number}" for number in range(16)]
            homes = {}
            for turn in range(3):
                for name in names:
                    reply = proxy.generate(name, text=" and then", max_tokens=6)
                    home = home_of([a, b], name)
                    self.assertEqual(homes.setdefault(name, home), home)
                    if turn > 0:
                        self.assertGreater(reply.usage.cached_tokens, 0)
            self.assertEqual(set(homes.values()), {0, 1}, "all sessions on one replica")
            # The command line names its session as well.
            a.grpc_address, real = proxy.address, a.grpc_address
            a.cli("generate", "--session_id", "cli-1", "--max_tokens", 4, "Once upon a time")
            again = a.cli_json("generate", "--session_id", "cli-1", "--max_tokens", 4, " a king")
            a.grpc_address = real
            self.assertGreater(again["usage"]["cached_tokens"], 0)

    def test_a_killed_replica_takes_only_its_own_streams(self):
        with Daemon() as a, Daemon() as b, Proxy([a, b]) as proxy:
            lost, kept = a_session_on([a, b], proxy, 0, "lost"), a_session_on([a, b], proxy, 1, "kept")
            expected = proxy.generate("reference", max_tokens=600).token_ids
            doomed = harness.Stream(proxy.start(lost, text=" and", max_tokens=1900))
            safe = harness.Stream(proxy.start(a_session_on([a, b], proxy, 1, "safe"), text=" and", max_tokens=1500))
            self.assertTrue(doomed.begun.wait(harness.PATIENCE_SECONDS) and safe.begun.wait(harness.PATIENCE_SECONDS))
            a.process.kill()
            self.assertIsNotNone(doomed.join().error)
            self.assertIsNone(safe.join().error, safe.error)
            self.assertEqual(safe.reply.usage.completion_tokens, 1500)
            # The lost session opens again on the other replica, from its whole history, by computing it.
            wait_until(lambda: any("replica-1 is DOWN" in line for line in proxy.lines), "haproxy noticed")
            session_input = harness.generation_pb2.SESSION_INPUT_FULL_HISTORY
            reopened = proxy.generate(lost, text="Once upon a time there was", session_input=session_input, max_tokens=8)
            self.assertEqual(len(reopened.token_ids[0]), 8)
            self.assertEqual(home_of([a, b], lost), 1)
            # What was on the other stayed there.
            proxy.generate(kept, text=" and", max_tokens=4)
            self.assertEqual(home_of([a, b], kept), 1)
            self.assertEqual(proxy.generate("reference-2", max_tokens=600).token_ids, expected)

    def test_draining_loses_no_stream(self):
        grace = {"config": f"""
models:
  - {{name: {BUNDLED}, path: {harness.BUNDLED_FOLDER}, kv_cache: {{capacity_bytes: 64MiB}}}}
server: {{drain_timeout_seconds: 60, drain_grace_seconds: 2}}
"""}
        with Daemon(**grace) as a, Daemon(**grace) as b, Proxy([a, b]) as proxy:
            name = a_session_on([a, b], proxy, 0, "long")
            long = harness.Stream(proxy.start(name, text=" and", max_tokens=1900))
            self.assertTrue(long.begun.wait(harness.PATIENCE_SECONDS))
            failures, served = [], [0]

            def keep_asking(number):
                while a.process.poll() is None:
                    try:
                        proxy.generate(f"short-{number}-{served[0]}", max_tokens=4)
                        served[0] += 1
                    except grpc.RpcError as error:
                        failures.append(error)

            askers = [threading.Thread(target=keep_asking, args=(number,)) for number in range(3)]
            for asker in askers:
                asker.start()
            a.signal(signal.SIGTERM)
            self.assertEqual(a.wait(), 0)
            for asker in askers:
                asker.join()
            self.assertIsNone(long.join().error, long.error)
            self.assertEqual(long.reply.usage.completion_tokens, 1900)
            self.assertEqual(failures, [])
            self.assertGreater(served[0], 0)
            # The next turn of that session goes to the other replica.
            proxy.generate(name, text=" and", max_tokens=4)
            self.assertEqual(home_of([a, b], name), 1)


if __name__ == "__main__":
    unittest.main()
