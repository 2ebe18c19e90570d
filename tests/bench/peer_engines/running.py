"""Runs one part of the peers' table and returns its measurements: lines without engine and round."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile

from peer_engines import http_load, parts
from peer_engines.results import PREFILLS, SERVER_STREAMS, STREAMS

HERE = pathlib.Path(__file__).resolve().parent
SERVER_PROMPT, SERVER_TOKENS = 128, 48


class Failed(Exception):
    """Why a part has no figures."""


class Runner:
    def __init__(self, binaries, installs, models, vocabulary, threads, seconds, eager=False):
        self._binaries, self._installs, self._models = pathlib.Path(binaries), installs, pathlib.Path(models)
        self._vocabulary, self._threads, self._seconds, self._eager = vocabulary, threads, seconds, eager
        self._log = installs.folder / "runs.log"

    def run(self, part, round_number):
        if part.server:
            return self._server(part, round_number)
        model = self._models / part.model
        if part.engine == "Kvasir":
            commands = parts.kvasir_commands(self._binaries / "kvasir-bench", part, model)
            return [line for command, prompt in zip(commands, PREFILLS)
                    for line in parts.read_kvasir(self._output(command), prompt)]
        if part.engine == "llama.cpp":
            commands = parts.llama_commands(self._installs.llama("llama-batched-bench"), model, self._threads)
            lines = [line for command in commands for line in parts.read_llama(self._output(command))]
        else:
            worker = "vllm_worker.py" if part.engine == "vLLM" else "openvino_worker.py"
            task = {"model": str(model), "threads": self._threads, "prefills": PREFILLS, "streams": STREAMS,
                    "context": parts.CONTEXT, "generate": parts.GENERATE, "vocabulary": self._vocabulary,
                    "eager": self._eager}
            lines = parts.read_worker(self._output([self._installs.python(part.engine), HERE / worker, json.dumps(task)],
                                                   self._vllm_environment() if part.engine == "vLLM" else None))
        if len(lines) != len(PREFILLS) + len(STREAMS):
            raise Failed(f"{part.name} printed {len(lines)} figures: see {self._log}")
        return lines

    def _vllm_environment(self):
        cpus = sorted(os.sched_getaffinity(0))[:self._threads]
        # As its documentation asks for; the first is in Debian's libtcmalloc-minimal4, the second in the environment.
        wanted = [pathlib.Path("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"),
                  self._installs.python("vLLM").parents[1] / "lib" / "libiomp5.so"]
        return {**os.environ, "LD_PRELOAD": ":".join(str(path) for path in wanted if path.exists()),
                "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cpus)),
                "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
                "VLLM_CACHE_ROOT": str(self._installs.folder / "vllm-cache")}

    def _output(self, command, environment=None):
        command = list(map(str, command))
        with open(self._log, "a") as log:
            log.write(" ".join(command) + "\n")
            log.flush()
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:
                try:
                    output, _ = process.communicate(timeout=self._seconds)
                except BaseException as error:
                    process.kill()
                    if isinstance(error, subprocess.TimeoutExpired):
                        raise Failed(f"{command[0]} took longer than {self._seconds} s") from error
                    raise
            log.write(output)
        if process.returncode:
            raise Failed(f"{pathlib.Path(command[0]).name} ended with code {process.returncode}: see {self._log}")
        return output

    @contextlib.contextmanager
    def _serving(self, command, environment=None, stdout=None):
        with open(self._log, "a") as log:
            log.write(" ".join(map(str, command)) + "\n")
            log.flush()
            process = subprocess.Popen(list(map(str, command)), stdout=stdout or log, stderr=log, text=True,
                                       env=environment, start_new_session=True)
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, 9)
                    process.wait()

    def _server(self, part, round_number):
        model = self._models / part.model
        if part.engine == "Kvasir":
            blocks = part.flag in parts.BLOCK_FORMATS
            return self._kvasird(self._models / f"{part.flag}.gguf" if blocks else model,
                                 "bf16" if blocks else part.flag, round_number)
        port = free_port()
        if part.engine == "llama.cpp":
            command = [self._installs.llama("llama-server"), "-m", model, "--port", port, "-t", self._threads, "-tb",
                       self._threads, "-np", SERVER_STREAMS, "-c", 256 * SERVER_STREAMS, "--no-webui"]
            environment = None
        else:
            # Not `vllm serve`, which asks for the package under a name that PyPI's build for CPUs does not have.
            command = [self._installs.python("vLLM"), "-m", "vllm.entrypoints.openai.api_server", "--model", model,
                       "--port", port, "--dtype", "bfloat16",
                       "--max-model-len", 2112, "--max-num-seqs", 32, "--served-model-name", "model",
                       "--no-enable-prefix-caching", *(["--enforce-eager"] if self._eager else [])]
            environment = self._vllm_environment()
        with self._serving(command, environment) as process:
            http_load.wait_ready(port, process, self._seconds)
            return [{"measure": f"server {SERVER_STREAMS}", **self._http(port, "model", round_number)}]

    def _http(self, port, model, round_number):
        shape = (port, model, SERVER_STREAMS, SERVER_PROMPT)
        http_load.round_of(*shape, 4, self._vocabulary, seed=0)
        rate, first = http_load.round_of(*shape, SERVER_TOKENS, self._vocabulary, seed=round_number)
        return {"tokens_per_second": rate, "first_token_seconds": first}

    def _kvasird(self, model, compute_type, round_number):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
            json.dump({"models": [{"name": "model", "path": str(model), "compute_type": compute_type,
                                   "kv_cache": {"capacity_bytes": 1 << 30, "prefix_cache": False}}],
                       "logging": {"level": "warning"}}, config)
            config.flush()
            command = [self._binaries / "kvasird", "--config", config.name, "--listen", "127.0.0.1:0", "--http_listen",
                       "127.0.0.1:0", "--metrics_listen", "off"]
            with self._serving(command, stdout=subprocess.PIPE) as process:
                said = next((line for line in process.stdout if line.startswith("listening ")), "")
                doors = dict(re.findall(r"(grpc|http)=(\S+)", said))
                if "grpc" not in doors:
                    raise Failed(f"kvasird did not listen: see {self._log}")

                def over_grpc(tokens, seed):
                    return json.loads(self._output([
                        self._binaries / "kvasir", "bench", "--server", doors["grpc"], "--json", "--progress=false",
                        "--streams", SERVER_STREAMS, "--requests", SERVER_STREAMS, "--prompt_tokens", SERVER_PROMPT,
                        "--max_tokens", tokens, "--seed", seed]))

                over_grpc(4, 1000)
                run = over_grpc(SERVER_TOKENS, round_number)
                if run["succeeded"] != SERVER_STREAMS:
                    raise Failed(f"{SERVER_STREAMS - run['succeeded']} streams failed over gRPC")
                http_port = int(doors["http"].rsplit(":", 1)[1])
                return [{"measure": f"server {SERVER_STREAMS}", "tokens_per_second": run["completion_tokens_per_second"],
                         "first_token_seconds": run["time_to_first_token_seconds"]["p50"]},
                        {"measure": f"server {SERVER_STREAMS} HTTP", **self._http(http_port, "model", round_number)}]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
