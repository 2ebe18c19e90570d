"""One version for all that a release hands out: CMakeLists.txt has it (and so packages, C++ and Python clients), and the
changelog, the chart, the image and both programs must say the same."""

import os
import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("KVASIR_BIN", ROOT / "build/release/bin"))


def found(pattern, path):
    """The first match in a file of the repository."""
    match = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    assert match, f"{path} has nothing like {pattern}"
    return match[1]


VERSION = found(r"^project\(kvasir VERSION (\d+\.\d+\.\d+) ", "CMakeLists.txt")


class OneVersion(unittest.TestCase):
    def test_files(self):
        for path, pattern in (("CHANGELOG.md", r"^## (\S+)"),
                              ("deploy/helm/kvasir/Chart.yaml", r"^version: (\S+)$"),
                              ("deploy/helm/kvasir/Chart.yaml", r'^appVersion: "(\S+)"$'),
                              ("Dockerfile", r'image\.version="([^"]+)"')):
            with self.subTest(path):
                self.assertEqual(found(pattern, path), VERSION)

    def test_what_takes_it_from_cmake(self):
        # The Python client, where packaging reads the number from.
        pattern = found(r"""re\.search\(r"(project.*?)", """, "client/python/setup.py")
        self.assertEqual(found(pattern, "CMakeLists.txt"), VERSION)
        self.assertIn("set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})", (ROOT / "deploy/packages/CMakeLists.txt").read_text())

    def test_programs(self):
        for program in ("kvasird", "kvasir"):
            if not (BIN / program).exists():
                self.skipTest(f"******** SKIPPED: {BIN / program} is not built")
            said = subprocess.run([BIN / program, "--version"], capture_output=True, text=True, check=True).stdout
            self.assertEqual(said, f"{program} {VERSION}\n")


if __name__ == "__main__":
    unittest.main()
