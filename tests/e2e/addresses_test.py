"""Where the daemon listens: unix sockets, IPv6, and what the line on stdout says of them."""

import http.client
import json
import os
import pathlib
import socket
import stat
import sys
import tempfile
import unittest

import harness
from harness import Daemon, greedy


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=harness.PATIENCE_SECONDS)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def get(connection, path="/health"):
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


class UnixSocketTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.grpc_path, self.http_path = (os.path.join(folder.name, name) for name in ("grpc.sock", "http.sock"))

    def daemon(self, **more):
        return Daemon(listen=f"unix://{self.grpc_path}", http_listen=f"unix://{self.http_path}", **more)

    def test_both_ports_serve_and_leave_no_file_behind(self):
        with self.daemon() as daemon:
            self.assertEqual(daemon.grpc_address, f"unix://{self.grpc_path}")
            self.assertEqual(daemon.http_address, f"unix://{self.http_path}")
            self.assertTrue(stat.S_ISSOCK(os.stat(self.grpc_path).st_mode))
            text = daemon.generate(greedy(max_tokens=8)).text[0]
            connection = UnixConnection(self.http_path)
            connection.request("POST", "/v1/completions", json.dumps(
                {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "ignore_eos": True}))
            self.assertEqual(json.loads(connection.getresponse().read())["choices"][0]["text"], text)
            connection.close()
            # The command line takes the same name.
            self.assertEqual(daemon.cli("health").stdout, "SERVING\n")
            self.assertEqual(daemon.stop(), 0)
        self.assertFalse(os.path.exists(self.grpc_path))
        self.assertFalse(os.path.exists(self.http_path))

    def test_what_a_killed_daemon_left_is_replaced_and_a_living_one_is_not(self):
        first = self.daemon()
        first.process.kill()
        first.kill()
        self.assertTrue(os.path.exists(self.grpc_path))
        with self.daemon() as second:
            self.assertEqual(get(UnixConnection(self.http_path))[0], 200)
            with self.assertRaises(AssertionError) as caught:
                self.daemon()
            self.assertIn("another process listens there", str(caught.exception))
            self.assertTrue(second.serving())

    def test_a_file_is_not_overwritten(self):
        pathlib.Path(self.grpc_path).write_text("precious")
        with self.assertRaises(AssertionError) as caught:
            self.daemon()
        self.assertIn("no socket", str(caught.exception))
        self.assertEqual(pathlib.Path(self.grpc_path).read_text(), "precious")

    def test_connections_are_counted_and_forgotten(self):
        with self.daemon() as daemon:
            for _ in range(20):
                with daemon.new_channel() as channel:
                    harness.health_pb2_grpc.HealthStub(channel).Check(harness.health_pb2.HealthCheckRequest(),
                                                                     timeout=harness.PATIENCE_SECONDS)
            before = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
            for _ in range(50):
                self.assertEqual(get(UnixConnection(self.http_path))[0], 200)
            harness.wait_until(lambda: len(os.listdir(f"/proc/{daemon.process.pid}/fd")) <= before, "as many descriptors")


@unittest.skipUnless(has_ipv6(), "this machine has no IPv6")
class Ipv6Test(unittest.TestCase):
    def test_loopback(self):
        with Daemon(listen="[::1]:0", http_listen="[::1]:0") as daemon:
            for address in (daemon.grpc_address, daemon.http_address):
                self.assertRegex(address, r"^\[::1\]:[1-9][0-9]*$")
            self.assertTrue(daemon.generate(greedy(max_tokens=2)).final)
            port = int(daemon.http_address.rpartition(":")[2])
            self.assertEqual(get(http.client.HTTPConnection("::1", port))[0], 200)
            with self.assertRaises(OSError):
                get(http.client.HTTPConnection("127.0.0.1", port))

    def test_every_address_of_the_machine_is_ipv4_too(self):
        with Daemon("--anonymous", "allow", listen="[::]:0", http_listen="[::]:0") as daemon:
            self.assertRegex(daemon.grpc_address, r"^\[::\]:[1-9][0-9]*$")
            port = int(daemon.http_address.rpartition(":")[2])
            for host in ("::1", "127.0.0.1"):
                self.assertEqual(get(http.client.HTTPConnection(host, port))[0], 200)


if __name__ == "__main__":
    if not has_ipv6():
        print("*** no IPv6 on this machine: its tests are skipped", file=sys.stderr)
    unittest.main()
