"""The kvasir command line against a real daemon: the names that scripts rely on, goldens, exit codes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

import harness
from harness import BIN, BUNDLED, PATIENCE_SECONDS, Daemon

SCHEMES = {
    # name: (sharing, resident, read) in KV bytes per token at bf16
    "tale-7m-mha": ("mha", 8192, 8192),
    "tale-7m-gqa4": ("gqa", 4096, 4096),
    "tale-7m-gqa2": ("gqa", 2048, 2048),
    "tale-7m-mqa": ("mqa", 1024, 1024),
    "tale-7m-gqa2-cla2": ("gqa+cla", 1024, 2048),
    "tale-7m-mqa-cla2": ("mqa+cla", 512, 1024),
    "tale-7m-mlkv4": ("mqa+mlkv", 512, 1024),
    "tale-7m-mlkv2": ("mqa+mlkv", 256, 1024),
    "tale-7m-mlkv1": ("mqa+mlkv", 128, 1024),
}


def csv(ids):
    return ",".join(map(str, ids))


class BundledModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(compute_type="f32")
        cls.golden = harness.golden()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def test_calls_to_this_machine_go_to_no_proxy(self):
        nowhere = "http://127.0.0.1:1"
        environment = {**os.environ, "http_proxy": nowhere, "https_proxy": nowhere, "grpc_proxy": nowhere, "no_proxy": ""}
        port = self.daemon.grpc_address.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "dns:///localhost"):
            result = subprocess.run([BIN / "kvasir", "health", "--server", f"{host}:{port}", "--timeout", "20"],
                                    env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        text = tempfile.NamedTemporaryFile("w", suffix=".txt")
        text.write("Once upon a time there was a fox.")
        text.flush()
        session = ("generate", "--max_tokens", "2", "--session_id", "behind-a-proxy", "Once")
        commands = (session, ("chat", "--max_tokens", "2"), ("models",), ("tokenize", "a"), ("detokenize", "1"),
                    ("score", "--file", text.name), ("bench", "--requests", "2", "--streams", "1", "--max_tokens", "2"),
                    ("sessions",), ("sessions", "delete", "behind-a-proxy"), ("requests",), ("top", "--frames", "1"),
                    ("stats",), ("health",))
        example = [sys.executable, str(harness.ROOT / "client" / "python" / "generate.py"), "--max_tokens", "2", "a"]
        for command in (*([str(BIN / "kvasir"), *command] for command in commands), example):
            with self.subTest(" ".join(command[-3:])):
                result = subprocess.run(command, env={**environment, "KVASIR_SERVER": f"localhost:{port}"}, input="Hi\n/exit\n",
                                        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        # Abort and drain end something: that they arrive is enough.
        nothing = subprocess.run([BIN / "kvasir", "abort", "no-such-request", "--server", f"localhost:{port}"], env=environment,
                                 capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        self.assertIn("NOT_FOUND", nothing.stderr)
        text.close()

    def test_generate_json_equals_the_golden(self):
        for prompt in self.golden["prompts"]:
            with self.subTest(prompt["name"]):
                out = self.daemon.cli_json("generate", "--model", BUNDLED, "--max_tokens", 48, "--temperature", 0,
                                           "--token_ids", csv(prompt["ids"]))
                self.assertEqual(out["token_ids"], prompt["greedy_ids"])
                self.assertEqual(out["text"], prompt["greedy_text"])
                self.assertEqual(out["finish_reason"], "length")
                self.assertEqual(out["usage"]["prompt_tokens"], len(prompt["ids"]))
                self.assertEqual(out["usage"]["completion_tokens"], 48)
                self.assertIn("cached_tokens", out["usage"])
                self.assertGreater(out["usage"]["kv_bytes_peak"], 0)

    def test_generate_streams_plain_text_and_stats(self):
        prompt = self.golden["prompts"][0]
        result = self.daemon.cli("generate", "--max_tokens", 48, "--temperature", 0, "--stats", prompt["text"])
        self.assertEqual(result.stdout, prompt["greedy_text"] + "\n")
        self.assertIn("KV cache: peak", result.stderr)

    def test_generate_passes_every_field(self):
        out = self.daemon.cli_json(
            "generate", "--temperature", 0.8, "--top_p", 0.9, "--top_k", 50, "--min_p", 0.01, "--repetition_penalty",
            1.1, "--presence_penalty", 0.1, "--frequency_penalty", 0.1, "--logit_bias", "5:-100,6:-100", "--seed", 3,
            "--n", 2, "--max_tokens", 12, "--min_tokens", 2, "--stop", "zebra", "--stop_token_ids", "9", "--logprobs", 1,
            "--prompt_logprobs", 1, "--request_id", "cli-1", "--priority", 5, "--skip_special_tokens=false", "--ignore_eos",
            "Once upon a time")
        self.assertEqual(out["request_id"], "cli-1")
        self.assertEqual(len(out["completions"]), 2)
        self.assertEqual(len(out["logprobs"]), len(out["token_ids"]))
        self.assertEqual(len(out["prompt_logprobs"]), out["usage"]["prompt_tokens"] - 1)
        self.assertEqual("".join(token["text"] for token in out["prompt_logprobs"]), "Once upon a time")
        self.assertEqual("".join(token["text"] for token in out["logprobs"]), out["text"])

    def test_a_folder_where_a_file_is_wanted(self):
        for arguments in (("tokenize", "--file", "/tmp"), ("generate", "--messages", "/tmp"), ("score", "--file", "/tmp"),
                          ("models", "--api_key_file", "/tmp"), ("models", "--tls_ca", "/tmp"), ("tokenize", "--file", "/dev/zero")):
            with self.subTest(arguments):
                result = self.daemon.cli(*arguments, check=False)
                self.assertIn(result.returncode, (1, 2), result.stderr)
                self.assertRegex(result.stderr, "/tmp: it is a directory|/dev/zero has more than")

    def test_the_default_sampling_is_the_models_own(self):
        # generation_config.json says temperature 0.7: two seeds differ; proto3 zeros would make both greedy.
        texts = {self.daemon.cli_json("generate", "--max_tokens", 24, "--seed", seed, "Once upon a time")["text"]
                 for seed in (1, 2, 3)}
        self.assertGreater(len(texts), 1)

    def test_sessions_commands(self):
        generate = ("generate", "--temperature", 0, "--max_tokens", 4, "--session_id", "s1")
        self.daemon.cli_json(*generate, "Once upon a time there was a fox who lived")
        second = self.daemon.cli_json(*generate, " in a wood")
        self.assertGreater(second["usage"]["cached_tokens"], 0)
        listed = self.daemon.cli_json("sessions", "list")
        self.assertEqual([s["session_id"] for s in listed["sessions"]], ["s1"])
        self.assertEqual(self.daemon.cli_json("sessions", "get", "s1")["turns"], 2)
        self.assertEqual(self.daemon.cli_json("sessions", "fork", "s1", "s2")["session_id"], "s2")
        for name in ("s1", "s2"):
            self.daemon.cli("sessions", "delete", name)
        self.assertEqual(self.daemon.cli_json("sessions")["sessions"], [])
        gone = self.daemon.cli("sessions", "get", "s1", "--json", check=False)
        self.assertEqual(gone.returncode, 1)
        self.assertEqual(json.loads(gone.stdout)["error"]["code"], "NOT_FOUND")

    def test_chat_keeps_its_history_on_the_server(self):
        result = self.daemon.cli("chat", "--json", "--temperature", "0", "--max_tokens", "8",
                                 stdin="Once upon a time\nthe fox said\n/exit\n")
        turns = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual(len(turns), 2)
        self.assertEqual(turns[0]["usage"]["cached_tokens"], 0)
        self.assertGreaterEqual(turns[1]["usage"]["cached_tokens"], turns[0]["usage"]["prompt_tokens"])
        self.assertEqual(self.daemon.cli_json("sessions")["sessions"], [])

    def test_tokenize_and_back(self):
        prompt = self.golden["prompts"][1]
        out = self.daemon.cli_json("tokenize", "--", prompt["text"])
        self.assertEqual(out, {"tokens": len(prompt["ids"]), "token_ids": prompt["ids"]})
        self.assertEqual(self.daemon.cli("tokenize", prompt["text"]).stdout.strip(), csv(prompt["ids"]))
        back = self.daemon.cli_json("detokenize", "--skip_special_tokens", csv(prompt["ids"]))
        self.assertEqual(back["text"], prompt["text"])

    def test_stats_requests_and_health(self):
        stats = self.daemon.cli_json("stats")
        model = stats["models"][0]
        self.assertEqual(model["model"], BUNDLED)
        self.assertEqual(model["kv_live_bytes"] + model["kv_cached_bytes"] + model["kv_free_bytes"],
                         model["kv_capacity_bytes"])
        self.assertEqual(self.daemon.cli_json("requests"), {"total": 0, "requests": []})
        for command in ("stats", "requests", "models", "sessions"):
            self.assertTrue(self.daemon.cli(command).stdout)
        self.assertEqual(self.daemon.cli("health").stdout, "SERVING\n")
        self.assertEqual(self.daemon.cli("health", "no.such.Service", check=False).returncode, 1)

    def test_bench_reports_what_its_readers_saw(self):
        shape = ("--requests", 12, "--prompt_tokens", 160, "--shared_prefix_tokens", 128, "--max_tokens", 8,
                 "--progress=false")
        for loop in (("--streams", 4), ("--rate", 200)):
            with self.subTest(loop[0]):
                out = self.daemon.cli_json("bench", *shape, *loop, "--seed", len(loop[0]))
                self.assertEqual(out["succeeded"], 12)
                self.assertEqual(out["errors"], {})
                self.assertEqual(out["prompt_tokens"], 12 * 160)
                self.assertEqual(out["completion_tokens"], 12 * 8)
                # All but those that started together with the first found its beginning.
                self.assertGreater(out["cached_ratio"], 0.3)
                self.assertEqual(out["time_to_first_token_seconds"]["count"], 12)
                self.assertGreater(out["inter_token_latency_seconds"]["p99"], 0)
        cancelled = self.daemon.cli_json("bench", *shape, "--cancel_after_tokens", 2)
        self.assertEqual(cancelled["cancelled_on_purpose"], 12)
        self.daemon.wait_kv_idle()
        self.assertIn("time to first token", self.daemon.cli("bench", *shape).stdout)
        refused = self.daemon.cli("bench", "--prompt_tokens", 5000, "--requests", 2, "--json", check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertEqual(json.loads(refused.stdout)["errors"], {"INVALID_ARGUMENT": 2})
        self.assertEqual(self.daemon.cli("bench", "--rate", 0, check=False).returncode, 2)
        self.assertEqual(self.daemon.cli("bench", "--requests", 0, check=False).returncode, 2)

    def test_top_shows_the_pool_and_who_holds_it(self):
        frames = [json.loads(line) for line in self.daemon.cli("top", "--json", "--frames", 2, "--interval",
                                                               0.1).stdout.splitlines()]
        self.assertEqual(len(frames), 2)
        self.assertGreater(frames[1]["uptime_seconds"], frames[0]["uptime_seconds"])
        call = self.daemon.generation.Generate(harness.long_request(n=2))
        next(call)
        screen = self.daemon.cli("top", "--frames", 1).stdout
        call.cancel()
        self.assertIn(f"at {self.daemon.grpc_address}", screen)
        self.assertRegex(screen, r"gqa, KV per token: [24].0 KiB held")
        self.assertRegex(screen, "requests 2 running, 0 waiting")
        self.assertRegex(screen, r"KV \[#+\+*\.*\] live ")
        self.daemon.wait_kv_idle()
        # Into a pipe it shows one screen, with rates, and ends; so it does when its reader leaves.
        once = self.daemon.cli("top", "--interval", 0.1).stdout
        self.assertEqual(once.count("kvasird "), 1)
        self.assertRegex(once, "tokens/s 0.0 generated")
        shell = subprocess.run(f"{BIN / 'kvasir'} top --server {self.daemon.grpc_address} --json --interval 0.05 | head -n 2",
                               shell=True, stdout=subprocess.PIPE, timeout=PATIENCE_SECONDS, check=False)
        self.assertEqual(shell.stdout.count(b"\n"), 2)
        nobody = subprocess.run([str(BIN / "kvasir"), "top", "--server", "127.0.0.1:1"], stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(nobody.returncode, 1)
        self.assertIn("UNAVAILABLE", nobody.stderr)

    def test_errors_explain_themselves(self):
        bad = self.daemon.cli("generate", "--temperature", -1, "x", check=False)
        self.assertEqual(bad.returncode, 1)
        self.assertIn("INVALID_ARGUMENT", bad.stderr)
        self.assertIn("temperature", bad.stderr)
        self.assertEqual(self.daemon.cli("generate", "--temprature", 1, "x", check=False).returncode, 2)
        late = self.daemon.cli("generate", "--timeout", 0.05, "--n", 32, "--max_tokens", 1900, "--ignore_eos", "x",
                               check=False)
        self.assertEqual(late.returncode, 1)
        self.assertIn("DEADLINE_EXCEEDED", late.stderr)
        nobody = subprocess.run([str(BIN / "kvasir"), "models", "--server", "127.0.0.1:1"], stderr=subprocess.PIPE,
                                text=True, check=False)
        self.assertEqual(nobody.returncode, 1)
        self.assertIn("UNAVAILABLE", nobody.stderr)

    def test_a_conversation_that_is_none(self):
        deep = '{"messages":[{"role":"user","content":' + "[" * 100000 + "]" * 100000 + "}]}"
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "conversation.json"
            for text, word in ((deep, "levels deep, the limit is 128"), ('{"messages":', "is not JSON"), ("3", "messages")):
                file.write_text(text)
                for command, flag in (("render", "--conversation"), ("generate", "--messages")):
                    refused = self.daemon.cli(command, flag, file, check=False)
                    self.assertIn(refused.returncode, (1, 2), (command, refused))
                    self.assertIn(word, refused.stderr)

    def test_interrupt_cancels_the_request(self):
        process = subprocess.Popen(
            [str(BIN / "kvasir"), "generate", "--server", self.daemon.grpc_address, "--max_tokens", "1900", "--ignore_eos",
             "Once upon a time"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.read(20)  # it streams
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 130)
        self.daemon.wait_kv_idle()

    def test_the_python_example_streams(self):
        prompt = self.golden["prompts"][0]
        result = subprocess.run(
            [sys.executable, str(harness.ROOT / "client" / "python" / "generate.py"), "--server", self.daemon.grpc_address,
             "--temperature", "0", "--max_tokens", "48", prompt["text"]],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_SECONDS, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout, prompt["greedy_text"] + "\n")
        bad = subprocess.run(
            [sys.executable, str(harness.ROOT / "client" / "python" / "generate.py"), "--server", self.daemon.grpc_address,
             "--temperature", "-1", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            timeout=PATIENCE_SECONDS, check=False)
        self.assertEqual(bad.returncode, 1)
        self.assertIn("temperature", bad.stderr)


class AllModelsTest(unittest.TestCase):
    """All nine sharing schemes in one daemon."""

    @classmethod
    def setUpClass(cls):
        cls.folders = {name: harness.model_folder(name) for name in SCHEMES}
        cls.daemon = Daemon(models=cls.folders, compute_type="f32", kv_capacity="64MiB")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def test_greedy_ids_equal_the_goldens(self):
        for name, folder in self.folders.items():
            for prompt in harness.golden(folder)["prompts"]:
                with self.subTest(f"{name} {prompt['name']}"):
                    out = self.daemon.cli_json("generate", "--model", name, "--max_tokens", 48, "--temperature", 0,
                                               "--ignore_eos", "--token_ids", csv(prompt["ids"]))
                    self.assertEqual(out["token_ids"], prompt["greedy_ids"])

    def test_score_equals_the_golden(self):
        corpus = harness.MODELS.parent / "corpus" / "test.txt"
        if not corpus.exists():
            print(f"*** {corpus} is not on this machine: scoring is not tested", file=sys.stderr)
            self.skipTest(f"{corpus} is missing")
        # The whole measure for one model; windows as long as the context, and the shorter ones.
        nll = harness.golden(self.folders["tale-7m-gqa2-cla2"])["nll"]
        for window in (512, 2048):
            out = self.daemon.cli_json("score", "--model", "tale-7m-gqa2-cla2", "--file", corpus, "--window", window,
                                       "--max_tokens", nll["tokens"])
            self.assertEqual(out["tokens"], nll["tokens"])
            self.assertAlmostEqual(out["nll_mean"], nll[f"window_{window}"], delta=1e-4)
            self.assertGreater(out["perplexity"], 1)


class KvBytesTest(unittest.TestCase):
    def test_kv_bytes_per_token_follow_the_formula(self):
        folders = {name: harness.model_folder(name) for name in SCHEMES}
        with Daemon(models=folders, compute_type="bf16", kv_capacity="16MiB") as daemon:
            listed = {m["name"]: m for m in daemon.cli_json("models")}
            for name, (sharing, resident, read) in SCHEMES.items():
                with self.subTest(name):
                    self.assertEqual(listed[name]["sharing"], sharing)
                    self.assertEqual(listed[name]["kv_bytes_per_token_resident"], resident)
                    self.assertEqual(listed[name]["kv_bytes_per_token_read"], read)


if __name__ == "__main__":
    unittest.main(verbosity=2)
