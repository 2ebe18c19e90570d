"""Property test of the tokenizer: 500 hard strings with more than 30 tokenizers, ids and streamed text beside those of PyPI's
tokenizers. KVASIR_SEED draws other strings. Skipped, loudly, where the index does not answer."""

import os
import pathlib
import re
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

import peers  # noqa: E402  (of the folder above)

COMPARE = pathlib.Path(os.environ["KVASIR_BIN"]).resolve().parent / "tests" / "compare_encodings"


class TokenizerReferenceTest(unittest.TestCase):
    def test_hard_strings(self):
        # The version of the crate in text/Cargo.toml, or the fixes after it.
        python = peers.python("tokenizers", "tokenizers>=0.23.2,<0.24")
        seed = os.environ.get("KVASIR_SEED", "15")
        with tempfile.TemporaryDirectory() as folder:
            training, encodings = pathlib.Path(folder, "training.txt"), pathlib.Path(folder, "encodings.jsonl")
            pages = sorted((ROOT / "docs").glob("**/*.md"))
            training.write_text("\n".join(page.read_text() for page in pages))
            peers.run([python, "-B", HERE / "reference_encodings.py", training, seed, encodings], 500,
                      variables={"TOKENIZERS_PARALLELISM": "false"})
            output = peers.run([COMPARE, encodings], 300)
        found = re.search(r"(\d+) tokenizers, (\d+) texts, 0 differ, (\d+) without a stream", output)
        self.assertIsNotNone(found, output)
        self.assertGreaterEqual(int(found[1]), 30)
        self.assertGreaterEqual(int(found[2]), 500)
        self.assertLess(int(found[3]), 1000, "of twenty thousand: the decoders that rewrite are two")


if __name__ == "__main__":
    unittest.main(verbosity=2)
