"""Which folder may include what, and how large files and folders may grow. A folder without a row here is under the
row of the folder it stands in; a top-level folder or one of the server's without a row is an error."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

MAX_FILE_LINES = 500
MAX_FOLDER_FILES = 40

# Folder: (the project's folders that it may include beside itself, the foreign headers that it may include). Headers of
# the standard library, the system, Abseil, OpenSSL and tests are anybody's; those in FOREIGN only of whoever names
# them.
FOREIGN = {
    "grpc": r"grpc(pp)?/|.*\.grpc\.pb\.h",  # and generated services
    "proto": r"(kvasir|google|neighbours)/",  # generated messages, and protobuf itself
    "prometheus": r"prometheus/",
    "boost": r"boost/",
    "json": r"nlohmann/",
    "yaml": r"yaml-cpp/",
    "spdlog": r"spdlog/",
    "dnnl": r"(oneapi/)?dnnl",
    "highway": r"hwy/",
    "omp": r"omp\.h",
    "curl": r"curl/",
    "cli": r"CLI/",
}
RULES = {
    # Under everything.
    "base": ("", "omp cli"),
    # Models by name: from a hub into a cache of files; knows nothing of what is in them.
    "hub": ("base", "curl json"),
    # Ids, counts and bytes: blocks, who shares them, what is kept and given up.
    "kvcache": ("base", ""),
    # Text and tokens; knows no model and no cache.
    "text": ("", ""),
    # Models, from kernels up to the engine. No gRPC, proto or Prometheus.
    "runtime/kernels": ("base", "highway"),
    "runtime/formats": ("base", "json"),  # files of weights
    "runtime/ops": ("base kvcache runtime/formats runtime/kernels", "dnnl highway"),
    "runtime/tokenizer": ("base text runtime/formats", "json"),
    "runtime/grammar": ("base text runtime/tokenizer", ""),  # of a completion's output
    "runtime/sampling": ("base text runtime/tokenizer", "highway"),
    "runtime/model": ("base kvcache text runtime/formats runtime/ops runtime/tokenizer", "json"),
    # Checkpoints into other checkpoints; a program of its own, apart from the daemon and the command line.
    "runtime/conversion": ("base kvcache text runtime/formats runtime/model runtime/ops runtime/tokenizer", "json"),
    "runtime/engine": ("base kvcache text runtime/model runtime/ops runtime/sampling runtime/tokenizer "
                       "runtime/grammar", ""),
    # The daemon: configuration, who calls, what is offered, through which door, what is told of it, the process.
    "server/config": ("base hub runtime/engine runtime/grammar runtime/ops", "proto yaml"),
    "server/identity": ("base server/config", ""),
    # What every front end needs, apart from any transport: protobuf's messages, but nothing of gRPC.
    "server/frontend": ("base kvcache text runtime/engine runtime/grammar runtime/model runtime/ops runtime/tokenizer "
                        "server/config server/identity", "proto json spdlog"),
    "server/telemetry": ("base runtime/engine runtime/grammar server/config server/frontend", "prometheus spdlog grpc json"),
    "server/http": ("base text runtime/engine runtime/tokenizer server/config server/identity server/frontend "
                    "server/telemetry", "boost json proto"),
    "server/grpc": ("base text runtime/engine runtime/tokenizer server/config server/identity server/frontend "
                    "server/telemetry", "grpc proto"),
    "server/grpc/neighbours": ("base runtime/engine runtime/tokenizer server/config server/identity server/frontend "
                               "server/grpc", "grpc proto json"),
    "server/process": ("base hub kvcache text runtime/engine runtime/grammar runtime/model runtime/ops runtime/tokenizer "
                       "server/config server/identity server/frontend server/http server/grpc server/grpc/neighbours "
                       "server/telemetry", "grpc"),
    # The command line: speaks to a server through the protocol alone.
    "client": ("base", "grpc proto json"),
    "client/commands": ("base hub client", "proto json"),
}
SOURCES = {".h", ".cc", ".inc"}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.MULTILINE)


def folders(below):
    """Every folder of the tree, but what is built or hidden."""
    for path in sorted(below.iterdir()):
        if path.is_dir() and not path.name.startswith((".", "__")) and path.name != "build":
            yield path
            yield from folders(path)


def rule_of(folder):
    """The row that a product folder is under, by name; None for what is no product."""
    while folder:
        if folder in RULES:
            return folder
        folder = folder.rpartition("/")[0]
    return None


def include_faults(folder, path):
    row = rule_of(folder)
    project, foreign = (field.split() for field in RULES[row])
    for included in INCLUDE.findall(path.read_text()):
        target = included.rpartition("/")[0]
        top = target.partition("/")[0]
        if (ROOT / top).is_dir() and top != "tests" and (ROOT / included).exists():
            if rule_of(target) != row and rule_of(target) not in project:
                yield f"{path.relative_to(ROOT)} includes {included}, but {row} may only include: {' '.join(project)}"
            continue
        for name, pattern in FOREIGN.items():
            if re.match(pattern, included) and name not in foreign:
                yield f"{path.relative_to(ROOT)} includes {included}, but {row} may not use {name}"


def faults():
    # Rows point to rows before them, so no two folders can need each other.
    above = set()
    for row, (project, _) in RULES.items():
        for other in project.split():
            if other not in above and not any(o.startswith(other + "/") for o in above):
                yield f"the row of {row} names {other}, which does not stand before it"
        above.add(row)
    seen = 0
    for folder in folders(ROOT):
        name = str(folder.relative_to(ROOT))
        files = [path for path in folder.iterdir() if path.is_file()]
        if len(files) > MAX_FOLDER_FILES:
            yield f"{name} holds {len(files)} files; more than {MAX_FOLDER_FILES} are more than one idea"
        for path in files:
            if path.suffix not in SOURCES | {".py", ".rs", ".sh"}:
                continue
            lines = path.read_bytes().count(b"\n")
            if lines > MAX_FILE_LINES:
                yield f"{path.relative_to(ROOT)} has {lines} lines; more than {MAX_FILE_LINES} hold more than one idea"
            if path.suffix in SOURCES and not name.startswith("tests"):
                if rule_of(name) is None:
                    yield f"{name} has no row in {pathlib.Path(__file__).name}: say what it may include"
                    break
                seen += 1
                yield from include_faults(name, path)
    if seen < 200:
        yield f"looked at {seen} files only: this test no longer finds the tree"


def main():
    found = list(faults())
    for fault in found:
        print(fault)
    print(f"layering: {len(found)} faults, {len(RULES)} rows")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
