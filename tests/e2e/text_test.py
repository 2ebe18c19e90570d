"""Long prompts beside others: by the order in which calls end, never by a clock."""

import http.client
import json
import pathlib
import random
import threading
import unittest

import grpc

import harness
import two_tenants
from harness import BUNDLED_FOLDER, Daemon, greedy, wait_until
from tenant_client import TenantClient

from kvasir.v1 import generation_pb2

WORDS = (pathlib.Path(BUNDLED_FOLDER) / "config.json").read_text().split() + "the quick brown fox jumps over a dog".split()


def long_text(megabytes=1.0, seed=1):
    """Text that no cache of words makes cheap."""
    chance = random.Random(seed)
    out, size = [], 0
    while size < megabytes * 1_000_000:
        out.append("".join(chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(8)) + " " + chance.choice(WORDS))
        size += len(out[-1]) + 1
    return " ".join(out)


TEXT = long_text()


def tokenize(text=TEXT):
    return generation_pb2.TokenizeRequest(text=text)


class Ends:
    """Names of calls in the order in which they ended."""

    def __init__(self):
        self._changed = threading.Condition()
        self.names = []

    def note(self, name):
        with self._changed:
            self.names.append(name)
            self._changed.notify_all()

    def watch(self, name, future):
        future.add_done_callback(lambda _: self.note(name))
        return future

    def wait(self, count):
        with self._changed:
            self._changed.wait_for(lambda: len(self.names) >= count, harness.PATIENCE_SECONDS)
            return list(self.names)


class LongPromptsTest(unittest.TestCase):
    def test_short_requests_end_before_ten_long_ones(self):
        with Daemon() as daemon:
            def shorts_end_first():
                ends = Ends()
                longs = [ends.watch("long", daemon.generation.Tokenize.future(tokenize())) for _ in range(10)]
                for _ in range(5):
                    daemon.generate(greedy(text="Once upon a time", max_tokens=2))
                    ends.note("short")
                names = ends.wait(15)
                self.assertEqual(names.count("long"), 10)
                counts = {len(future.result().token_ids) for future in longs}
                self.assertEqual(len(counts), 1)
                return names[-1] == "long"

            # Again where this client had no core while the long ones were read.
            wait_until(shorts_end_first, "short requests end before long ones")

    def test_over_http_too(self):
        with Daemon() as daemon:
            host, port = daemon.http_address.rsplit(":", 1)
            def post(ends, name, path, body):
                connection = http.client.HTTPConnection(host, int(port), timeout=harness.PATIENCE_SECONDS)
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                status = connection.getresponse().status
                ends.note(name)
                connection.close()
                self.assertEqual(status, 200)

            def shorts_end_first():
                ends = Ends()
                threads = [threading.Thread(target=post, args=(ends, "long", "/tokenize", {"prompt": TEXT})) for _ in range(10)]
                for thread in threads:
                    thread.start()
                post(ends, "short", "/v1/completions", {"prompt": "Once upon a time", "max_tokens": 2})
                post(ends, "short", "/tokenize", {"prompt": "Once upon a time"})
                for thread in threads:
                    thread.join()
                return ends.wait(12)[-1] == "long"

            wait_until(shorts_end_first, "short requests end before long ones")

    def test_a_tenants_flood_puts_off_another_by_what_runs(self):
        with Daemon(config=two_tenants.config(BUNDLED_FOLDER)) as daemon:
            ends = Ends()
            with TenantClient(daemon, two_tenants.KEYS["a"]) as a, TenantClient(daemon, two_tenants.KEYS["b"]) as b:
                calls = [ends.watch("a", a.generation.Tokenize.future(tokenize())) for _ in range(12)]
                calls.append(ends.watch("b", b.generation.Tokenize.future(tokenize())))
                names = ends.wait(13)
                for call in calls:
                    call.result()
            self.assertLess(names.index("b"), 8, names)

    def test_a_client_that_leaves_takes_its_prompts_out(self):
        with Daemon() as daemon:
            # Beyond the context: each that is read to its end is refused, and counted.
            request = greedy(text=TEXT, max_tokens=1)

            def most_were_not_read():
                calls = [daemon.generation.Generate(request) for _ in range(30)]
                daemon.generate(greedy(text="Once upon a time", max_tokens=1))
                for call in calls:
                    call.cancel()
                for call in calls:
                    with self.assertRaises(grpc.RpcError):
                        next(iter(call))
                daemon.generation.Tokenize(tokenize())  # behind whatever of them is left
                cancelled = [value for name, value in daemon.metrics().items()
                             if name.startswith("kvasir_requests_total") and 'code="CANCELLED"' in name]
                return sum(cancelled) > 10

            # Again where this client had no core while they were read.
            wait_until(most_were_not_read, "prompts of a client that left are not read")

    def test_abort_finds_what_waits_to_be_read(self):
        """By the client's own id, in the message, the body or a header; all of them wait behind long texts."""
        with Daemon() as daemon:
            host, _, port = daemon.http_address.rpartition(":")
            answers = {}

            def post(name, headers, **body):
                connection = http.client.HTTPConnection(host, int(port), timeout=harness.PATIENCE_SECONDS)
                connection.request("POST", "/v1/completions", json.dumps({"prompt": TEXT, "max_tokens": 1, **body}), headers)
                response = connection.getresponse()
                answers[name] = (response.status, response.read().decode())
                connection.close()

            longs = [daemon.generation.Tokenize.future(tokenize()) for _ in range(20)]
            threads = [threading.Thread(target=post, args=("by-header", {"x-request-id": "by-header"})),
                       threading.Thread(target=post, args=("by-body", {"x-request-id": "not-this"}), kwargs={"request_id": "by-body"})]
            for thread in threads:
                thread.start()
            call = daemon.generation.Generate(greedy(text=TEXT, max_tokens=1, request_id="by-message"))

            def abort(request_id):
                try:
                    daemon.generation.Abort(generation_pb2.AbortRequest(request_id=request_id))
                    return True
                except grpc.RpcError as error:
                    self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)
                    return False  # it has not arrived

            for request_id in ("by-header", "by-body", "by-message"):
                harness.wait_until(lambda: abort(request_id), f"{request_id} is found")
            for thread in threads:
                thread.join(harness.PATIENCE_SECONDS)
            with self.assertRaises(grpc.RpcError) as caught:
                next(call)
            self.assertFalse(longs[-1].done())
            self.assertEqual(caught.exception.code(), grpc.StatusCode.CANCELLED, caught.exception.details())
            for status, text in answers.values():
                self.assertGreaterEqual(status, 400)
                self.assertIn("aborted by request", text)
            self.assertFalse(abort("not-this"))
            for long in longs:
                long.cancel()

    def test_draining_ends_what_waits(self):
        with Daemon() as daemon:
            ends = Ends()
            calls = [ends.watch("long", daemon.generation.Tokenize.future(tokenize())) for _ in range(5)]
            daemon.generate(greedy(text="Once upon a time", max_tokens=1))  # they are all there
            daemon.signal()
            for call in calls:
                self.assertGreater(len(call.result(harness.PATIENCE_SECONDS).token_ids), 1000)
            self.assertEqual(daemon.wait(), 0)

    def test_a_full_queue_refuses_with_a_time_to_come_back(self):
        config = json.loads(two_tenants.config(BUNDLED_FOLDER))
        config["text"] = {"max_waiting": 16}
        with Daemon(config=json.dumps(config)) as daemon:
            with TenantClient(daemon, two_tenants.KEYS["a"]) as a, TenantClient(daemon, two_tenants.KEYS["b"]) as b:
                calls = [a.generation.Tokenize.future(tokenize()) for _ in range(30)]
                b.generation.Tokenize(tokenize("short"))
                codes = [call.code() for call in calls]
                self.assertIn(grpc.StatusCode.RESOURCE_EXHAUSTED, codes)
                self.assertIn(grpc.StatusCode.OK, codes)
                refusal = next(call for call in calls if call.code() != grpc.StatusCode.OK)
                self.assertIn("text.max_waiting", refusal.details())


if __name__ == "__main__":
    unittest.main()
