"""The C++ client as another program gets it: installed, found by find_package, linked, and used against a daemon."""

import pathlib
import subprocess
import tempfile
import unittest

import peers
from harness import BIN, Daemon, PATIENCE_SECONDS, greedy

BUILD_SECONDS = 580
USER = pathlib.Path(__file__).with_name("cpp_package")


class CppPackageTest(unittest.TestCase):
    def test_find_package(self):
        with tempfile.TemporaryDirectory() as folder:
            prefix, build = pathlib.Path(folder, "prefix"), pathlib.Path(folder, "build")
            peers.run(["cmake", "--install", BIN.resolve().parent, "--component", "client", "--prefix", prefix], 60)
            peers.run(["cmake", "-S", USER, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"], BUILD_SECONDS)
            peers.run(["cmake", "--build", build], BUILD_SECONDS)
            with Daemon() as daemon:
                text = peers.run([build / "user", daemon.grpc_address], PATIENCE_SECONDS)
                self.assertEqual(text, daemon.generate(greedy(max_tokens=12)).text[0])
                failed = subprocess.run([build / "user", "127.0.0.1:1"], stderr=subprocess.PIPE, text=True, check=False)
                self.assertIn("UNAVAILABLE", failed.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
