"""One daemon, one model: reflection, streaming, goldens, logprobs, stops, n, cancel, deadline, prefix cache."""

import threading
import time
import unittest

import harness
from harness import BUNDLED, Daemon, greedy, long_request, wait_until

import grpc
from google.protobuf import descriptor_pb2
from grpc.reflection.v1 import reflection_pb2 as reflection_v1, reflection_pb2_grpc as reflection_v1_rpc
from grpc.reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from kvasir.v1 import generation_pb2 as pb


class GenerationTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(compute_type="f32")
        cls.golden = harness.golden()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def prompt(self, name):
        return next(p for p in self.golden["prompts"] if p["name"] == name)

    # --- reflection, as grpcurl asks it ---

    def reflect(self, **question):
        """The answer, which must be the same in both versions of the protocol."""
        answers = []
        for messages, rpc in ((reflection_pb2, reflection_pb2_grpc), (reflection_v1, reflection_v1_rpc)):
            stub = rpc.ServerReflectionStub(self.daemon.channel)
            requests = iter([messages.ServerReflectionRequest(**question)])
            answers.append(next(stub.ServerReflectionInfo(requests, timeout=harness.PATIENCE_SECONDS)))
        for kind in ("file_descriptor_response", "list_services_response"):
            old, new = (getattr(answer, kind) for answer in answers)
            key = "file_descriptor_proto" if kind.startswith("file") else "service"
            self.assertEqual({getattr(each, "name", each) for each in getattr(old, key)},
                             {getattr(each, "name", each) for each in getattr(new, key)})
        return answers[1]

    def test_reflection_says_what_it_does_not_know(self):
        for question in ({"file_containing_symbol": "no.such.Symbol"}, {"file_by_filename": "none.proto"},
                         {"all_extension_numbers_of_type": "none"}, {}):
            stub = reflection_v1_rpc.ServerReflectionStub(self.daemon.channel)
            two = [reflection_v1.ServerReflectionRequest(**question), reflection_v1.ServerReflectionRequest(list_services="")]
            first, second = stub.ServerReflectionInfo(iter(two), timeout=harness.PATIENCE_SECONDS)
            self.assertIn(first.error_response.error_code, (3, 5), question)
            self.assertTrue(second.list_services_response.service)

    def test_reflection_lists_the_services_and_their_methods(self):
        names = {s.name for s in self.reflect(list_services="").list_services_response.service}
        for service in ("kvasir.v1.GenerationService", "kvasir.v1.SessionService", "kvasir.v1.AdminService",
                        "grpc.health.v1.Health"):
            self.assertIn(service, names)
        files = self.reflect(file_containing_symbol="kvasir.v1.GenerationService").file_descriptor_response
        methods = set()
        for data in files.file_descriptor_proto:
            for service in descriptor_pb2.FileDescriptorProto.FromString(data).service:
                methods |= {f"{service.name}.{method.name}" for method in service.method}
        self.assertIn("GenerationService.Generate", methods)
        self.assertIn("GenerationService.Tokenize", methods)

    def test_reflection_describes_health_so_that_grpcurl_needs_no_file(self):
        files = self.reflect(file_containing_symbol="grpc.health.v1.Health").file_descriptor_response
        services = {service.name for data in files.file_descriptor_proto
                    for service in descriptor_pb2.FileDescriptorProto.FromString(data).service}
        self.assertEqual(services, {"Health"})

    def test_health_knows_process_and_services(self):
        self.assertTrue(self.daemon.serving(""))
        self.assertTrue(self.daemon.serving("kvasir.v1.GenerationService"))
        with self.assertRaises(grpc.RpcError) as caught:
            self.daemon.serving("no.such.Service")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    # --- the stream ---

    def test_events_come_in_order_and_once(self):
        reply = self.daemon.generate(greedy(max_tokens=20))
        self.assertEqual(reply.events[0], "accepted")
        self.assertEqual(reply.events[-1], "final")
        self.assertEqual(set(reply.events[1:-1]), {"delta"})
        self.assertEqual(reply.finish_reason(), "FINISH_REASON_LENGTH")
        self.assertEqual(reply.usage.completion_tokens, 20)
        self.assertEqual(len(reply.token_ids[0]), 20)
        self.assertEqual(reply.usage.prompt_tokens, reply.accepted.prompt_tokens)
        self.assertGreater(reply.usage.kv_bytes_peak, 0)
        self.assertGreater(reply.usage.total_seconds, reply.usage.time_to_first_token_seconds)

    def test_tokens_stream_while_they_are_made(self):
        # Several deltas arrive before the final message; the first comes well before the last.
        times = []
        for response in self.daemon.generation.Generate(greedy(max_tokens=400), timeout=harness.PATIENCE_SECONDS):
            if response.HasField("delta"):
                times.append(time.monotonic())
        self.assertGreater(len(times), 10)
        self.assertGreater(times[-1] - times[0], 0)

    def test_greedy_ids_text_and_logits_equal_the_golden(self):
        for prompt in self.golden["prompts"]:
            with self.subTest(prompt["name"]):
                request = greedy(prompt["ids"], max_tokens=48)
                request.output.logprobs = 10
                reply = self.daemon.generate(request)
                self.assertEqual(reply.token_ids[0], prompt["greedy_ids"])
                self.assertEqual(reply.text[0], prompt["greedy_text"])
                first = reply.logprobs[0][0]
                self.assertEqual([a.token_id for a in first.alternatives], prompt["top10_ids"])
                self.assertEqual(b"".join(each.text for each in reply.logprobs[0]).decode(), prompt["greedy_text"])
                self.assertTrue(all(a.text for a in first.alternatives))
                # Log-probabilities differ from logits by one constant.
                shifts = [logit - a.logprob for logit, a in zip(prompt["top10_logits"], first.alternatives)]
                self.assertLess(max(shifts) - min(shifts), 2e-3)

    def test_text_prompt_is_encoded_like_the_golden(self):
        prompt = self.prompt("tokens60")
        reply = self.daemon.generate(greedy(text=prompt["text"], max_tokens=8))
        self.assertEqual(reply.accepted.prompt_tokens, len(prompt["ids"]))
        self.assertEqual(reply.token_ids[0], prompt["greedy_ids"][:8])
        ids = self.daemon.generation.Tokenize(pb.TokenizeRequest(text=prompt["text"])).token_ids
        self.assertEqual(list(ids), prompt["ids"])
        text = self.daemon.generation.Detokenize(pb.DetokenizeRequest(token_ids=ids, skip_special_tokens=True)).text
        self.assertEqual(text, prompt["text"])

    def test_prompt_logprobs_cover_all_but_the_first_token(self):
        ids = self.prompt("tokens600")["ids"]
        request = greedy(ids, max_tokens=1)
        request.output.prompt_logprobs = 2
        reply = self.daemon.generate(request)
        self.assertEqual([t.token_id for t in reply.prompt_logprobs], ids[1:])
        for token in reply.prompt_logprobs:
            self.assertEqual(len(token.alternatives), 2)
            self.assertLessEqual(token.logprob, token.alternatives[0].logprob + 1e-6)
        self.assertLess(reply.events.index("prompt_logprobs"), reply.events.index("delta"))

    def test_stop_string_is_held_back_and_reported(self):
        prompt = self.prompt("short")
        text = prompt["greedy_text"]
        stop = text[30:37]
        request = greedy(prompt["ids"], max_tokens=48)
        request.stopping.stop.append(stop)
        reply = self.daemon.generate(request)
        self.assertEqual(reply.text[0], text[:text.index(stop)])
        self.assertEqual(reply.finish_reason(), "FINISH_REASON_STOP")
        self.assertEqual(reply.final.completions[0].stop_string, stop)

    def test_stop_token_id_is_reported(self):
        prompt = self.prompt("short")
        stop = prompt["greedy_ids"][3]
        request = greedy(prompt["ids"], max_tokens=48)
        request.stopping.stop_token_ids.append(stop)
        reply = self.daemon.generate(request)
        self.assertEqual(reply.finish_reason(), "FINISH_REASON_STOP")
        self.assertEqual(reply.final.completions[0].stop_token_id, stop)
        self.assertLessEqual(reply.usage.completion_tokens, 4)

    def test_context_end_finishes_the_request(self):
        ids = (self.prompt("tokens600")["ids"] * 4)[:2040]
        reply = self.daemon.generate(greedy(ids, max_tokens=100))
        self.assertIn(reply.finish_reason(), ("FINISH_REASON_CONTEXT_FULL", "FINISH_REASON_LENGTH"))
        self.assertLessEqual(reply.usage.completion_tokens, 9)

    def test_same_seed_same_tokens_and_n_shares_the_prompt(self):
        ids = self.prompt("tokens600")["ids"]
        request = greedy(ids, max_tokens=12)
        request.sampling.temperature = 1
        request.sampling.seed = 42
        request.sampling.n = 4
        first = self.daemon.generate(request)
        second = self.daemon.generate(request)
        self.assertEqual(sorted(first.token_ids), [0, 1, 2, 3])
        self.assertEqual(first.token_ids, second.token_ids)
        self.assertGreater(len({tuple(ids) for ids in first.token_ids.values()}), 1)
        alone = greedy(ids, max_tokens=12)
        single = self.daemon.generate(alone)
        # Four completions of a shared prompt hold far less than four times one request's blocks.
        self.assertLess(first.usage.kv_bytes_peak, 2 * single.usage.kv_bytes_peak)

    def test_prefix_cache_hit_is_reported_and_changes_nothing(self):
        ids = self.prompt("tokens600")["ids"][:500]
        cold = self.daemon.generate(greedy(ids, max_tokens=10))
        warm = self.daemon.generate(greedy(ids, max_tokens=10))
        self.assertGreaterEqual(warm.usage.cached_tokens, 400)
        self.assertEqual(warm.accepted.cached_tokens, warm.usage.cached_tokens)
        self.assertEqual(warm.token_ids, cold.token_ids)

    def test_request_id_is_echoed(self):
        call = self.daemon.generation.Generate(greedy(max_tokens=1), metadata=[("x-request-id", "e2e-id-1")],
                                               timeout=harness.PATIENCE_SECONDS)
        self.assertEqual(dict(call.initial_metadata())["x-request-id"], "e2e-id-1")
        self.assertEqual(next(call).accepted.request_id, "e2e-id-1")
        list(call)

    # --- ends from outside ---

    def start_long(self, **fields):
        call = self.daemon.generation.Generate(long_request(**fields), timeout=harness.PATIENCE_SECONDS)
        self.assertEqual(next(call).WhichOneof("event"), "accepted")
        self.assertEqual(next(call).WhichOneof("event"), "delta")
        return call

    def test_cancel_mid_stream_frees_the_kv_cache(self):
        call = self.start_long()
        self.assertGreater(self.daemon.stats().kv_live_bytes, 0)
        call.cancel()
        self.daemon.wait_kv_idle()
        self.assertEqual(call.code(), grpc.StatusCode.CANCELLED)

    def test_cancel_at_many_moments_leaves_nothing(self):
        for moment in range(30):
            call = self.daemon.generation.Generate(long_request(n=1 + moment % 3), timeout=harness.PATIENCE_SECONDS)
            for _ in range(moment % 10):
                next(call)
            call.cancel()
        self.daemon.wait_kv_idle()
        self.assertEqual(len(self.daemon.requests()), 0)

    def test_a_closed_connection_frees_the_kv_cache(self):
        channel = self.daemon.new_channel()
        stub = harness.generation_pb2_grpc.GenerationServiceStub(channel)
        call = stub.Generate(long_request())
        next(call)
        next(call)
        channel.close()
        self.daemon.wait_kv_idle()

    def test_abort_ends_the_stream_with_cancelled(self):
        call = self.start_long(request_id="to-abort")
        self.daemon.generation.Abort(pb.AbortRequest(request_id="to-abort"))
        with self.assertRaises(grpc.RpcError) as caught:
            list(call)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.CANCELLED)
        self.daemon.wait_kv_idle()
        with self.assertRaises(grpc.RpcError) as caught:
            self.daemon.generation.Abort(pb.AbortRequest(request_id="to-abort"))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_deadline_ends_the_stream_and_frees_the_kv_cache(self):
        call = self.daemon.generation.Generate(long_request(n=32), timeout=0.3)
        with self.assertRaises(grpc.RpcError) as caught:
            list(call)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.daemon.wait_kv_idle()

    def test_many_streams_at_once_equal_each_alone(self):
        prompts = [p["ids"][:length] for p in self.golden["prompts"] for length in (3, 17, 40)]
        alone = [self.daemon.generate(greedy(ids, max_tokens=24)).token_ids[0] for ids in prompts]
        together = [None] * len(prompts)

        def run(i):
            together[i] = self.daemon.generate(greedy(prompts[i], max_tokens=24)).token_ids[0]

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(together, alone)

    def test_list_requests_shows_a_running_one_without_its_text(self):
        call = self.start_long(request_id="visible")
        info = wait_until(lambda: [r for r in self.daemon.requests() if r.request_id == "visible"], "listed")[0]
        self.assertEqual(info.model, BUNDLED)
        self.assertGreater(info.kv_bytes_physical, 0)
        self.assertIn(info.state, ("prefill", "decode", "paused"))
        call.cancel()
        self.daemon.wait_kv_idle()


if __name__ == "__main__":
    unittest.main(verbosity=2)
