"""Callers that mean harm: each is refused clearly, others are served meanwhile, and memory and descriptors come back.

What TLS adds (plain text, stalled handshakes, giant metadata behind TLS) is in tls_test.py, the walls between tenants in
tenants_test.py, one connection too many in daemon_test.py.
"""

import hashlib
import os
import resource
import socket
import sys
import time
import unittest

from baseline_test import open_descriptors, resident_bytes
from harness import BUNDLED, PATIENCE_SECONDS, Daemon, greedy, sample_sum, wait_until
from clients import raw_http2
from clients.raw_http2 import Connection, frame
from tenant_client import KEYS, TenantClient, config, refusal

import grpc
from kvasir.v1 import session_pb2

MIB = 1 << 20
# What an attack may leave behind: pages that malloc keeps for the next one.
SLACK_BYTES = 32 * MIB
UNDER_ASAN = "ASAN_OPTIONS" in os.environ  # set by CMakeLists.txt


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


def processor_seconds(daemon):
    with open(f"/proc/{daemon.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Attacked(unittest.TestCase):
    """A daemon, a tenant that is served before, during and after, and what the process held before."""

    SERVER = {"handshake_timeout_seconds": 2}

    def setUp(self):
        tenants = {name: {"key_sha256": [digest(KEYS[name])]} for name in ("team-a", "team-b")}
        self.daemon = Daemon(config=config(tenants, server=self.SERVER))
        self.addCleanup(self.daemon.kill)
        self.a = TenantClient(self.daemon, KEYS["team-a"])
        self.addCleanup(self.a.channel.close)
        self.serves()
        self.daemon.metrics()
        self.descriptors = open_descriptors(self.daemon)
        self.resident = resident_bytes(self.daemon)

    def serves(self):
        self.assertEqual(self.a.generate(greedy(max_tokens=4)).usage.completion_tokens, 4)

    def assert_nothing_leaked(self, slack_bytes=SLACK_BYTES):
        self.serves()
        # One more or less: a scrape's connection.
        wait_until(lambda: open_descriptors(self.daemon) <= self.descriptors + 1,
                   f"no more than {self.descriptors} descriptors are open")
        wait_until(lambda: resident_bytes(self.daemon) <= self.resident + slack_bytes,
                   f"{self.resident} resident bytes again, and {slack_bytes}")

    def connect(self, greet=True):
        return Connection(self.daemon.grpc_address, PATIENCE_SECONDS, greet)


class KeysTest(Attacked):
    def refused(self, key, times, *codes):
        with TenantClient(self.daemon, key) as client:
            for _ in range(times):
                error = refusal(client.list_sessions)
                self.assertIn(error.code(), codes, error.details())
                self.assertNotIn(key[:64], error.details())
        self.assertNotIn(key[:64], "".join(self.daemon.log_lines))

    def test_wrong_truncated_and_giant_keys(self):
        right = KEYS["team-a"]
        for key in ("wrong-key-0123456789abcdef", right[:-1], right[1:], right + "0", right.upper(), digest(right),
                    f"{right} {right}", "k" * 15000):
            with self.subTest(key=key[:40]):
                self.refused(key, 200, grpc.StatusCode.UNAUTHENTICATED)
        # More than max_metadata_bytes: nobody looks at it.
        self.refused("k" * MIB, 50, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
        self.assert_nothing_leaked()

    def test_a_key_that_two_tenants_have_is_refused_at_the_start(self):
        with self.assertRaises(AssertionError) as failed:
            Daemon(config=config({"one": {"key_sha256": [digest("a-key-of-both-0123456789")]},
                                  "two": {"key_sha256": [digest("a-key-of-both-0123456789")]}})).kill()
        self.assertIn("ended with 2", str(failed.exception))
        self.assertIn("tenants[1].key_sha256[0] is the key of tenants[0] as well", str(failed.exception))

    def test_guessed_session_ids(self):
        for index in range(20):
            self.a.generate(greedy(max_tokens=1, session_id=f"session-{index}"))
        with TenantClient(self.daemon, KEYS["team-b"]) as b:
            for index in range(2000):
                request = session_pb2.GetSessionRequest(model=BUNDLED, session_id=f"session-{index % 40}")
                self.assertEqual(refusal(b.sessions.GetSession, request).code(), grpc.StatusCode.NOT_FOUND)
            self.assertEqual(b.list_sessions().total, 0)
        self.assertEqual(self.a.list_sessions().total, 20)
        self.assert_nothing_leaked()


class ConnectionsTest(Attacked):
    def test_ping_floods_are_told_to_calm_down(self):
        ping = frame(raw_http2.PING, payload=b"attackme")
        for _ in range(50):
            with self.connect() as attacker:
                while attacker.send(ping * 100):
                    attacker.socket.settimeout(0.05)  # the answer may need a moment
                    try:
                        error = attacker.goaway_error()
                        break
                    except TimeoutError:
                        pass
                else:
                    attacker.socket.settimeout(PATIENCE_SECONDS)
                    error = attacker.goaway_error()
                self.assertEqual(error, raw_http2.ENHANCE_YOUR_CALM)
        self.assert_nothing_leaked()

    def test_slow_handshakes_end(self):
        stalled = [self.connect(greet=False) for _ in range(200)]
        for number, one in enumerate(stalled):
            one.send(raw_http2.PREFACE[:number % len(raw_http2.PREFACE)])
        self.serves()
        for one in stalled:
            while one.next_frame() is not None:  # the daemon's settings, then the end
                pass
            one.socket.close()
        self.assert_nothing_leaked()

    def test_giant_metadata(self):
        for size in (20_000, MIB, 8 * MIB):
            with self.subTest(size=size), TenantClient(self.daemon, KEYS["team-a"], [("x-giant", "g" * size)]) as giant:
                for _ in range(20):
                    self.assertIn(refusal(giant.list_sessions).code(),
                                  (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE))
        self.assert_nothing_leaked()

    # gRPC ends them itself where one frame holds more than it allows; smaller frames fill memory, and are FloodGuard's
    # (connection_acceptor_test.cc).
    def test_headers_that_never_end(self):
        field = b"\x00\x7f\x00" + b"n" * 127 + b"\x7f\x00" + b"v" * 127  # not indexed; 127 = 0x7f and one more byte
        block = field * (16000 // len(field))
        with self.connect() as attacker:
            while attacker.next_frame()[:2] != (raw_http2.SETTINGS, raw_http2.ACK):
                pass
            attacker.send(frame(raw_http2.SETTINGS, raw_http2.ACK))
            attacker.send(frame(raw_http2.HEADERS, 0, 1, raw_http2.grpc_headers(b"/kvasir.v1.SessionService/ListSessions")))
            sent = 0
            while attacker.send(frame(raw_http2.CONTINUATION, 0, 1, block)):
                sent += len(block)
                self.assertLess(sent, 64 * MIB, "the daemon closes the connection")
        self.assert_nothing_leaked()


class IdleConnectionsTest(Attacked):
    ATTEMPTS = 10_000
    SERVER = {"handshake_timeout_seconds": 20, "max_connections": 9000}

    def busy_share(self):
        """Of one core, over a second."""
        before, begun = processor_seconds(self.daemon), time.monotonic()
        time.sleep(1)  # the length of the window, not a wait for anything
        return (processor_seconds(self.daemon) - before) / (time.monotonic() - begun)

    def test_ten_thousand_idle_connections(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        attempts, most = self.ATTEMPTS, self.SERVER["max_connections"]
        if hard < 2 * most + 1000:  # the daemon takes two descriptors for each
            most = (hard - 512) // 2  # what it then says itself
            attempts = most + 500
            print(f"*** the hard limit of open files is {hard}: {attempts} connections instead of {self.ATTEMPTS}",
                  file=sys.stderr)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        connections = lambda: self.daemon.metrics()["kvasir_connections"]
        resident = []
        for _ in range(2):
            idle = []
            for _ in range(attempts):
                idle.append(self.connect(greet=False))
                idle[-1].send(raw_http2.PREFACE + frame(raw_http2.SETTINGS))
            wait_until(lambda: connections() >= most, f"{most} connections are open")
            self.assertLessEqual(connections(), most)
            self.serves()  # on the connection that it had
            # Nothing to do, and nothing done: neither the idle ones nor those refused keep it busy. Setting up the
            # last connections may still take a moment.
            wait_until(lambda: self.busy_share() < 0.1, "a second of rest")
            for one in idle:
                one.socket.close()
            wait_until(lambda: connections() <= 2, "the idle connections are forgotten")
            # ASan's allocator keeps what so many small objects have taken, and looks for leaks when the daemon ends.
            self.assert_nothing_leaked(slack_bytes=sys.maxsize if UNDER_ASAN else 2 * SLACK_BYTES)
            resident.append(resident_bytes(self.daemon))
        if not UNDER_ASAN:
            self.assertLess(resident[1], resident[0] + SLACK_BYTES)
        with TenantClient(self.daemon, KEYS["team-b"]) as b:
            self.assertEqual(b.generate(greedy(max_tokens=2)).usage.completion_tokens, 2)
        self.assertEqual(self.daemon.stop(), 0)


class InventedTenantsTest(unittest.TestCase):
    REQUESTS = 100_000
    AT_ONCE = 500  # below server.max_concurrent_streams

    def attack(self, daemon, begin, end):
        with Connection(daemon.grpc_address, PATIENCE_SECONDS) as attacker:
            stream = 1
            for first in range(begin, end, self.AT_ONCE):
                batch = []
                for number in range(first, first + self.AT_ONCE):
                    name = hashlib.sha256(str(number).encode()).hexdigest()[:40].encode()
                    headers = raw_http2.grpc_headers(
                        b"/kvasir.v1.GenerationService/Generate", (b"x-kvasir-tenant", name),
                        (b"authorization", b"Bearer " + name))
                    batch.append(frame(raw_http2.HEADERS, raw_http2.END_HEADERS, stream, headers) +
                                 frame(raw_http2.DATA, raw_http2.END_STREAM, stream, bytes(5)))
                    stream += 2
                self.assertTrue(attacker.send(b"".join(batch)))
                attacker.wait_for_ends(len(batch))

    def test_they_grow_neither_metrics_nor_memory(self):
        with Daemon(config=config({"team-a": {"key_sha256": [digest(KEYS["team-a"])]}}, server={"authentication": {
                "trusted_header": "x-kvasir-tenant", "trusted_addresses": ["127.0.0.0/8"]}})) as daemon:
            with TenantClient(daemon, KEYS["team-a"]) as a:
                a.generate(greedy(max_tokens=2))
                self.attack(daemon, 0, 10_000)  # the series of refusals, and malloc's pages, are there
                before, resident = set(daemon.metrics()), resident_bytes(daemon)
                self.attack(daemon, 10_000, self.REQUESTS)
                samples = daemon.metrics()
                self.assertEqual(set(samples), before)
                self.assertEqual(sample_sum(samples, "kvasir_requests_rejected_total", tenant="other",
                                            reason="unauthenticated"), self.REQUESTS)
                # The last calls' memory comes back behind their answers.
                wait_until(lambda: resident_bytes(daemon) < resident + SLACK_BYTES, "the memory is given back")
                self.assertEqual(a.generate(greedy(max_tokens=2)).usage.completion_tokens, 2)


if __name__ == "__main__":
    unittest.main()
