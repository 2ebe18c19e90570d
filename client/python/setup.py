"""Generates kvasir_client/v1 from the .proto files of this repository, then leaves the rest to setuptools.

Made for each wheel or source package, and never committed: descriptors.bin (what protoc knows of the messages), one module
for each .proto file that builds its classes from it at import, and a .pyi beside it for type checkers. No code of protoc's
Python generator is inside: that belongs to one range of protobuf versions, descriptors belong to all. A source package
holds what was generated, so that it builds without the repository.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

from setuptools import setup

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PROTO = REPOSITORY / "proto"
OUT = HERE / "src" / "kvasir_client" / "v1"
MODULES = ("generation", "session", "admin")
OTHER_PROTOS = ("google/rpc/status.proto", "google/rpc/error_details.proto", "grpc/health/v1/health.proto")

MODULE = '''"""Messages of kvasir/v1/{name}.proto. Generated."""

from kvasir_client._descriptors import publish

publish("kvasir/v1/{name}.proto", globals())
'''


def protoc(*arguments):
    try:
        import grpc_tools
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{pathlib.Path(grpc_tools.__file__).parent / '_proto'}"]
    except ImportError:
        command = ["protoc"]  # Debian's package protobuf-compiler
    subprocess.run([*command, f"-I{PROTO}", *arguments], check=True)


def strictly_typed(stub):
    """protoc writes a message given as a mapping without what it maps."""
    lines = stub.splitlines(keepends=True)
    for i, line in enumerate(lines):
        if not line.startswith(("from ", "import ")):
            lines[i] = re.sub(r"\b_Mapping\b(?!\[)", "_Mapping[str, _Any]", line)
    return "from typing import Any as _Any\n" + "".join(lines)


def generate():
    OUT.mkdir(exist_ok=True)
    files = [f"kvasir/v1/{name}.proto" for name in MODULES]
    protoc("--include_imports", f"--descriptor_set_out={OUT / 'descriptors.bin'}", *files, *OTHER_PROTOS)
    with tempfile.TemporaryDirectory() as folder:
        protoc(f"--pyi_out={folder}", *files)
        for name in MODULES:
            types = (pathlib.Path(folder) / "kvasir" / "v1" / f"{name}_pb2.pyi").read_text()
            (OUT / f"{name}_pb2.pyi").write_text(strictly_typed(re.sub(r"\bkvasir\.v1\b", "kvasir_client.v1", types)))
            (OUT / f"{name}_pb2.py").write_text(MODULE.format(name=name))
    (OUT / "__init__.py").write_text('"""The messages of the API, kvasir.v1. Generated."""\n')


def version():
    """That of the daemon; a source package remembers it."""
    if PROTO.is_dir():
        return re.search(r"project\(kvasir VERSION ([0-9.]+)", (REPOSITORY / "CMakeLists.txt").read_text())[1]
    return re.search(r"^Version: (\S+)", (HERE / "PKG-INFO").read_text(), re.MULTILINE)[1]


if PROTO.is_dir():
    generate()
setup(version=version())
