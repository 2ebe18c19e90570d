"""The parts of the peers' table: each engine with each kind of weights, what process measures it, and how its output is
read. Pure: nothing here starts anything."""

import dataclasses
import json

from peer_engines.results import PREFILLS, STREAMS

CONTEXT = 64  # tokens of a stream before its decoding is timed
GENERATE = 16  # steps that are timed


@dataclasses.dataclass(frozen=True)
class Part:
    engine: str
    format: str  # of results.FORMATS: how many bits
    weights: str  # what the engine calls it
    model: str  # a name in the folder of models
    flag: str = ""  # Kvasir's --weights, as which its daemon reads a GGUF file
    server: bool = False

    @property
    def name(self):
        return f"{self.engine} {self.weights}" + (" server" if self.server else "")


BLOCK_FORMATS = ("q8_0", "q4_0")  # of Kvasir's flags

# Q8_0 and W8A8 both hold eight bits a weight; scales make Q8_0 six percent larger.
ENGINES = [
    Part("Kvasir", "bf16", "bf16", "plain", "bf16"),
    Part("vLLM", "bf16", "bf16", "plain"),
    Part("llama.cpp", "bf16", "bf16", "bf16.gguf"),
    Part("OpenVINO GenAI", "bf16", "f16", "f16.gguf"),
    Part("Kvasir", "int8", "W8A8", "plain", "int8"),
    Part("Kvasir", "int8", "Q8_0", "plain", "q8_0"),
    Part("vLLM", "int8", "W8A8", "w8a8"),
    Part("llama.cpp", "int8", "Q8_0", "q8_0.gguf"),
    Part("OpenVINO GenAI", "int8", "Q8_0", "q8_0.gguf"),
    Part("Kvasir", "int4", "Q4_0", "plain", "q4_0"),
    Part("vLLM", "int4", "GPTQ", "gptq"),
    Part("llama.cpp", "int4", "Q4_0", "q4_0.gguf"),
    Part("OpenVINO GenAI", "int4", "Q4_0", "q4_0.gguf"),
]
# OpenVINO GenAI's package has no server.
HAVE_SERVER = ("Kvasir", "vLLM", "llama.cpp")


def chosen(engines, formats, servers=True):
    parts = [part for part in ENGINES if part.engine in engines and part.format in formats]
    if servers:
        parts += [dataclasses.replace(part, server=True) for part in parts if part.engine in HAVE_SERVER]
    return parts


def kvasir_commands(binary, part, model):
    """Two runs of kvasir-bench: a run times one length of prompt, and the longer one needs the fewest streams."""
    base = [str(binary), "--model", str(model), "--weights", part.flag, "--repeats", "1", "--json", "--context", str(CONTEXT)]
    short, long = PREFILLS
    return [base + ["--prompt", str(short), "--generate", str(GENERATE), "--batch", ",".join(map(str, STREAMS))],
            base + ["--prompt", str(long), "--generate", "4", "--batch", "1", "--no_probe"]]


def read_kvasir(output, prompt):
    """Measures of one run of kvasir-bench --json, the limits among them; the decoding of the run for the longer prompt
    is there only because the program wants some."""
    said = json.loads(output)
    lines = [{"measure": line["what"], "tokens_per_second": line["tokens_per_second"]} for line in said["lines"]]
    if prompt == PREFILLS[1]:
        lines = lines[:1]
    if said["read_bandwidth_bytes_per_second"]:
        product = "int8" if said["weights"] == "int8" else "bf16"
        lines.append({"measure": "limits", "read_gigabytes_per_second": said["read_bandwidth_bytes_per_second"] / 1e9,
                      f"{product}_gigaops_per_second": said["large_product_operations_per_second"] / 1e9})
    return lines


def llama_commands(binary, model, threads):
    """Streams share their prompt (-pps): computing each one's would take longer than what is timed."""
    base = [str(binary), "-m", str(model), "-t", str(threads), "-tb", str(threads), "--output-format", "jsonl", "-b", "2048"]
    return [base + ["-c", str(PREFILLS[1] + 64), "-npp", ",".join(map(str, PREFILLS)), "-ntg", "1", "-npl", "1"],
            base + ["-c", "4096", "-pps", "-npp", str(CONTEXT), "-ntg", str(GENERATE),
                    "-npl", ",".join(map(str, STREAMS))]]


def read_llama(output):
    lines = []
    for line in output.splitlines():
        if not line.startswith("{"):
            continue
        run = json.loads(line)
        if run["tg"] == 1:
            lines.append({"measure": f"prefill {run['pp']}", "tokens_per_second": run["speed_pp"]})
        else:
            lines.append({"measure": f"decode {run['pl']}", "tokens_per_second": run["speed_tg"]})
    return lines


def read_worker(output):
    """A worker's JSON lines among whatever else its engine prints."""
    lines = []
    for line in output.splitlines():
        if line.startswith('{"measure"'):
            lines.append(json.loads(line))
    return lines
