"""kvasir-quality-bench and recall_model.py at a small size: the model retrieves, and methods can be told apart by it."""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = pathlib.Path(os.environ.get("KVASIR_BIN", ROOT / "build" / "release" / "bin"))
TOKENIZER = ROOT / "deploy" / "models" / "tale-7m-gqa2"


def text():
    """Words in an order that nothing but memory can tell."""
    vocabulary = json.loads((TOKENIZER / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(w[1:] for w in vocabulary if w[0] == "Ġ" and len(w) > 4 and w[1:].isascii() and w[1:].islower())
    pick = random.Random(1)
    return " ".join(pick.choice(words) for _ in range(4000))


class QualityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.text = pathlib.Path(cls.folder.name) / "text"
        cls.text.write_text(text())

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def make(self, scheme, name):
        folder = pathlib.Path(self.folder.name) / name
        subprocess.run([sys.executable, "-B", HERE / "made_models/recall_model.py", "--scheme", scheme, "--tokenizer", TOKENIZER,
                        "--out", folder], check=True)
        return folder

    def scores(self, scheme):
        """{(task, method): score} at compression 8; (task, "dense") too."""
        output = subprocess.run(
            [BIN / "kvasir-quality-bench", "--model", self.make(scheme, scheme), "--text", self.text,
             "--tasks", "repetition,needle", "--compressions", "8", "--context", "768", "--samples", "3"],
            stdout=subprocess.PIPE, text=True, check=True).stdout
        rows = [json.loads(line) for line in output.splitlines()]
        for row in rows:
            self.assertEqual(row["count"], 3)
            # An eighth of 768 positions, of which these long words need but half. The oracle's ranking reads all of K.
            if row["method"] not in ("dense", "exact top-k (oracle)"):
                self.assertLess(row["bytes_share"], 0.3, row)
        return {(row["task"], row["method"]): row["score"] for row in rows}

    def check(self, scheme, methods):
        scores = self.scores(scheme)
        # Two of three needles: one in the words of another is hard for dense attention too.
        dense = {"repetition": scores["repetition", "dense"], "needle": scores["needle", "dense"]}
        self.assertGreaterEqual(dense["repetition"], 240)
        self.assertGreater(dense["needle"], 0.6)
        for method in ["exact top-k (oracle)"] + methods:
            with self.subTest(method=method):
                self.assertGreaterEqual(scores["repetition", method], 0.9 * dense["repetition"])
                self.assertGreaterEqual(scores["needle", method], dense["needle"])
        # What it does not attend to, it cannot copy: the scores are not the text's doing.
        self.assertLess(scores["repetition", "window and sinks"], 0.2 * dense["repetition"])
        self.assertLess(scores["needle", "window and sinks"], dense["needle"])

    def test_heads_of_their_own(self):
        self.check("mha", ["SparQ", "SparQ, corrected mean"])

    def test_layers_that_borrow(self):
        self.check("cla", ["SparQ", "SparQ, selection reuse"])

    def test_the_same_seed_makes_the_same_model(self):
        first, second = self.make("gqa", "first"), self.make("gqa", "second")
        self.assertEqual((first / "model.safetensors").read_bytes(), (second / "model.safetensors").read_bytes())


if __name__ == "__main__":
    unittest.main(verbosity=2)
