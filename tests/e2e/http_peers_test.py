"""The HTTP port and peers that are many, slow, hostile or behind TLS: each is answered or refused in words, and afterwards
the daemon has the memory and descriptors that it had before."""

import http.client
import json
import os
import pathlib
import socket
import ssl
import subprocess
import tempfile
import threading
import unittest

from harness import BUNDLED, BUNDLED_FOLDER, Daemon, PATIENCE_SECONDS, greedy, sample_sum, wait_until
from http_test import PROMPT, call, host_and_port, stream
from tenant_client import KEYS, config
from tls_test import Authority


def connect(daemon):
    return socket.create_connection(host_and_port(daemon), timeout=PATIENCE_SECONDS)


def read_all(peer):
    data = b""
    try:
        while piece := peer.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def resident_bytes(daemon):
    for line in pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


class HostilePeersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        stream(cls.daemon, prompt=PROMPT, max_tokens=4)
        cls.daemon.generate(greedy(max_tokens=2))  # its connection stays open
        cls.descriptors = descriptors(cls.daemon)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def tearDown(self):
        wait_until(lambda: descriptors(self.daemon) <= self.descriptors, "as many descriptors as before")
        self.assertEqual(call(self.daemon, "GET", "/health")[0], 200)

    def test_bodies_of_100_megabytes_are_refused_unread(self):
        before = resident_bytes(self.daemon)
        for head in (b"Content-Length: 100000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5f5e100\r\n"):
            with connect(self.daemon) as peer:
                peer.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + head)
                try:
                    for _ in range(100):
                        peer.sendall(b"x" * 1_000_000)
                except OSError:
                    pass  # refused before all of it was sent
                answer = read_all(peer)
            self.assertTrue(answer == b"" or answer.startswith(b"HTTP/1.1 413 "), answer[:100])
        self.assertLess(resident_bytes(self.daemon) - before, 64 << 20)

    def test_header_floods(self):
        for flood in (b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 10000, b"GET /" + b"a" * 100000,
                      b"GET /health HTTP/1.1\r\nA: " + b"b" * 100000):
            with connect(self.daemon) as peer:
                try:
                    peer.sendall(flood)
                except OSError:
                    pass
                answer = read_all(peer)
            self.assertTrue(answer == b"" or answer.startswith(b"HTTP/1.1 431 "), answer[:100])

    def test_garbage(self):
        for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n", b"\x00" * 1000,
                        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET\r\n\r\n", b"\r\n" * 5000, os.urandom(4096) + b"\r\n\r\n"):
            with connect(self.daemon) as peer:
                try:
                    peer.sendall(garbage)
                    peer.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                answer = read_all(peer)
            self.assertTrue(answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:100])

    def test_slow_peers_hold_up_nobody(self):
        slow = []
        for i in range(100):
            peer = connect(self.daemon)
            peer.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 50\r\n\r\n{" if i % 2 else b"A"))
            slow.append(peer)
        self.assertEqual(call(self.daemon, "POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 2})[0], 200)
        for peer in slow:
            self.assertTrue(read_all(peer).startswith(b"HTTP/1.1 408 "))
            peer.close()

    def test_pipelined_requests_are_answered_in_order(self):
        with connect(self.daemon) as peer:
            bodies = [json.dumps({"prompt": PROMPT, "max_tokens": n, "ignore_eos": True, "temperature": 0}).encode()
                      for n in (3, 1, 2)]
            peer.sendall(b"".join(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
                                  % (len(body), body) for body in bodies)
                         + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answers = read_all(peer).split(b"HTTP/1.1 200 OK\r\n")[1:]
        tokens = [json.loads(answer.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] for answer in answers[:3]]
        self.assertEqual(tokens, [3, 1, 2])
        self.assertIn(b'"ok"', answers[3])

    def test_a_thousand_idle_connections(self):
        peers = []
        for _ in range(1000):
            peers.append(connect(self.daemon))
        for peer in peers[::50]:
            peer.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertTrue(peer.recv(4096).startswith(b"HTTP/1.1 200 OK"))
        self.assertEqual(call(self.daemon, "POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 2})[0], 200)
        for peer in peers:
            peer.close()

    def test_many_streams_of_both_doors_and_scrapes_at_once(self):
        failures, texts = [], set()

        def over_http():
            _, events = stream(self.daemon, prompt=PROMPT, temperature=0, ignore_eos=True, max_tokens=16)
            texts.add("".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]))

        def over_grpc():
            texts.add(self.daemon.generate(greedy(text=PROMPT, max_tokens=16), timeout=PATIENCE_SECONDS).text[0])

        def scrape():
            for _ in range(5):
                self.daemon.metrics()
                assert call(self.daemon, "GET", "/metrics")[0] == 200

        def guarded(work):
            try:
                work()
            except Exception as error:  # pylint: disable=broad-except
                failures.append(error)

        threads = [threading.Thread(target=guarded, args=(work,))
                   for work in [over_http] * 64 + [over_grpc] * 64 + [scrape] * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * PATIENCE_SECONDS)
        self.assertEqual(failures, [])
        self.assertEqual(len(texts), 1)  # greedy, whatever the batch and the door
        self.daemon.wait_kv_idle()


class SlowReaderTest(unittest.TestCase):
    def test_a_slow_reader_is_paused_then_ended_and_slows_nobody(self):
        settings = json.dumps({"models": [{"name": BUNDLED, "path": str(BUNDLED_FOLDER), "kv_cache": {"capacity_bytes": "128MiB"},
                                           "scheduler": {"stream_outbox": 4, "stall_limit_seconds": 1}}]})
        body = json.dumps({"prompt": PROMPT, "max_tokens": 1900, "n": 16, "ignore_eos": True, "temperature": 1, "seed": 7,
                           "logprobs": 20, "stream": True, "request_id": "slow"}).encode()
        with Daemon(config=settings) as daemon, socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before connecting: the window is offered then
            peer.settimeout(PATIENCE_SECONDS)
            peer.connect(host_and_port(daemon))
            peer.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            self.assertTrue(peer.recv(1000).startswith(b"HTTP/1.1 200 OK"))
            wait_until(lambda: [each for each in daemon.requests() if each.request_id == "slow" and each.state == "paused"],
                       "the slow reader's request is paused")
            self.assertEqual(call(daemon, "POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 50})[0], 200)
            wait_until(lambda: not daemon.requests(), "the stalled request was ended")
            daemon.wait_kv_idle()
            # What it still reads ends with the reason.
            self.assertIn(b'"type":"rate_limit_error"', read_all(peer)[-2000:])
            self.assertGreater(sample_sum(daemon.metrics(), "kvasir_slow_reader_pauses_total", model=BUNDLED), 0)


class HttpsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.authority = Authority(cls.folder.name)
        cls.server = cls.authority.issue("server")
        cls.client = cls.authority.issue("client", "/O=Example/CN=team-a")
        cls.foreign = Authority(cls.folder.name, "stranger").issue("foreign", "/O=Example/CN=team-a")
        key_file = pathlib.Path(cls.folder.name, "team-b.key.txt")
        key_file.write_text(KEYS["team-b"] + "\n")
        cls.daemon = Daemon(config=config(
            {"team-a": {"certificate_subjects": ["CN=team-a,O=Example"]}, "team-b": {"key_file": str(key_file)}},
            server={"tls": {"certificate_file": str(cls.server[0]), "private_key_file": str(cls.server[1]),
                            "client_ca_file": str(cls.authority.certificate)}}))

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()
        cls.folder.cleanup()

    def status(self, headers=None, certificate=None):
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        context.set_alpn_protocols(["h2", "http/1.1"])
        if certificate is not None:
            context.load_cert_chain(*map(str, certificate))
        connection = http.client.HTTPSConnection(*host_and_port(self.daemon), timeout=PATIENCE_SECONDS, context=context)
        try:
            connection.request("POST", "/v1/completions", json.dumps({"prompt": PROMPT, "max_tokens": 2}), headers or {})
            self.assertEqual(connection.sock.selected_alpn_protocol(), "http/1.1")
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def test_keys_and_certificates(self):
        self.assertEqual(self.status({"x-api-key": KEYS["team-b"]}), 200)
        self.assertEqual(self.status(certificate=self.client), 200)
        self.assertEqual(self.status(), 401)
        with self.assertRaises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            self.status(certificate=self.foreign)

    def test_plain_text_old_tls_and_garbage_get_no_connection(self):
        for data in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(1000), b"\x16\x03\x01" + os.urandom(500)):
            with connect(self.daemon) as peer:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                self.assertNotIn(b"HTTP/1.1 200", read_all(peer))
        for version, accepted in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
            shake = subprocess.run(
                ["openssl", "s_client", "-connect", self.daemon.http_address, version, "-cipher", "ALL:@SECLEVEL=0",
                 "-CAfile", str(self.authority.certificate)],
                input="", capture_output=True, text=True, errors="replace", timeout=PATIENCE_SECONDS, check=False)
            self.assertEqual("Verify return code: 0" in shake.stdout and "Cipher is (NONE)" not in shake.stdout, accepted,
                             version)
        self.assertEqual(self.status({"x-api-key": KEYS["team-b"]}), 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
