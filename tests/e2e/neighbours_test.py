"""Other engines' clients over gRPC: vLLM's text protocol by stubs made here, vLLM's engine protocol by the router's own
package (smg-grpc-proto), KServe's by tritonclient. Each must say what kvasir.v1 says to the same question."""

import hashlib
import io
import json
import pathlib
import sys
import threading
import unittest
import zipfile

import grpc
import harness
import peers
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, PATIENCE_SECONDS, greedy, wait_until
from page_test import tenants_config
from tenant_client import KEYS
from neighbours.smg import common_pb2
from neighbours.vllm import engine_pb2, engine_pb2_grpc, inference_pb2, inference_pb2_grpc

PROMPT = "Once upon a time"


class NeighboursTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        cls.reply = cls.daemon.generate(greedy(max_tokens=24))
        cls.ids = list(cls.daemon.generation.Tokenize(
            harness.generation_pb2.TokenizeRequest(text=PROMPT)).token_ids)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def tearDown(self):
        self.daemon.wait_kv_idle()

    # --- vllm.Inference and vllm.Control ---

    def inference(self):
        return inference_pb2_grpc.InferenceStub(self.daemon.channel)

    def text_request(self, **fields):
        stopping = inference_pb2.StoppingParams(max_new_tokens=24, ignore_eos=True)
        return inference_pb2.GenerateRequest(**{"text": PROMPT, "temperature": 0, "stopping": stopping, **fields})

    def test_text_whole_and_streamed(self):
        response = inference_pb2.ResponseOptions(prompt_token_ids=True, output_token_ids=True, output_logprobs=True,
                                                 prompt_logprobs=True)
        whole = self.inference().Generate(self.text_request(response=response), timeout=PATIENCE_SECONDS)
        output, = whole.outputs
        self.assertEqual(output.text, self.reply.text[0])
        self.assertEqual(list(output.token_ids), self.reply.token_ids[0])
        self.assertEqual((len(output.logprobs), output.num_tokens), (24, 24))
        self.assertEqual(output.finish_info.finish_reason, inference_pb2.FinishInfo.LENGTH)
        self.assertEqual(list(whole.prompt_info.token_ids), self.ids)
        self.assertEqual(len(whole.prompt_info.logprobs), len(self.ids) - 1)
        by_ids = self.text_request(response=inference_pb2.ResponseOptions(output_token_ids=True),
                                   token_ids=inference_pb2.TokenIds(ids=self.ids))
        text, ids, infos = "", [], 0
        for message in self.inference().GenerateStream(by_ids, timeout=PATIENCE_SECONDS):
            infos += message.HasField("prompt_info")
            for output in message.outputs:
                text += output.text
                ids += output.token_ids
                last = output
        self.assertEqual((text, ids, infos), (self.reply.text[0], self.reply.token_ids[0], 1))
        self.assertEqual(last.finish_info.num_output_tokens, 24)

    def test_zero_means_what_it_means_to_vllm(self):
        request = inference_pb2.GenerateRequest(text=PROMPT, temperature=0, stopping={"ignore_eos": True}, sampling={})
        self.assertEqual(self.inference().Generate(request, timeout=PATIENCE_SECONDS).outputs[0].num_tokens, 20)

    def test_n_stops_and_sessions(self):
        request = self.text_request(temperature=1, sampling={"num_sequences": 3, "seed": 5})
        whole = self.inference().Generate(request, timeout=PATIENCE_SECONDS)
        self.assertEqual(sorted(output.index for output in whole.outputs), [0, 1, 2])
        self.assertGreater(len({output.text for output in whole.outputs}), 1)
        word = self.reply.text[0].split()[3]
        for include in (False, True):
            stopping = {"max_new_tokens": 24, "stop_strings": [word], "include_stop_strings": include}
            output = self.inference().Generate(self.text_request(stopping=stopping), timeout=PATIENCE_SECONDS).outputs[0]
            self.assertEqual(output.finish_info.stop_string, word)
            self.assertEqual(output.text.endswith(word), include)
        self.inference().Generate(self.text_request(session_id="theirs"), timeout=PATIENCE_SECONDS)
        self.assertEqual(self.daemon.cli_json("sessions", "get", "theirs")["turns"], 1)
        self.daemon.cli("sessions", "delete", "theirs")

    def refused(self, call, code=grpc.StatusCode.INVALID_ARGUMENT):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertEqual(caught.exception.code(), code, caught.exception)
        return caught.exception.details()

    def test_what_is_not_supported_is_refused_by_name(self):
        for fields, name in (({"decoding": {"regex": b"a+"}}, "structured_output"), ({"kv": {"cache_salt": "x" * 257}}, "cache_salt"),
                             ({"truncate_prompt_tokens": 3}, "truncate"), ({"lora_name": "x"}, "lora_name"),
                             ({"decoding": {"allowed_token_ids": b"\x01"}}, "allowed_token_ids")):
            details = self.refused(lambda: self.inference().Generate(self.text_request(**fields), timeout=PATIENCE_SECONDS))
            self.assertIn(name, details)
        # A field that a later version of the protocol may have.
        unknown = inference_pb2.GenerateRequest.FromString(self.text_request().SerializeToString() + b"\xa2\x06\x01x")
        self.assertIn("number 100", self.refused(lambda: self.inference().Generate(unknown, timeout=PATIENCE_SECONDS)))
        self.refused(lambda: self.inference().Generate(self.text_request(model="none"), timeout=PATIENCE_SECONDS),
                     grpc.StatusCode.NOT_FOUND)
        self.assertIn("temperature", self.refused(
            lambda: self.inference().Generate(self.text_request(temperature=-1), timeout=PATIENCE_SECONDS)))

    def test_a_salt_hides_a_prompt(self):
        prompt = "A long prompt of this test alone, for the sake of its salt. " * 4
        self.inference().Generate(self.text_request(text=prompt, kv={"cache_salt": "ours"}), timeout=PATIENCE_SECONDS)

        def cached(salt):
            request = greedy(text=prompt, max_tokens=1)
            request.cache_salt = salt
            return self.daemon.generate(request).final.usage.cached_tokens

        self.assertEqual(cached(""), 0)
        self.assertGreater(cached("ours"), 0)

    def test_control_and_cancellation(self):
        control = inference_pb2_grpc.ControlStub(self.daemon.channel)
        info = control.GetServerInfo(inference_pb2.GetServerInfoRequest(), timeout=PATIENCE_SECONDS)
        self.assertEqual((info.max_model_len, info.total_kv_blocks), (2048, 1024))
        model = control.GetModelInfo(inference_pb2.GetModelInfoRequest(), timeout=PATIENCE_SECONDS)
        self.assertEqual((model.model_id, model.supports_text_input), (BUNDLED, True))
        long = self.text_request(temperature=1, request_id="theirs", sampling={"num_sequences": 8, "seed": 1},
                                 stopping={"max_new_tokens": 1900, "ignore_eos": True})
        call = self.inference().GenerateStream(long)
        next(call)
        call.cancel()
        self.daemon.wait_kv_idle()
        call = self.inference().GenerateStream(long)
        next(call)
        control.Abort(inference_pb2.AbortRequest(request_ids=["theirs", "nobodys"]), timeout=PATIENCE_SECONDS)
        self.refused(lambda: list(call), grpc.StatusCode.CANCELLED)
        # A call with one answer whose client leaves is cancelled, too.
        future = self.inference().Generate.future(long)
        wait_until(lambda: self.daemon.stats().running > 0, "it runs")
        future.cancel()
        self.daemon.wait_kv_idle()

    # --- vllm.grpc.engine.VllmEngine ---

    def engine(self):
        return engine_pb2_grpc.VllmEngineStub(self.daemon.channel)

    def test_the_routers_own_package(self):
        python = peers.python("smg", "smg-grpc-proto", "grpcio")
        output = peers.run([python, pathlib.Path(__file__).with_name("clients") / "neighbours_router.py", self.daemon.grpc_address,
                            json.dumps({"ids": self.ids, "expected": self.reply.token_ids[0], "model": BUNDLED})],
                           3 * PATIENCE_SECONDS)
        self.assertIn("all good", output)

    def test_the_tokenizer_is_sent_whole(self):
        chunks = list(self.engine().GetTokenizer(common_pb2.GetTokenizerRequest(), timeout=PATIENCE_SECONDS))
        data = b"".join(chunk.data for chunk in chunks)
        self.assertEqual(chunks[-1].sha256, hashlib.sha256(data).hexdigest())
        archive = zipfile.ZipFile(io.BytesIO(data))
        self.assertIsNone(archive.testzip())
        for name in archive.namelist():
            self.assertEqual(archive.read(name), (BUNDLED_FOLDER / name).read_bytes())
        self.assertIn("tokenizer.json", archive.namelist())

    def test_events_of_the_prefix_cache(self):
        """A follower of the events knows what is cached: a prompt of whole blocks, stored; then crowded out, removed."""
        with Daemon(kv_capacity="1MiB") as daemon:
            stub = engine_pb2_grpc.VllmEngineStub(daemon.channel)
            known, order, lock = {}, [], threading.Lock()
            call = stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest())

            def follow():
                try:
                    for batch in call:
                        with lock:
                            for event in batch.events:
                                order.append(event.event_id)
                                for block in event.stored.blocks:
                                    parent = event.stored
                                    known[block.block_hash] = (parent.parent_block_hash if parent.HasField(
                                        "parent_block_hash") else None, list(block.token_ids))
                                for block_hash in event.removed.block_hashes:
                                    del known[block_hash]
                except grpc.RpcError:
                    pass

            follower = threading.Thread(target=follow)
            follower.start()
            ids = [1 + i % 500 for i in range(200)]
            daemon.generate(greedy(ids, max_tokens=1))

            def chain():
                with lock:
                    tokens, parent = [], None
                    while True:
                        child = [(key, value) for key, value in known.items() if value[0] == parent]
                        if not child:
                            return tokens
                        parent, (_, more) = child[0]
                        tokens += more

            size = daemon.cli_json("models")[0]["block_tokens"]
            wait_until(lambda: chain() == ids[:len(ids) // size * size], "the prompt's blocks in order")
            for seed in range(8):
                daemon.generate(greedy([2 + (seed * 37 + i) % 700 for i in range(300)], max_tokens=1))
            stats = daemon.stats()
            block_bytes = stats.kv_block_bytes
            wait_until(lambda: len(known) == daemon.stats().kv_cached_bytes // block_bytes, "as many as are cached")
            with lock:
                self.assertEqual(order, list(range(1, len(order) + 1)))
            call.cancel()
            follower.join(PATIENCE_SECONDS)
            self.assertFalse(follower.is_alive())
            # An open subscription does not hold up the end.
            second = stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest(start_sequence_number=order[-1]))
            next(second)
            self.assertEqual(daemon.stop(), 0)

    def test_tenants(self):
        with Daemon(config=tenants_config()) as daemon:
            engine = engine_pb2_grpc.VllmEngineStub(daemon.channel)
            inference = inference_pb2_grpc.InferenceStub(daemon.channel)

            def key(name):
                return [("authorization", f"Bearer {KEYS[name]}")]

            self.assertTrue(engine.HealthCheck(engine_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS).healthy)
            ask = {"timeout": PATIENCE_SECONDS}
            for call in (lambda: inference.Generate(self.text_request(), **ask),
                         lambda: list(inference.GenerateStream(self.text_request(), **ask)),
                         lambda: engine.GetLoads(engine_pb2.GetLoadsRequest(), **ask),
                         lambda: engine.GetModelInfo(engine_pb2.GetModelInfoRequest(), **ask),
                         lambda: list(engine.GetTokenizer(common_pb2.GetTokenizerRequest(), **ask)),
                         lambda: list(engine.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest(), **ask))):
                self.refused(call, grpc.StatusCode.UNAUTHENTICATED)
            for call in (lambda: engine.GetLoads(engine_pb2.GetLoadsRequest(), metadata=key("team-a"), **ask),
                         lambda: list(engine.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest(), metadata=key("team-a"),
                                                               **ask))):
                self.refused(call, grpc.StatusCode.PERMISSION_DENIED)
            loads = engine.GetLoads(engine_pb2.GetLoadsRequest(), metadata=key("operator"), **ask)
            self.assertEqual(loads.loads[0].num_running_reqs, 0)
            whole = inference.Generate(self.text_request(), metadata=key("team-a"), **ask)
            self.assertEqual(whole.outputs[0].text, self.reply.text[0])

    # --- inference.GRPCInferenceService ---

    def test_tritonclient(self):
        python = peers.python("triton", "tritonclient[grpc]", "numpy")
        output = peers.run([python, pathlib.Path(__file__).with_name("clients") / "neighbours_triton.py", self.daemon.grpc_address,
                            json.dumps({"prompt": PROMPT, "expected": self.reply.text[0], "model": BUNDLED})],
                           3 * PATIENCE_SECONDS)
        self.assertIn("all good", output)
        self.daemon.cli("sessions", "delete", "77")

    def test_reflection_and_health_know_them(self):
        for service in ("vllm.Inference", "vllm.Control", "vllm.grpc.engine.VllmEngine", "inference.GRPCInferenceService"):
            self.assertTrue(self.daemon.serving(service))


if __name__ == "__main__":
    unittest.main(verbosity=2)
