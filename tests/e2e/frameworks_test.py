"""What applications are written with, against a daemon: LangChain, LiteLLM as a library and as the proxy in front, and the
types of OpenAI's client, which are stricter than the client. Each in a virtual environment of its own, and skipped loudly where
PyPI does not answer."""

import json
import pathlib
import socket
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

import peers
import tools_test
from harness import BUNDLED, Daemon, PATIENCE_SECONDS, wait_until

HERE = pathlib.Path(__file__).parent
GIVEN = json.dumps({"tools": tools_test.TOOLS, "marker": tools_test.MARKER,
                    "answer": tools_test.biases(tools_test.ANSWER)})
# Neither asks the internet for prices nor tells it anything.
KEY = "sk-a-key-of-the-proxy-alone-0123456789"
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LANGSMITH_TRACING": "false"}


class FrameworksTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.directory.name)
        tools_test.make_model(cls.folder)
        cls.daemon = Daemon(models={BUNDLED: cls.folder})
        cls.url = f"http://{cls.daemon.http_address}/v1"

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()
        cls.directory.cleanup()

    def check(self, python, script):
        output = peers.run([python, HERE / "clients" / script, self.url, BUNDLED, GIVEN], 5 * PATIENCE_SECONDS,
                           variables=OFFLINE)
        self.assertIn("all good", output)
        self.daemon.wait_kv_idle()

    def test_openais_types(self):
        self.check(peers.python("openai", "openai"), "openai_strict_client.py")

    def test_langchain(self):
        self.check(peers.python("langchain-openai", "langchain-openai"), "langchain_client.py")

    def test_litellm(self):
        self.check(peers.python("litellm", "litellm"), "litellm_client.py")

    def test_litellms_proxy(self):
        python = peers.python("litellm-proxy", "litellm[proxy]")
        config = self.folder / "litellm.yaml"
        config.write_text(json.dumps({
            "model_list": [{"model_name": BUNDLED, "litellm_params": {
                "model": f"hosted_vllm/{BUNDLED}", "api_base": self.url, "api_key": "none"}}],
            "litellm_settings": {"telemetry": False, "num_retries": 0}, "general_settings": {"master_key": KEY}}))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = (self.folder / "litellm.log").open("w+")
        proxy = subprocess.Popen([python.parent / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)],
                                 stdout=log, stderr=subprocess.STDOUT, cwd=self.folder,
                                 env={**peers.environment(), **OFFLINE, "HOME": str(self.folder)})
        url = f"http://127.0.0.1:{port}"

        def ready():
            if proxy.poll() is not None:
                log.seek(0)
                raise AssertionError(f"LiteLLM's proxy ended:\n{log.read()[-4000:]}")
            try:
                return urllib.request.urlopen(f"{url}/health/liveliness", timeout=5).status == 200
            except (OSError, urllib.error.URLError):
                return False

        try:
            wait_until(ready, "LiteLLM's proxy serves", 3 * PATIENCE_SECONDS)
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
            health = urllib.request.Request(f"{url}/health", headers=headers)  # asks the daemon
            with urllib.request.urlopen(health, timeout=PATIENCE_SECONDS) as answer:
                self.assertEqual(json.load(answer)["healthy_count"], 1)
            messages = [{"role": "user", "content": "Oslo?"}]
            for stream in (False, True):
                body = {"model": BUNDLED, "messages": messages, "max_tokens": 8, "temperature": 0, "stream": stream}
                request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
                with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                    text = answer.read().decode()
                if stream:
                    pieces = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
                    self.assertIn("data: [DONE]", text)
                    self.assertEqual("".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces), whole)
                else:
                    whole = json.loads(text)["choices"][0]["message"]["content"]
                    self.assertTrue(whole)
        finally:
            proxy.terminate()
            proxy.wait(PATIENCE_SECONDS)
            log.close()
        self.daemon.wait_kv_idle()


if __name__ == "__main__":
    unittest.main(verbosity=2)
