"""A hub of this machine with one repository on it, the bundled model, and kvasir pull against it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "e2e"), str(pathlib.Path(__file__).resolve().parent)]
import fake_hub
from harness import BIN, BUNDLED_FOLDER, PATIENCE_SECONDS

NEEDED = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
WEIGHTS = "model.safetensors"


def tale():
    """The bundled model as a repository, with what nobody needs beside it."""
    files = {name: (BUNDLED_FOLDER / name).read_bytes() for name in NEEDED}
    files.update({"README.md": b"# Tale", ".gitattributes": b"*", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"o",
                  "original/consolidated.safetensors": b"twice", "chat_template.jinja": b"{{ messages[0].content }}"})
    return fake_hub.Repo(files, large=[WEIGHTS, "pytorch_model.bin"])


class HubTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvasir_hub_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.hub = fake_hub.FakeHub(self.folder)
        self.addCleanup(self.hub.close)
        self.repo = self.hub.repos["org/tale"] = tale()
        self.cache = self.folder / "hf" / "hub"
        self.storage = self.cache / "models--org--tale"

    def environment(self, **more):
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and "proxy" not in name.lower()}
        others = {"XDG_CACHE_HOME": "", "CURL_CA_BUNDLE": "", "REQUESTS_CA_BUNDLE": "", "SSL_CERT_DIR": ""}
        return {**kept, **others, "HOME": str(self.folder), "HF_HOME": str(self.folder / "hf"), "HF_ENDPOINT": self.hub.endpoint,
                "SSL_CERT_FILE": str(self.hub.ca_file), **more}

    def start(self, *words, environment=None, program=BIN / "kvasir", **options):
        return subprocess.Popen([program, "pull", *words], env=self.environment(**(environment or {})), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def run_pull(self, *words, environment=None, **options):
        process = self.start(*words, environment=environment, **options)
        out, err = process.communicate(timeout=2 * PATIENCE_SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def pull(self, *words, **options):
        """The report of a pull that must succeed."""
        result = self.run_pull("--json", *(words or ["hf:org/tale"]), **options)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return {**json.loads(result.stdout), "stderr": result.stderr}

    def refused(self, *words, **options):
        """What is said of a pull that must fail."""
        result = self.run_pull(*(words or ["hf:org/tale"]), **options)
        self.assertEqual((result.returncode, result.stdout), (1, ""), result.stderr)
        return result.stderr

    def blob(self, path, suffix=""):
        return self.storage / "blobs" / (self.repo.digest(path) + suffix)

    def assert_whole(self, names=NEEDED + ["chat_template.jinja"]):
        snapshot = self.storage / "snapshots" / self.repo.commit
        found = sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if not path.is_dir())
        self.assertEqual(found, sorted(names))
        for name in names:
            self.assertEqual((snapshot / name).read_bytes(), self.repo.files[name], name)
        self.assertEqual(sorted(path.name for path in (self.storage / "blobs").iterdir()),
                         sorted(self.repo.digest(name) for name in names))
