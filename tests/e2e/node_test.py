"""Node against a daemon: the example of client/node over gRPC, and OpenAI's client for Node over HTTP."""

import json
import pathlib
import shutil
import tempfile
import unittest

import harness
import peers
import tools_test
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


OPENAI_CHAT = """
import assert from "node:assert/strict";
import OpenAI from "openai";
const [url, model, text] = process.argv.slice(2);
const given = JSON.parse(text);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "How is the weather in Oslo?" }];
const asMeant = { model, temperature: 0, logit_bias: given.answer, min_tokens: 1, max_tokens: 8, tools: given.tools };
const free = { model, messages, temperature: 1, seed: 3, max_tokens: 200 };

// Chat, and the next turn with a call's result.
const whole = (await client.chat.completions.create({ ...asMeant, messages, logprobs: true, top_logprobs: 2 })).choices[0];
assert.equal(whole.finish_reason, "tool_calls");
assert.equal(whole.message.content, "Well.");
assert.equal(whole.logprobs.content[0].top_logprobs.length, 2);
const [call] = whole.message.tool_calls;
assert.deepEqual([call.type, call.function.name, JSON.parse(call.function.arguments)], ["function", "weather", { city: "Oslo" }]);
const turns = [...messages, whole.message, { role: "tool", tool_call_id: call.id, content: "Rain." }];
assert.equal((await client.chat.completions.create({ ...asMeant, messages: turns })).choices[0].finish_reason, "tool_calls");

// Streams, as the client's own helper puts them together.
const stream = client.chat.completions.stream({ ...asMeant, messages, stream_options: { include_usage: true } });
let pieces = 0;
for await (const chunk of stream) if (chunk.choices.length > 0) ++pieces;
const put = await stream.finalChatCompletion();
assert.ok(pieces > 2);
assert.equal(put.choices[0].message.content, "Well.");
assert.equal(put.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
assert.ok(put.usage.completion_tokens > 0);

// Tools that must be called, one of them, some of them.
const strict = { ...free, tools: given.strict_tools, logit_bias: { [given.marker]: 100 }, parallel_tool_calls: false };
const some = { type: "allowed_tools", allowed_tools: { mode: "required", tools: [{ type: "function", function: { name: "now" } }] } };
for (const [tool_choice, only] of [["required", null], [{ type: "function", function: { name: "now" } }, "now"], [some, "now"]]) {
  const { finish_reason, message } = (await client.chat.completions.create({ ...strict, tool_choice })).choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.equal(message.tool_calls.length, 1);
  JSON.parse(message.tool_calls[0].function.arguments);
  if (only) assert.equal(message.tool_calls[0].function.name, only);
}

// An answer of a JSON schema.
const schema = { type: "object", properties: { warm: { type: "boolean" } }, required: ["warm"], additionalProperties: false };
const format = { type: "json_schema", json_schema: { name: "weather", strict: true, schema } };
const json = (await client.chat.completions.create({ ...free, response_format: format })).choices[0];
assert.deepEqual([json.finish_reason, Object.keys(JSON.parse(json.message.content))], ["stop", ["warm"]]);

// Responses.
const flat = given.tools.map((tool) => ({ type: "function", strict: false, ...tool.function }));
const told = [];
const more = { model, input: "Oslo?", tools: flat, temperature: 0, logit_bias: given.answer, min_tokens: 1, max_output_tokens: 8 };
for await (const event of await client.responses.create({ ...more, stream: true })) told.push(event.type);
assert.deepEqual([told[0], told.at(-1)], ["response.created", "response.completed"]);
const response = await client.responses.create(more);
assert.equal(response.output_text, "Well.");
assert.deepEqual(response.output.map((item) => item.type), ["reasoning", "message", "function_call"]);

// Errors with their fields, cancelling, and a retry of what was told to come again.
await assert.rejects(client.chat.completions.create({ ...free, tool_choice: "required" }),
                     (error) => error instanceof OpenAI.BadRequestError && error.param === "tool_choice");
await assert.rejects(client.chat.completions.create({ ...free, model: "nobody" }), OpenAI.NotFoundError);
const controller = new AbortController();
const endless = await client.chat.completions.create({ ...free, max_tokens: 1800, ignore_eos: true, stream: true },
                                                     { signal: controller.signal });
for await (const chunk of endless) controller.abort();
let tries = 0;
const busy = () => new Response(JSON.stringify({ error: { message: "full", type: "rate_limit_error" } }),
                                { status: 429, headers: { "content-type": "application/json", "retry-after": "0.01" } });
const patient = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 2, fetch: (...a) => (++tries < 3 ? busy() : fetch(...a)) });
assert.ok((await patient.chat.completions.create({ ...free, max_tokens: 2 })).choices.length === 1 && tries === 3);
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

    def test_openai_chat_tools_and_schemas(self):
        folder = peers.node("openai", "openai")
        script = pathlib.Path(folder, "chat.mjs")
        script.write_text(OPENAI_CHAT)
        given = json.dumps({"tools": tools_test.TOOLS, "strict_tools": tools_test.STRICT_TOOLS, "marker": tools_test.MARKER,
                            "answer": tools_test.biases(tools_test.ANSWER)})
        with tempfile.TemporaryDirectory() as model:
            tools_test.make_model(pathlib.Path(model))
            with Daemon(models={BUNDLED: model}) as daemon:
                output = peers.run(["node", script, f"http://{daemon.http_address}/v1", BUNDLED, given], 3 * PATIENCE_SECONDS)
                self.assertIn("all good", output)
                daemon.wait_kv_idle()


if __name__ == "__main__":
    unittest.main(verbosity=2)
