"""One cache for Kvasir and Hugging Face's own library, from PyPI: each finds what the other downloaded, and goes on with
nothing that is there. Skipped, loudly, where PyPI does not answer."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "e2e"), str(pathlib.Path(__file__).resolve().parent)]
import peers
from hub_case import WEIGHTS, HubTest
from harness import PATIENCE_SECONDS

DOWNLOAD = """
import huggingface_hub, json, sys
options = json.loads(sys.argv[1])
print(huggingface_hub.snapshot_download("org/tale", **options))
"""
FILES = ["*.json", "*.jinja", "model.safetensors"]


class OneCache(HubTest):
    def library(self, environment=None, **options):
        """Where huggingface_hub has the model."""
        result = subprocess.run([peers.python("hub", "huggingface_hub"), "-c", DOWNLOAD, json.dumps(options)],
                                env=self.environment(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1",
                                                     **(environment or {})),
                                capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip().splitlines()[-1]

    def test_the_library_finds_what_was_pulled(self):
        report = self.pull()
        self.hub.requests.clear()
        self.assertEqual(self.library(local_files_only=True), report["path"])
        self.assertFalse(self.hub.requests)
        # Asked for the same files it downloads none of them again.
        self.assertEqual(self.library(allow_patterns=FILES), report["path"])
        self.assertFalse([request for request in self.hub.asked("/") if request["cdn"]])
        self.assert_whole()

    def test_what_the_library_downloaded_is_found(self):
        path = self.library(allow_patterns=FILES)
        self.assertEqual(self.pull(environment={"HF_HUB_OFFLINE": "1"})["path"], path)
        self.hub.requests.clear()
        report = self.pull()
        self.assertEqual((report["path"], report["downloaded_bytes"]), (path, 0))
        self.assertFalse(self.hub.asked("/large/"))
        # All files of the repository, and still the ones that are needed.
        self.library()
        self.assertEqual([file["path"] for file in self.pull()["files"]][-1], WEIGHTS)

    def test_what_is_missing_is_added_to_the_librarys(self):
        self.library(allow_patterns=["*.json"])
        report = self.pull()
        self.assertEqual(report["downloaded_bytes"],
                         len(self.repo.files[WEIGHTS]) + len(self.repo.files["chat_template.jinja"]))
        self.assertEqual(self.library(local_files_only=True, allow_patterns=FILES), report["path"])
        self.assertTrue(os.path.islink(pathlib.Path(report["path"]) / WEIGHTS))


if __name__ == "__main__":
    unittest.main()
