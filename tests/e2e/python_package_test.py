"""The package of client/python: built as for PyPI, checked by twine, and used sync and asyncio against a daemon, with the
newest grpcio and protobuf of the index and with Debian's, the oldest that it supports."""

import json
import pathlib
import shutil
import sys
import tempfile
import unittest
import zipfile

import harness
import peers
import tools_test
from harness import BUNDLED, Daemon, PATIENCE_SECONDS

PACKAGE = harness.ROOT / "client" / "python"
SCRIPT = pathlib.Path(__file__).with_name("clients") / "python_package_client.py"
TOOLS_SCRIPT = pathlib.Path(__file__).with_name("clients") / "python_package_tools.py"


class PythonPackageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        tools = peers.python("build", "build", "twine", "setuptools>=77", "grpcio-tools")
        # A copy: a build writes beside its sources.
        cls.folder = peers.FOLDER / "package"
        shutil.rmtree(cls.folder, ignore_errors=True)
        (cls.folder / "client").mkdir(parents=True)
        ignore = shutil.ignore_patterns("build", "dist", "*.egg-info", "v1", "__pycache__")
        shutil.copytree(PACKAGE, cls.folder / "client" / "python", ignore=ignore)
        shutil.copytree(harness.ROOT / "proto", cls.folder / "proto")
        shutil.copy(harness.ROOT / "CMakeLists.txt", cls.folder)
        # The wheel comes out of the source package, as it does for who installs that.
        peers.run([tools, "-m", "build", "--no-isolation", "--outdir", cls.folder / "dist"], 600,
                  cwd=cls.folder / "client" / "python")
        cls.tools = tools
        cls.wheel, = (cls.folder / "dist").glob("*.whl")
        cls.source, = (cls.folder / "dist").glob("*.tar.gz")
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls):
        if hasattr(cls, "daemon"):
            cls.daemon.kill()

    def use(self, python, **variables):
        output = peers.run([python, "-W", "error::DeprecationWarning:kvasir_client", SCRIPT, BUNDLED], 5 * PATIENCE_SECONDS,
                           variables={"KVASIR_SERVER": self.daemon.grpc_address, **variables})
        self.assertIn("all good", output)
        self.daemon.wait_kv_idle()

    def test_twine_and_contents(self):
        self.assertIn("PASSED", peers.run([self.tools, "-m", "twine", "check", "--strict", self.wheel, self.source], 60))
        names = zipfile.ZipFile(self.wheel).namelist()
        for name in ("kvasir_client/py.typed", "kvasir_client/v1/generation_pb2.pyi", "kvasir_client/v1/descriptors.bin"):
            self.assertIn(name, names)
        # "kvasir", "google" and "grpc" are other people's packages.
        self.assertEqual({name.split("/")[0] for name in names if not ".dist-info/" in name}, {"kvasir_client"})

    def test_with_the_newest_libraries_of_the_index(self):
        python = peers.python("newest", "grpcio", "protobuf")
        peers.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", self.wheel], 120)
        self.use(python)

    def test_with_the_libraries_of_debian(self):
        unpacked = self.folder / "unpacked"
        zipfile.ZipFile(self.wheel).extractall(unpacked)
        self.use(sys.executable, PYTHONPATH=str(unpacked))

    def test_tools_and_reasoning(self):
        unpacked = self.folder / "unpacked"
        zipfile.ZipFile(self.wheel).extractall(unpacked)
        given = json.dumps({"tools": tools_test.STRICT_TOOLS, "marker": tools_test.MARKER,
                            "answer": tools_test.biases(tools_test.ANSWER)})
        with tempfile.TemporaryDirectory() as folder:
            tools_test.make_model(pathlib.Path(folder))
            with Daemon(models={BUNDLED: pathlib.Path(folder)}) as daemon:
                output = peers.run([sys.executable, TOOLS_SCRIPT, given], 5 * PATIENCE_SECONDS,
                                   variables={"KVASIR_SERVER": daemon.grpc_address, "PYTHONPATH": str(unpacked)})
        self.assertIn("all good", output)

    def test_types(self):
        python = peers.python("types", "mypy", "grpcio", "protobuf", "types-protobuf", "grpc-stubs")
        peers.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", self.wheel], 120)
        user = self.folder / "user.py"
        user.write_text("from kvasir_client import Client\n"
                        "client = Client()\n"
                        "text: str = client.generate('a', max_tokens=1).text\n"
                        "peak: int = client.generate('a').usage.kv_bytes_peak\n"
                        "reveal_type(client.models()[0])\n")
        output = peers.run([python, "-m", "mypy", "--strict", user], 600)
        self.assertIn("generation_pb2.Model", output)
        peers.run([python, "-m", "mypy", "--strict", "-p", "kvasir_client"], 600, cwd=self.folder)
        user.write_text("from kvasir_client import Client\nnumber: int = Client().generate('a').text\n")
        with self.assertRaises(AssertionError):
            peers.run([python, "-m", "mypy", "--strict", user], 600)


if __name__ == "__main__":
    unittest.main(verbosity=2)
