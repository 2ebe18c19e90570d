"""grpcurl and ghz against a daemon: the tools with which people look at a gRPC server by hand, without a .proto file."""

import json
import unittest

import peers
from harness import BUNDLED, Daemon, PATIENCE_SECONDS, greedy

PROMPT = "Once upon a time"
SERVICES = ("kvasir.v1.GenerationService", "kvasir.v1.SessionService", "kvasir.v1.AdminService", "grpc.health.v1.Health",
            "vllm.Inference", "vllm.Control", "vllm.grpc.engine.VllmEngine", "inference.GRPCInferenceService")


class GoClientsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def tearDown(self):
        self.daemon.wait_kv_idle()

    def test_grpcurl(self):
        program = peers.go("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3")

        def grpcurl(*arguments, data=None):
            asked = ["-d", json.dumps(data)] if data is not None else []
            return peers.run([program, "-plaintext", *asked, self.daemon.grpc_address, *arguments], PATIENCE_SECONDS)

        listed = grpcurl("list").split()
        for service in SERVICES:
            self.assertIn(service, listed)
            self.assertIn("service", grpcurl("describe", service))
        self.assertEqual(json.loads(grpcurl("grpc.health.v1.Health/Check"))["status"], "SERVING")
        asked = {"text": PROMPT, "sampling": {"temperature": 0}, "stopping": {"maxTokens": 12, "ignoreEos": True}}
        decoder, text, output = json.JSONDecoder(), "", grpcurl("kvasir.v1.GenerationService/Generate", data=asked).strip()
        while output:
            message, end = decoder.raw_decode(output)
            text += message.get("delta", {}).get("text", "")
            output = output[end:].strip()
        reply = self.daemon.generate(greedy(text=PROMPT, max_tokens=12)).text[0]
        self.assertEqual(text, reply)
        neighbour = grpcurl("vllm.Inference/Generate", data={"text": PROMPT, "temperature": 0, "stopping": {
            "max_new_tokens": 12, "ignore_eos": True}})
        self.assertEqual(json.loads(neighbour)["outputs"][0]["text"], reply)
        ready = grpcurl("inference.GRPCInferenceService/ModelReady", data={"name": BUNDLED})
        self.assertTrue(json.loads(ready)["ready"])
        with self.assertRaises(AssertionError) as caught:
            grpcurl("kvasir.v1.GenerationService/Generate", data={"text": PROMPT, "sampling": {"temperature": -1}})
        self.assertIn("InvalidArgument", str(caught.exception))
        self.assertIn("sampling.temperature", str(caught.exception))

    def test_ghz(self):
        program = peers.go("ghz", "github.com/bojand/ghz/cmd/ghz@v0.120.0")
        asked = {"text": PROMPT, "sampling": {"temperature": 0}, "stopping": {"max_tokens": 4, "ignore_eos": True}}
        for method, data, total in (("kvasir.v1.GenerationService/Generate", asked, 64),
                                    ("grpc.health.v1.Health/Check", {}, 500)):
            output = peers.run([program, "--insecure", "--call", method, "--total", total, "--concurrency", 16, "--data",
                                json.dumps(data), "--format", "json", self.daemon.grpc_address], 3 * PATIENCE_SECONDS)
            self.assertEqual(json.loads(output)["statusCodeDistribution"], {"OK": total})


if __name__ == "__main__":
    unittest.main(verbosity=2)
