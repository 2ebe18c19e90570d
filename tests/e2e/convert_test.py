"""kvasir convert from the command line: what it writes is served, what it cannot do it says in one line with exit code 1
and leaves nothing behind."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import unittest

import harness
from harness import BIN, BUNDLED_FOLDER, PATIENCE_SECONDS, Daemon, wait_until

PROMPT = "Once upon a time there was"
TEXT = "Once upon a time there was a king who had three sons, and the youngest of them was called Dummling. " * 8


def convert(*arguments, environment=None):
    return subprocess.run([BIN / "kvasir", "convert", *map(str, arguments)], capture_output=True, text=True,
                          timeout=PATIENCE_SECONDS,
                          check=False, env=environment)


class ConvertTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.place = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def convert_json(self, *arguments):
        result = convert(BUNDLED_FOLDER, *arguments, "--json")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return json.loads(result.stdout)

    def refused(self, *arguments, code=1, says=""):
        before = sorted(os.listdir(self.place))
        result = convert(*arguments)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertIn(says, result.stderr)
        if code == 1:
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertEqual(sorted(os.listdir(self.place)), before)

    def test_what_is_written_is_served(self):
        recipes = {
            "mqa": (["--kv_heads", 1], "mqa", 1024, 1024),
            "cla": (["--cla", 2], "gqa+cla", 1024, 2048),
            "mlkv": (["--kv_heads", 1, "--mlkv", 2, "--layers", "running_mean"], "mqa+mlkv", 256, 1024),
            "random": (["--kv_heads", 1, "--heads", "random", "--seed", 7], "mqa", 1024, 1024),
            "int4": (["--weights", "int4"], "gqa", 2048, 2048),
            "blocks.gguf": (["--weights", "q8_0", "--kv_heads", 1], "mqa", 1024, 1024),
            "f32": (["--weights", "f32", "--shard_bytes", 4000000], "gqa", 2048, 2048),
        }
        models = {"source": BUNDLED_FOLDER}
        for name, (arguments, sharing, resident, read) in recipes.items():
            report = self.convert_json(self.place / name, *arguments)
            self.assertEqual(report["result"]["sharing"], sharing)
            self.assertEqual(report["result"]["kv_bytes_per_token_resident"], resident)
            self.assertEqual(report["result"]["kv_bytes_per_token_read"], read)
            models[name] = self.place / name
        self.assertGreater(report["files"], 3)
        models = {name.replace(".", "-"): path for name, path in models.items()}
        with Daemon(models=models, compute_type="f32", kv_capacity="16MiB") as daemon:
            served = {model["name"]: model for model in daemon.cli_json("models")}
            texts = {}
            for name in models:
                out = daemon.cli_json("generate", "--model", name, "--max_tokens", 24, "--temperature", 0, PROMPT)
                self.assertEqual(len(out["token_ids"]), 24)
                texts[name] = out["text"]
            for name, (_, sharing, resident, read) in recipes.items():
                name = name.replace(".", "-")
                self.assertEqual(served[name]["sharing"], sharing)
                for key, of_source in (("kv_bytes_per_token_resident", resident), ("kv_bytes_per_token_read", read)):
                    self.assertEqual(served[name][key] * 2048, of_source * served["source"][key])
        self.assertEqual(texts["f32"], texts["source"])
        self.assertNotEqual(texts["mqa"], texts["source"])

    def test_the_report_has_scores_before_and_after(self):
        text = self.place / "text"
        text.write_text(TEXT)
        report = self.convert_json(self.place / "mqa", "--kv_heads", 1, "--score", text, "--window", 64)
        score = report["score"]
        self.assertEqual(score["window"], 64)
        self.assertEqual(score["before"]["tokens"], score["after"]["tokens"])
        self.assertLess(score["before"]["nll_mean"], score["after"]["nll_mean"])
        with Daemon(models={"m": self.place / "mqa"}, compute_type="f32") as daemon:
            again = daemon.cli_json("score", "--file", text, "--window", 64, "--progress=false")
        self.assertAlmostEqual(again["nll_mean"], score["after"]["nll_mean"], places=5)
        plain = convert(BUNDLED_FOLDER, self.place / "cla", "--cla", 2, "--score", text, "--max_tokens", 64)
        self.assertEqual(plain.returncode, 0, plain.stderr)
        self.assertRegex(plain.stdout, r"sharing +gqa +-> +gqa\+cla\n")
        self.assertRegex(plain.stdout, r"negative log-likelihood +\d+\.\d{4} +-> +\d+\.\d{4}\n")
        self.assertIn("100%", plain.stderr)

    def test_a_text_that_cannot_be_scored_is_found_before_or_leaves_the_result(self):
        self.refused(BUNDLED_FOLDER, self.place / "x", "--kv_heads", 1, "--score", "/no/text", says="cannot read /no/text")
        empty = self.place / "empty"
        empty.write_text("")
        result = convert(BUNDLED_FOLDER, self.place / "mqa", "--kv_heads", 1, "--score", empty)
        self.assertEqual(result.returncode, 1)
        self.assertIn("is written, but was not scored", result.stderr)
        self.assertTrue((self.place / "mqa/config.json").exists())

    def test_refusals(self):
        out = self.place / "x"
        self.refused("/no/model", out, "--kv_heads", 1, says="there is no model at /no/model")
        self.refused(BUNDLED_FOLDER, out, says="nothing to convert")
        self.refused(BUNDLED_FOLDER, out, "--kv_heads", 3, says="kv_heads is 3, but")
        self.refused(BUNDLED_FOLDER, out, "--kv_heads", 2, says="there is nothing to convert")
        self.refused(BUNDLED_FOLDER, out, "--cla", 9, says="from 2 to its 8 layers")
        self.refused(BUNDLED_FOLDER, out, "--heads", "median", "--kv_heads", 1, says="must be mean, first or random")
        self.refused(BUNDLED_FOLDER, out, "--weights", "int3", says="must be one of")
        self.refused(BUNDLED_FOLDER, self.place / "no/x", "--kv_heads", 1, says="make it first")
        self.refused(BUNDLED_FOLDER, out, "--kv-head", 1, code=2, says="did you mean")
        self.refused(BUNDLED_FOLDER, code=2, says="takes a SOURCE and an OUTPUT")
        out.mkdir()
        self.refused(BUNDLED_FOLDER, out, "--kv_heads", 1, says="--force replaces it")
        (out / "letter").write_text("dear")
        self.refused(BUNDLED_FOLDER, out, "--kv_heads", 1, "--force", says="is no model")
        broken = convert(BUNDLED_FOLDER, out, "--kv_heads", 3, "--json")
        self.assertEqual(broken.returncode, 1)
        self.assertEqual(json.loads(broken.stdout)["error"]["code"], "INVALID_ARGUMENT")

    def test_works_offline_and_from_any_folder(self):
        environment = {**os.environ, "KVASIR_SERVER": "127.0.0.1:1", "PATH": "/usr/bin:/bin"}
        result = subprocess.run([BIN.resolve() / "kvasir", "convert", pathlib.Path(BUNDLED_FOLDER).resolve(), "result",
                                 "--kv_heads", "1"], cwd=self.place, env=environment, capture_output=True, text=True,
                                timeout=PATIENCE_SECONDS, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertTrue((self.place / "result/model.safetensors").exists())
        self.assertEqual(os.listdir(self.place), ["result"])

    def test_an_interrupt_leaves_nothing(self):
        # A model large enough to be met in the middle: 400 MB of zeros that take no room on the disk.
        big = self.place / "big"
        big.mkdir()
        rows = 200_000_000 // 1024
        config = json.loads((pathlib.Path(BUNDLED_FOLDER) / "config.json").read_text())
        config.update(hidden_size=1024, vocab_size=rows, num_hidden_layers=1, intermediate_size=8)
        (big / "config.json").write_text(json.dumps(config))
        d = config["head_dim"]
        shapes = {"model.embed_tokens.weight": [rows, 1024], "model.norm.weight": [1024]}
        layer = "model.layers.0."
        shapes |= {layer + "input_layernorm.weight": [1024], layer + "post_attention_layernorm.weight": [1024],
                   layer + "self_attn.q_proj.weight": [8 * d, 1024], layer + "self_attn.k_proj.weight": [2 * d, 1024],
                   layer + "self_attn.v_proj.weight": [2 * d, 1024], layer + "self_attn.o_proj.weight": [1024, 8 * d],
                   layer + "mlp.gate_proj.weight": [8, 1024], layer + "mlp.up_proj.weight": [8, 1024],
                   layer + "mlp.down_proj.weight": [1024, 8]}
        header, at = {}, 0
        for name, shape in shapes.items():
            end = at + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
            at = end
        text = json.dumps(header).encode()
        with open(big / "model.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + at)
        for number in (signal.SIGINT, signal.SIGTERM):
            process = subprocess.Popen([BIN / "kvasir", "convert", big, self.place / "result", "--kv_heads", "1",
                                        "--weights", "f32"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            wait_until(lambda: [n for n in os.listdir(self.place) if "partial" in n and
                                any(f.stat().st_size > 1 << 20 for f in (self.place / n).glob("model*"))],
                       "a result is being written")
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
            self.assertNotEqual(process.returncode, 0)
            if number == signal.SIGINT:
                self.assertEqual(process.returncode, 130, stderr)
                self.assertRegex(stderr, re.compile("the conversion was stopped"))
            wait_until(lambda: os.listdir(self.place) == ["big"], "nothing is left behind")


if __name__ == "__main__":
    unittest.main(verbosity=2)
