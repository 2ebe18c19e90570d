"""Quotas of a real daemon: each refusal through gRPC with its details, what opens it again, and that accounts add up."""

import hashlib
import json
import pathlib
import signal
import tempfile
import unittest

import harness
from harness import BUNDLED, BUNDLED_FOLDER, PATIENCE_SECONDS, Daemon, greedy, long_request, sample_sum, wait_until
from tenant_client import KEYS, TenantClient, config, refusal

import grpc
from google.rpc import error_details_pb2
from kvasir.v1 import session_pb2


def key_of(name):
    return {"key_sha256": [hashlib.sha256(KEYS[name].encode()).hexdigest()]}


def details_of(error):
    """(QuotaFailure's violations, RetryInfo's delay in ms or None, pushback in ms or None)."""
    quota = harness.error_details(error, error_details_pb2.QuotaFailure)
    retry = harness.error_details(error, error_details_pb2.RetryInfo)
    pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
    return (list(quota.violations) if quota else [], retry.retry_delay.ToMilliseconds() if retry else None,
            int(pushback) if pushback else None)


def session_of(request, session_id):
    request.session_id = session_id
    return request


class QuotasTest(unittest.TestCase):
    def daemon(self, limits, **options):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.config_file = pathlib.Path(folder.name) / "kvasird.json"
        self.config_file.write_text(self.config_text(limits, **options))
        return Daemon("--config", self.config_file, models={BUNDLED: BUNDLED_FOLDER})

    @staticmethod
    def config_text(limits, scheduler=None):
        text = json.loads(config({"team-a": {**key_of("team-a"), "limits": limits}, "team-b": key_of("team-b")}))
        if scheduler:
            text["models"][0]["scheduler"] = scheduler
        return json.dumps(text)

    def assert_quota(self, error, quota, retryable):
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if retryable else grpc.StatusCode.FAILED_PRECONDITION
        self.assertEqual(error.code(), code, error.details())
        violations, delay, pushback = details_of(error)
        self.assertEqual([violation.subject for violation in violations], ["tenant:team-a"])
        self.assertIn(quota, violations[0].description)
        self.assertIn("the limit", violations[0].description)
        if retryable:
            self.assertGreater(delay, 0)
            self.assertEqual(pushback, delay)
        else:
            self.assertEqual((delay, pushback), (None, None))
        return delay

    def rejected(self, daemon, reason):
        return sample_sum(daemon.metrics(), "kvasir_requests_rejected_total", tenant="team-a", reason=reason)

    def test_concurrent_requests(self):
        with self.daemon({"max_requests": 2}) as daemon, TenantClient(daemon, KEYS["team-a"]) as a, \
                TenantClient(daemon, KEYS["team-b"]) as b:
            streams = [a.generation.Generate(long_request(n=1), timeout=PATIENCE_SECONDS) for _ in range(2)]
            for stream in streams:
                next(stream)
            self.assert_quota(refusal(a.generate, greedy(max_tokens=1)), "max_requests", True)
            b.generate(greedy(max_tokens=1))
            self.assertEqual(sample_sum(daemon.metrics(), "kvasir_tenant_requests", tenant="team-a", state="running"), 2)
            streams[0].cancel()
            wait_until(lambda: a.requests().total == 1, "the request ended")
            a.generate(greedy(max_tokens=1))
            # Who has seen the end of a request finds its place free.
            for _ in range(20):
                a.generate(greedy(max_tokens=1))
            self.assertEqual(self.rejected(daemon, "concurrency"), 1)
            streams[1].cancel()
            wait_until(lambda: sample_sum(daemon.metrics(), "kvasir_tenant_requests", tenant="team-a") == 0, "all ended")

    def test_queued_requests_and_tokens(self):
        for limits, quota in (({"max_waiting": 1}, "max_waiting"), ({"max_waiting_tokens": 400}, "max_waiting_tokens")):
            with self.subTest(quota=quota), self.daemon(limits, scheduler={"max_running": 1}) as daemon, \
                    TenantClient(daemon, KEYS["team-a"]) as a:
                running = a.generation.Generate(long_request(n=1), timeout=PATIENCE_SECONDS)
                next(running)
                waiting = a.generation.Generate(greedy(list(range(100, 400)), max_tokens=1), timeout=PATIENCE_SECONDS)
                wait_until(lambda: a.requests().total == 2, "one waits")
                self.assert_quota(refusal(a.generate, greedy(list(range(100, 300)), max_tokens=1)), quota, True)
                self.assertEqual(self.rejected(daemon, "queue_quota"), 1)
                running.cancel()
                self.assertTrue(list(waiting)[-1].HasField("final"))
                a.generate(greedy(list(range(100, 300)), max_tokens=1))

    def test_tokens_per_minute(self):
        prompt = list(range(100, 110))
        with self.daemon({"tokens_per_minute": 4000}) as daemon, TenantClient(daemon, KEYS["team-a"]) as a:
            self.assert_quota(refusal(a.generate, long_request(n=4, max_tokens=1500)), "tokens_per_minute", False)
            streams = [a.generation.Generate(long_request(n=1),
                                             timeout=PATIENCE_SECONDS) for _ in range(2)]  # 1900 each, and prompts
            for stream in streams:
                next(stream)
            delay = self.assert_quota(refusal(a.generate, greedy(prompt, max_tokens=800)), "tokens_per_minute", True)
            self.assertLess(delay, 12_000)  # about 620 of 4000 a minute
            # What they did not use comes back.
            for stream in streams:
                stream.cancel()
            wait_until(lambda: a.requests().total == 0, "all ended")
            a.generate(greedy(prompt, max_tokens=800))
            self.assertEqual(self.rejected(daemon, "rate"), 2)

    def test_kv_bytes_and_sessions(self):
        block_bytes = 0
        with self.daemon({}) as daemon:
            block_bytes = int(sample_sum(daemon.metrics(), "kvasir_kv_block_bytes"))
        with self.daemon({"max_kv_bytes": 4 * block_bytes, "max_sessions": 1}) as daemon, \
                TenantClient(daemon, KEYS["team-a"]) as a, TenantClient(daemon, KEYS["team-b"]) as b:
            prompt = list(range(100, 200))
            self.assert_quota(refusal(a.generate, greedy(prompt, max_tokens=100)), "max_kv_bytes", False)
            b.generate(greedy(prompt, max_tokens=100))
            # Each fits alone: they wait for one another and none fails.
            streams = [a.generation.Generate(greedy(prompt, max_tokens=20), timeout=PATIENCE_SECONDS) for _ in range(4)]
            for stream in streams:
                self.assertTrue(list(stream)[-1].HasField("final"))
            a.generate(session_of(greedy(prompt[:10], max_tokens=2), "one"))
            wait_until(lambda: sample_sum(daemon.metrics(), "kvasir_kv_tenant_bytes", tenant="team-a") == block_bytes,
                       "the session alone holds a block")
            self.assertEqual(sample_sum(daemon.metrics(), "kvasir_tenant_sessions", tenant="team-a"), 1)
            error = refusal(a.sessions.ForkSession, session_pb2.ForkSessionRequest(session_id="one", new_session_id="two"))
            self.assert_quota(error, "max_sessions", False)
            a.generate(session_of(greedy(prompt[:10], max_tokens=2), "two"))
            self.assertEqual([session.session_id for session in a.list_sessions().sessions], ["two"])
            self.assertEqual(self.rejected(daemon, "kv_quota"), 1)

    def test_a_reload_changes_quotas_and_their_gauges(self):
        with self.daemon({"max_requests": 1}) as daemon, TenantClient(daemon, KEYS["team-a"]) as a:
            self.assertEqual(sample_sum(daemon.metrics(), "kvasir_tenant_quota", tenant="team-a", quota="max_requests"), 1)
            stream = a.generation.Generate(long_request(n=1), timeout=PATIENCE_SECONDS)
            next(stream)
            self.assert_quota(refusal(a.generate, greedy(max_tokens=1)), "max_requests", True)
            self.config_file.write_text(self.config_text({"max_requests": 2, "max_sessions": 0}))
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: "reloaded tenants" in daemon.log(), "the reload is done")
            a.generate(greedy(max_tokens=1))
            self.assert_quota(refusal(a.generate, session_of(greedy(max_tokens=1), "s")), "max_sessions", False)
            samples = daemon.metrics()
            self.assertEqual(sample_sum(samples, "kvasir_tenant_quota", tenant="team-a", quota="max_requests"), 2)
            self.assertEqual(sample_sum(samples, "kvasir_tenant_quota"), 2)
            next(stream)
            stream.cancel()

    def test_accounts_equal_what_was_sent(self):
        with self.daemon({}) as daemon, TenantClient(daemon, KEYS["team-a"]) as a, \
                TenantClient(daemon, KEYS["team-b"]) as b:
            sent = {}
            for name, client in (("team-a", a), ("team-b", b)):
                prompt = cached = generated = 0
                byte_seconds = 0.0
                # Long: the tenant's clock stops at the end of a request's last step, the request's own a little before.
                for length in (40, 90, 90):
                    usage = client.generate(greedy(list(range(100, 100 + length)), max_tokens=10 * length)).usage
                    prompt += usage.prompt_tokens
                    cached += usage.cached_tokens
                    generated += usage.completion_tokens
                    byte_seconds += usage.kv_byte_seconds
                sent[name] = (prompt, cached, generated, byte_seconds)
                self.assertEqual((prompt, generated), (220, 2200))
                self.assertGreater(cached, 0)
            wait_until(lambda: sample_sum(daemon.metrics(), "kvasir_kv_tenant_bytes") == 0, "the accounts are settled")
            samples = daemon.metrics()
            for name, (prompt, cached, generated, byte_seconds) in sent.items():
                read = lambda metric: sample_sum(samples, metric, tenant=name)
                self.assertEqual(read("kvasir_prompt_tokens_total"), prompt)
                self.assertEqual(read("kvasir_prompt_tokens_cached_total"), cached)
                self.assertEqual(read("kvasir_generation_tokens_total"), generated)
                self.assertAlmostEqual(read("kvasir_kv_byte_seconds_total") / byte_seconds, 1, delta=0.05)


if __name__ == "__main__":
    unittest.main()
