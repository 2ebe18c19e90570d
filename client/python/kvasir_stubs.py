"""Compiles the .proto files of this repository into Python modules, in a temporary folder, and makes them importable.

    import kvasir_stubs
    kvasir_stubs.load()
    from kvasir.v1 import generation_pb2, generation_pb2_grpc

Needs the Debian packages python3-grpcio, python3-protobuf, protobuf-compiler and protobuf-compiler-grpc. (The protoc
inside python3-grpc-tools is too old for `optional` fields.) A project of its own would generate the stubs once, at
build time, with the same command.
"""

import atexit
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROTO_ROOT = pathlib.Path(__file__).resolve().parents[2] / "proto"

_loaded_roots = set()


def load(*proto_roots):
    """Generates modules for every .proto below the given folders (default: this repository's) and extends sys.path.

    Loading the same folder again does nothing. Raises RuntimeError with the remedy when a tool is missing or fails.
    """
    for root in proto_roots or (PROTO_ROOT,):
        root = pathlib.Path(root).resolve()
        if root not in _loaded_roots:
            _load(root)
            _loaded_roots.add(root)


def _load(root):
    plugin = shutil.which("grpc_python_plugin")
    if shutil.which("protoc") is None or plugin is None:
        raise RuntimeError("protoc or grpc_python_plugin is missing: "
                           "apt-get install protobuf-compiler protobuf-compiler-grpc")
    protos = sorted(str(path.relative_to(root)) for path in root.rglob("*.proto"))
    if not protos:
        raise RuntimeError(f"no .proto files below {root}: pass the folder that contains kvasir/v1")
    folder = tempfile.mkdtemp(prefix="kvasir-stubs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    result = subprocess.run(
        ["protoc", f"--proto_path={root}", f"--python_out={folder}", f"--grpc_python_out={folder}",
         f"--plugin=protoc-gen-grpc_python={plugin}", *protos],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"protoc failed:\n{result.stdout}")
    _make_importable(pathlib.Path(folder))


def _make_importable(folder):
    sys.path.insert(0, str(folder))
    # "grpc" and "google" are installed packages: ours (grpc/health/v1, google/rpc) join their search path.
    for package_folder in folder.iterdir():
        package = sys.modules.get(package_folder.name)
        if package is None and package_folder.name in ("grpc", "google"):
            package = __import__(package_folder.name)
        if package is not None and hasattr(package, "__path__"):
            package.__path__.append(str(package_folder))
