"""kvasird --model NAME=hf:ORG/REPO against a hub of this machine."""

import subprocess
import threading
import unittest

from hub_case import WEIGHTS, HubTest
from harness import BIN, PATIENCE_SECONDS, Daemon, wait_until


class Daemons(HubTest):
    def test_two_commands_to_a_first_answer(self):
        with Daemon(models={"tale": "hf:org/tale"}, environment=self.environment()) as daemon:
            text = daemon.cli("generate", "--max_tokens", "8", "--temperature", "0", "Once upon a time").stdout
            self.assertTrue(text.strip())
            log = daemon.log()
            self.assertRegex(log, "pulling model from=hf:org/tale commit=.* missing_bytes=")
            self.assertRegex(log, "pulled model from=hf:org/tale")
        self.assert_whole()
        # Again without a hub, by the name it has of itself; the same answer.
        offline = self.environment(HF_HUB_OFFLINE="1", HF_ENDPOINT="https://127.0.0.1:9")
        with Daemon("--model", "hf:org/tale", "--kv_capacity_bytes", "64MiB", config="", environment=offline) as daemon:
            again = daemon.cli("generate", "--model", "tale", "--max_tokens", "8", "--temperature", "0", "Once upon a time")
            self.assertEqual(again.stdout, text)

    def kvasird(self, *words, **environment):
        return subprocess.run([BIN / "kvasird", "--listen", "127.0.0.1:0", "--http_listen", "off", "--metrics_listen", "off",
                               "--kv_capacity_bytes", "64MiB", *words], env=self.environment(**environment), text=True,
                              capture_output=True, timeout=PATIENCE_SECONDS)

    def test_check_config_looks_into_the_cache_alone(self):
        result = self.kvasird("--model", "t=hf:org/tale", "--check_config")
        self.assertEqual((result.returncode, result.stdout), (0, "OK\n"), result.stderr)
        self.assertRegex(result.stderr, f"hf:org/tale is not in the cache {self.cache}; kvasird downloads it")
        result = self.kvasird("--model", "t=hf:org/tale", "--check_config", HF_HUB_OFFLINE="1")
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertIn("model 't': org/tale@main is not in the cache", result.stderr)
        self.assertFalse(self.hub.requests)
        self.pull()
        self.hub.requests.clear()
        result = self.kvasird("--model", "t=hf:org/tale", "--check_config")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "OK\n", ""))
        # What is in the cache is looked at as a folder is.
        self.blob("config.json").write_text("{}" + " " * (self.blob("config.json").stat().st_size - 2))
        result = self.kvasird("--model", "t=hf:org/tale", "--check_config")
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertFalse(self.hub.requests)

    def test_names_that_are_none(self):
        result = self.kvasird("--model", "t=hf:org/tale@", "--check_config")
        self.assertEqual(result.returncode, 2)
        self.assertIn("the form is hf:ORG/REPO[@REVISION][:PATTERN]", result.stderr)
        result = self.kvasird("--model", "t=org/tale", "--check_config")
        self.assertEqual(result.returncode, 3)
        self.assertIn("give hf:org/tale", result.stderr)
        result = self.kvasird("--model", "t=hf:org/none")
        self.assertEqual(result.returncode, 3)
        self.assertIn("does not exist, or is private", result.stderr)

    def test_a_hub_that_is_away_is_worth_another_start(self):
        self.hub.faults["/revision/"] = [{"status": 503, "headers": [("Retry-After", "3600")]}]
        result = self.kvasird("--model", "t=hf:org/tale")
        self.assertEqual(result.returncode, 7, result.stderr)

    def test_a_daemon_that_is_stopped_while_it_downloads(self):
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        self.hub.faults["/large/"] = [{"hold": go_on, "first": 70_000}]
        process = subprocess.Popen([BIN / "kvasird", "--model", "t=hf:org/tale", "--listen", "127.0.0.1:0", "--http_listen",
                                    "off", "--metrics_listen", "off"], env=self.environment(), stderr=subprocess.DEVNULL)
        partial = self.blob(WEIGHTS, ".incomplete")
        wait_until(lambda: partial.exists() and partial.stat().st_size == 70_000, "the first bytes")
        process.terminate()
        self.assertEqual(process.wait(PATIENCE_SECONDS), 0)
        self.pull()
        self.assertEqual(self.hub.asked("/large/")[-1]["range"], "bytes=70000-")
        self.assert_whole()

    def test_a_draft_model_by_name(self):
        config = """
models:
  - name: tale
    path: hf:org/tale
    speculation: {mode: draft, draft: hf:org/tale}
    kv_cache: {capacity_bytes: 64MiB}
"""
        with Daemon(config=config, environment=self.environment()) as daemon:
            self.assertTrue(daemon.cli("generate", "--max_tokens", "4", "Once").stdout.strip())


if __name__ == "__main__":
    unittest.main()
