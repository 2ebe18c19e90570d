"""People's HTTP clients against a daemon: LangChain, LiteLLM, the recorded start-up probes of docs/probe_clients.py, and
schemathesis over the OpenAPI description that the daemon serves."""

import json
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import harness
import peers
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, PATIENCE_SECONDS, greedy
from page_test import tenants_config
from tenant_client import KEYS

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

LANGCHAIN = """
import sys
from langchain_openai import ChatOpenAI, OpenAI
url, model, expected = sys.argv[1:]
fields = dict(base_url=url, api_key="none", model=model, temperature=0, max_tokens=24, max_retries=0)
llm = OpenAI(**fields, extra_body={"ignore_eos": True})
assert llm.invoke("Once upon a time") == expected, llm.invoke("Once upon a time")
assert "".join(llm.stream("Once upon a time")) == expected
assert llm.batch(["Once upon a time"] * 3) == [expected] * 3
chat = ChatOpenAI(**fields, extra_body={"ignore_eos": True})
answer = chat.invoke([("human", "Once upon a time")])
assert answer.content == expected and answer.usage_metadata["output_tokens"] == 24, answer
assert "".join(chunk.content for chunk in chat.stream("Once upon a time")) == expected
logprobs = chat.bind(logprobs=True, top_logprobs=2).invoke("Once upon a time").response_metadata["logprobs"]["content"]
assert "".join(token["token"] for token in logprobs) == expected
print("all good")
"""

LITELLM = """
import sys
import litellm
url, model, expected = sys.argv[1:]
fields = dict(api_base=url, api_key="fake-api-key", temperature=0, max_tokens=24, num_retries=0)
said = [{"role": "user", "content": "Once upon a time"}]
for provider in ("hosted_vllm", "openai"):
    answer = litellm.completion(f"{provider}/{model}", said, extra_body={"ignore_eos": True}, **fields)
    assert answer.choices[0].message.content == expected, answer
    assert answer.usage.completion_tokens == 24
    text, usage = "", None
    for chunk in litellm.completion(f"{provider}/{model}", said, stream=True, stream_options={"include_usage": True},
                                    extra_body={"ignore_eos": True}, **fields):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        usage = getattr(chunk, "usage", None) or usage
    assert text == expected and usage.completion_tokens == 24, (text, usage)
try:
    litellm.completion(f"hosted_vllm/{model}", said, **{**fields, "temperature": -1})
    raise AssertionError("nothing was refused")
except litellm.BadRequestError as error:
    assert "temperature" in str(error), error
print("all good")
"""


class HttpClientsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.template = tempfile.NamedTemporaryFile("w", suffix=".jinja")
        cls.template.write(TEMPLATE)
        cls.template.flush()
        cls.daemon = Daemon(config=json.dumps({"models": [
            {"name": BUNDLED, "path": str(BUNDLED_FOLDER), "chat_template": cls.template.name,
             "kv_cache": {"capacity_bytes": "64MiB"}}]}))
        cls.url = f"http://{cls.daemon.http_address}"
        # The template adds no special token before the text; asking for the same makes one answer of all doors.
        cls.expected = {chat: cls.daemon.generate(greedy(max_tokens=24, add_special_tokens=not chat)).text[0]
                        for chat in (False, True)}

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()
        cls.template.close()

    def run_script(self, python, script):
        output = peers.run([python, "-c", script, f"{self.url}/v1", BUNDLED, self.expected[True]], 4 * PATIENCE_SECONDS,
                           variables={"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
        self.assertIn("all good", output)
        self.daemon.wait_kv_idle()

    def test_langchain(self):
        if self.expected[True] != self.expected[False]:
            script = LANGCHAIN.replace('llm = OpenAI(**fields, extra_body={"ignore_eos": True})',
                                       'llm = OpenAI(**fields, extra_body={"ignore_eos": True, "add_special_tokens": False})')
        else:
            script = LANGCHAIN
        self.run_script(peers.python("langchain", "langchain-openai"), script)

    def test_litellm(self):
        self.run_script(peers.python("litellm", "litellm"), LITELLM)

    def test_recorded_probes(self):
        script = harness.ROOT / "docs" / "probe_clients.py"
        output = peers.run([sys.executable, script, self.url], 2 * PATIENCE_SECONDS)
        self.assertEqual(output.count("ok  "), 5, output)
        with Daemon(config=tenants_config()) as locked:  # a model without a template, and keys
            url = f"http://{locked.http_address}"
            self.assertIn("ok  ", peers.run([sys.executable, script, url, KEYS["team-a"]], 2 * PATIENCE_SECONDS))
            refused = subprocess.run([sys.executable, script, url, "wrong"], stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("401", refused.stderr)

    def test_schemathesis(self):
        with urllib.request.urlopen(f"{self.url}/openapi.json", timeout=PATIENCE_SECONDS) as answer:
            paths = json.load(answer)["paths"]
        self.assertIn("/v1/completions", paths)
        python = peers.python("schemathesis", "schemathesis")
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        output = peers.run([python.parent / "schemathesis", "run", f"{self.url}/openapi.json", "--checks", checks,
                            "--max-examples", "25", "--seed", "7", "--request-timeout", "30", "--phases", "examples,coverage,fuzzing",
                            "--no-color"], 500, cwd=peers.FOLDER)
        self.assertIn("No issues found", output)
        self.assertEqual(urllib.request.urlopen(f"{self.url}/health", timeout=PATIENCE_SECONDS).status, 200)
        self.daemon.wait_kv_idle()


if __name__ == "__main__":
    unittest.main(verbosity=2)
