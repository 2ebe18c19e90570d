"""Names that belong to one place: an architecture's to its file in runtime/model/architectures (and to tests), and a
method of attention's to the folder that implements it and to those that offer it to clients and operators."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
ARCHITECTURES = ROOT / "runtime/model/architectures"
PRODUCT = ("base", "kvcache", "runtime", "server", "client", "proto")

# Files that may speak of SparQ: its own, and the doors through which it is asked for (protocol, configuration,
# validation, command line, metrics).
MAX_SPARQ_FILES = 25

# Literals that are the same words with another meaning.
OTHER_PLACES = {
    "runtime/conversion/gguf_vocabulary.cc": "kinds of tokenizer in GGUF files",
    "runtime/tokenizer/gguf_text.cc": "kinds of tokenizer in GGUF files",
    "server/frontend/response/response_format.cc": "notations of tool calls, named after who introduced them",
}

CLASS = re.compile(r'"(\w+(?:ForCausalLM|ForConditionalGeneration|LMHeadModel))"')
ENTRY = re.compile(r'\{"\w+",\s*"(\w+)",\s*\w+,\s*\w+')  # class, model_type, how it is read, its tensors
DIALECT = re.compile(r'\.name = "([\w-]+)"')
COMMENT = re.compile(r"//[^\n]*")
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')


def code_of(path):
    return COMMENT.sub("", path.read_text())


def product_files(suffixes):
    for top in PRODUCT:
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and (path.suffix in suffixes or path.name in suffixes):
                yield path


def architecture_faults():
    classes, types = set(), set()
    for path in ARCHITECTURES.glob("*.cc"):
        text = path.read_text()
        classes.update(CLASS.findall(text))
        types.update(ENTRY.findall(text))
        types.update(DIALECT.findall(text))
    if len(classes) < 40 or len(types) < 40:
        yield f"found {len(classes)} classes and {len(types)} other names: this test no longer reads the architectures"
    for path in product_files({".h", ".cc"}):
        if ARCHITECTURES in path.parents or str(path.relative_to(ROOT)) in OTHER_PLACES:
            continue
        code = code_of(path)
        for name in classes:
            if re.search(rf"\b{name}\b", code):
                yield f"{path.relative_to(ROOT)} names {name}: what is special about it belongs into its own file"
        for literal in LITERAL.findall(code):
            if literal in types:
                yield f'{path.relative_to(ROOT)} names "{literal}": what is special about it belongs into its own file'


def sparq_faults():
    suffixes = {".h", ".cc", ".proto", "CMakeLists.txt"}
    files = [path for path in product_files(suffixes) if "sparq" in (path.name + path.read_text()).lower()]
    if len(files) > MAX_SPARQ_FILES:
        yield f"{len(files)} files speak of SparQ, at most {MAX_SPARQ_FILES} may:"
        yield from (f"  {path.relative_to(ROOT)}" for path in files)
    if not files:
        yield "no file speaks of SparQ: this test no longer finds the tree"


def main():
    found = [*architecture_faults(), *sparq_faults()]
    for fault in found:
        print(fault)
    print(f"one place: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
