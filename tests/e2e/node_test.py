"""Node against a daemon: the example of client/node over gRPC, and OpenAI's client for Node over HTTP."""

import pathlib
import shutil
import unittest

import harness
import peers
from harness import BUNDLED, Daemon, PATIENCE_SECONDS, greedy

OPENAI = """
import OpenAI from "openai";
const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const models = [];
for await (const each of client.models.list()) models.push(each.id);
if (models.join() !== model) throw new Error(`models: ${models}`);
const fields = { model, prompt: "Once upon a time", max_tokens: 12, temperature: 0 };
const whole = await client.completions.create(fields);
let text = "";
for await (const chunk of await client.completions.create({ ...fields, stream: true })) text += chunk.choices[0].text;
if (text !== whole.choices[0].text || !text) throw new Error(text);
const endless = await client.completions.create({ ...fields, max_tokens: 1900, n: 4, temperature: 1, ignore_eos: true, stream: true });
for await (const chunk of endless) break;
try {
  await client.completions.create({ ...fields, temperature: -1 });
  throw new Error("nothing was refused");
} catch (error) {
  if (!(error instanceof OpenAI.BadRequestError) || error.param !== "temperature") throw error;
}
console.log("all good");
"""


class NodeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def test_the_example_streams(self):
        folder = peers.node("grpc", "@grpc/grpc-js", "@grpc/proto-loader")
        # Modules are looked for beside the script.
        script = shutil.copy(harness.ROOT / "client" / "node" / "generate.mjs", folder)
        variables = {"KVASIR_SERVER": self.daemon.grpc_address, "KVASIR_PROTO": str(harness.ROOT / "proto"),
                     "grpc_proxy": "http://127.0.0.1:1"}
        output = peers.run(["node", script, "Once upon a time"], PATIENCE_SECONDS, variables=variables)
        self.assertIn(self.daemon.generate(greedy(max_tokens=40)).text[0], output)
        self.assertIn("KV cache peak", output)
        with self.assertRaises(AssertionError) as caught:
            peers.run(["node", script, "x"], PATIENCE_SECONDS, variables={**variables, "KVASIR_SERVER": "127.0.0.1:1"})
        self.assertIn("UNAVAILABLE", str(caught.exception))

    def test_openai(self):
        folder = peers.node("openai", "openai")
        script = pathlib.Path(folder, "client.mjs")
        script.write_text(OPENAI)
        output = peers.run(["node", script, f"http://{self.daemon.http_address}/v1", BUNDLED], 2 * PATIENCE_SECONDS)
        self.assertIn("all good", output)
        self.daemon.wait_kv_idle()


if __name__ == "__main__":
    unittest.main(verbosity=2)
