"""SparQ over the wire: what was decoded sparsely and read, per request and in /metrics, against the formula; `auto` and the
operator's limits; prefix hits, sessions and forks."""

import contextlib
import hashlib
import json
import unittest
from concurrent.futures import ThreadPoolExecutor

import harness
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, greedy, sample_sum
from tenant_client import KEYS, TenantClient, refusal

import grpc
from kvasir.v1 import generation_pb2 as pb
from kvasir.v1 import session_pb2

LAYERS, KV_HEADS, HEAD_DIM, BLOCK_TOKENS = 8, 2, 32, 32  # of the bundled model and the pool
PROMPT = next(p for p in harness.golden()["prompts"] if p["name"] == "tokens600")["ids"]
RANK, TOP_K = 8, 128
OUTPUT = 24


def config(attention=None, tenants=None, sparq_keys="same", **kv_cache):
    """attention: fields of every model; tenants: {name: fields}."""
    model = {"name": BUNDLED, "path": str(BUNDLED_FOLDER), "compute_type": "f32", "attention": attention or {},
             "kv_cache": {"capacity_bytes": "64MiB", "sparq_keys": sparq_keys, "block_tokens": BLOCK_TOKENS, **kv_cache}}
    return json.dumps({
        "models": [model],
        "tenants": [{"id": name, "key_sha256": [hashlib.sha256(KEYS[name].encode()).hexdigest()], **fields}
                    for name, fields in (tenants or {}).items()]})


def sparq(ids=None, max_tokens=OUTPUT, fields=None, **request_fields):
    asked = pb.SparqAttention(**{"rank": RANK, "top_k": TOP_K, "min_tokens": 0, **(fields or {})})
    return greedy(ids or PROMPT, max_tokens=max_tokens, attention=pb.Attention(sparq=asked), **request_fields)


def auto(**fields):
    return greedy(PROMPT, max_tokens=OUTPUT, attention=pb.Attention(auto=pb.AutoAttention(**fields)))


def dense(**fields):
    return greedy(PROMPT, max_tokens=OUTPUT, attention=pb.Attention(dense=pb.DenseAttention()), **fields)


def sparq_bytes(positions, element, int8_columns=False):
    """Of K/V, for one generated token that attends to so many positions."""
    blocks, tail = divmod(positions, BLOCK_TOKENS)
    # int8 columns have one f32 scale per dimension and block; behind the last full block, K's own rows are ranked.
    block = RANK * (BLOCK_TOKENS + 4) if int8_columns else RANK * BLOCK_TOKENS * element
    per_head = 2 * TOP_K * HEAD_DIM * element + blocks * block + tail * RANK * element
    return LAYERS * KV_HEADS * per_head


def dense_bytes(positions, element):
    return LAYERS * KV_HEADS * 2 * HEAD_DIM * element * positions


class BytesTest(unittest.TestCase):
    def compare(self, element, int8_columns, **kv_cache):
        """A dense and a sparse request at the same time."""
        with Daemon(config=config(prefix_cache=False, **kv_cache)) as daemon:

            def read(path):
                return sample_sum(daemon.metrics(), "kvasir_attention_kv_bytes_read_total", path=path)

            before = {path: read(path) for path in ("dense", "sparq")}
            with ThreadPoolExecutor() as pool:
                replies = pool.map(daemon.generate, [sparq(), dense()])
            sparse, exact = (reply.usage for reply in replies)
            # The first token comes from the prompt, and nothing attends from the last one.
            lengths = range(len(PROMPT) + 1, len(PROMPT) + OUTPUT)
            expected = sum(sparq_bytes(n, element, int8_columns) for n in lengths)
            saved = sum(dense_bytes(n, element) for n in lengths) - expected
            self.assertGreater(saved, 0)
            self.assertEqual(sparse.sparse_tokens, len(lengths))
            self.assertEqual(sparse.kv_bytes_read_if_dense - sparse.kv_bytes_read, saved)
            self.assertEqual(exact.sparse_tokens, 0)
            self.assertEqual(exact.kv_bytes_read_if_dense, exact.kv_bytes_read)

            self.assertEqual(read("sparq") - before["sparq"], expected)
            self.assertEqual(read("dense") - before["dense"], exact.kv_bytes_read + sparse.kv_bytes_read - expected)

    def test_f32(self):
        self.compare(4, False)

    def test_bf16(self):
        self.compare(2, False, element_type="bf16")

    def test_int8_columns(self):
        self.compare(2, True, element_type="bf16", sparq_keys="int8")


class ContinuationTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(config=config())

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def test_a_prefix_hit_and_a_cold_cache_say_the_same(self):
        ids = list(reversed(PROMPT))
        cold = self.daemon.generate(sparq(ids))
        self.assertEqual(cold.usage.cached_tokens, 0)
        warm = self.daemon.generate(sparq(ids))
        self.assertGreater(warm.usage.cached_tokens, len(ids) - 2 * BLOCK_TOKENS)
        self.assertEqual(warm.token_ids, cold.token_ids)
        self.assertEqual(warm.usage.sparse_tokens, OUTPUT - 1)

    def test_so_few_picks_change_the_answer(self):
        # Else the tests that compare sparse answers would hold for dense attention too.
        few = {"rank": 1, "top_k": 2}
        self.assertNotEqual(self.daemon.generate(sparq(fields=few)).token_ids, self.daemon.generate(dense()).token_ids)

    def test_dense_up_to_min_tokens(self):
        usage = self.daemon.generate(sparq(fields={"min_tokens": len(PROMPT) + 10})).usage
        self.assertEqual(usage.sparse_tokens, OUTPUT - 10)

    def test_a_sparse_turn_of_a_session_equals_one_request(self):
        few = {"rank": 2, "top_k": 16}
        first = self.daemon.generate(greedy(PROMPT[:500], max_tokens=20, session_id="turns"))
        second = self.daemon.generate(sparq(PROMPT[500:540], fields=few, session_id="turns"))
        self.assertGreaterEqual(second.usage.cached_tokens, 500 + 20 - 1)
        whole = self.daemon.generate(sparq(PROMPT[:500] + first.token_ids[0] + PROMPT[500:540], fields=few))
        self.assertEqual(second.token_ids, whole.token_ids)
        self.assertEqual(second.usage.sparse_tokens, whole.usage.sparse_tokens)

    def test_a_fork_of_a_sparse_session_goes_on_alike(self):
        few = {"rank": 2, "top_k": 16}
        self.daemon.generate(sparq(PROMPT[:300], fields=few, session_id="trunk"))
        self.daemon.sessions.ForkSession(session_pb2.ForkSessionRequest(session_id="trunk", new_session_id="branch"))
        trunk, branch = (self.daemon.generate(sparq(PROMPT[300:340], fields=few, session_id=name))
                         for name in ("trunk", "branch"))
        self.assertEqual(trunk.token_ids, branch.token_ids)
        self.assertGreaterEqual(branch.usage.cached_tokens, 300 + OUTPUT - 1)


class PolicyTest(unittest.TestCase):
    def assert_refused(self, client, request, *texts):
        error = refusal(client.generate, request)
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        for text in texts:
            self.assertIn(text, error.details())

    def test_auto_is_sparse_where_it_gains(self):
        with Daemon(config=config({"min_tokens": len(PROMPT) + 4})) as daemon:
            self.assertEqual(daemon.generate(auto()).usage.sparse_tokens, OUTPUT - 4)
            self.assertEqual(daemon.generate(auto(compression=4)).usage.sparse_tokens, OUTPUT - 4)
            # Reading half is not enough just above min_tokens: choosing costs as well.
            self.assertEqual(daemon.generate(auto(compression=2)).usage.sparse_tokens, 0)
            nothing_asked = greedy(PROMPT, max_tokens=OUTPUT)
            self.assertEqual(daemon.generate(nothing_asked).usage.sparse_tokens, 0)
        # By default it starts behind this model's whole context.
        with Daemon(config=config()) as daemon:
            self.assertEqual(daemon.generate(auto()).usage.sparse_tokens, 0)

    def test_every_model_takes_auto(self):
        with Daemon(config=config({"min_tokens": 0}, sparq_keys="off")) as daemon:
            self.assertEqual(daemon.generate(auto()).usage.sparse_tokens, 0)
            self.assert_refused(daemon, sparq(), "attention.sparq", "kv_cache.sparq_keys")

    def test_mode_auto_is_for_requests_that_ask_for_nothing(self):
        with Daemon(config=config({"mode": "auto", "min_tokens": 0})) as daemon:
            self.assertEqual(daemon.generate(greedy(PROMPT, max_tokens=OUTPUT)).usage.sparse_tokens, OUTPUT - 1)
            self.assertEqual(daemon.generate(dense()).usage.sparse_tokens, 0)

    def test_limits_of_a_model(self):
        limits = {"max_compression": 4, "min_rank": 4, "min_top_k": 64}
        with Daemon(config=config(limits)) as daemon:
            self.assert_refused(daemon, auto(compression=8), "attention.auto.compression", "attention.max_compression")
            self.assert_refused(daemon, sparq(fields={"compression": 5}), "attention.sparq.compression", "4")
            self.assert_refused(daemon, sparq(fields={"rank": 3}), "attention.sparq.rank", "attention.min_rank")
            self.assert_refused(daemon, sparq(fields={"top_k": 63}), "attention.sparq.top_k", "attention.min_top_k")
            self.assert_refused(daemon, sparq(fields={"ranking": pb.SPARQ_RANKING_EXACT}), "attention.sparq.ranking",
                                "attention.allow_experimental")
            self.assertEqual(daemon.generate(sparq()).usage.sparse_tokens, OUTPUT - 1)

    def test_limits_of_a_tenant(self):
        tenants = {"team-a": {"attention": {"allow_sparq": False}}, "team-b": {"attention": {"max_compression": 2}}}
        with contextlib.ExitStack() as stack:
            daemon = stack.enter_context(Daemon(config=config({"min_tokens": 0}, tenants)))
            a, b = (stack.enter_context(TenantClient(daemon, KEYS[name])) for name in tenants)
            self.assert_refused(a, sparq(), "attention.allow_sparq")
            self.assertEqual(a.generate(auto()).usage.sparse_tokens, 0)
            self.assert_refused(b, auto(compression=4), "attention.auto.compression", "attention.max_compression")
            self.assertEqual(b.generate(auto(compression=2)).usage.sparse_tokens, OUTPUT - 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
