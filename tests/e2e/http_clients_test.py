"""The recorded start-up probes of docs/probe_clients.py against a daemon, and schemathesis over the OpenAPI description that
the daemon serves."""

import json
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import harness
import peers
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, PATIENCE_SECONDS
from page_test import tenants_config
from tenant_client import KEYS

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


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

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()
        cls.template.close()

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
        self.assertRegex(output, r"[1-9]\d* generated, [1-9]\d* passed\n")  # and none that failed
        self.assertEqual(urllib.request.urlopen(f"{self.url}/health", timeout=PATIENCE_SECONDS).status, 200)
        self.daemon.wait_kv_idle()


if __name__ == "__main__":
    unittest.main(verbosity=2)
