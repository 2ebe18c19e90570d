"""docs/operations/configuration.md is what config.proto says. With --write, makes it so."""

import pathlib
import re
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "operations" / "configuration.md"
PROTO = "kvasir/config/v1/config.proto"
REMEDY = "run tests/write_pages.sh, and commit what it changes"

HEAD = """# Configuration

<!-- Made from proto/kvasir/config/v1/config.proto by tests/write_pages.sh: change that file, not this one. -->

`kvasird --config FILE`; [deploy/config/kvasird.yaml](../../deploy/config/kvasird.yaml) is an example with every field
explained, [tls.yaml](../../deploy/config/tls.yaml) one for a network. The file is YAML or JSON. Unknown keys are errors with
their line. Precedence: flag, environment variable, file, default. `kvasird --check_config` says whether a file is right,
`--print_config` what would be in effect, and `--help` which fields have flags. Durations are in seconds, sizes in bytes;
sizes may be written as `512MiB` or `4GiB`.
"""

NUMBERS = {"TYPE_INT32": "whole number", "TYPE_INT64": "whole number", "TYPE_DOUBLE": "number", "TYPE_BOOL": "true or false",
           "TYPE_STRING": "text"}


def load():
    """The file's descriptor, and its comments by path."""
    with tempfile.NamedTemporaryFile(suffix=".bin") as out:
        subprocess.run(["protoc", f"--proto_path={ROOT / 'proto'}", "--include_source_info",
                        f"--descriptor_set_out={out.name}", PROTO], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(out.name).read_bytes())
    file = next(file for file in files.file if file.name == PROTO)
    comments = {tuple(place.path): " ".join(place.leading_comments.split())
                for place in file.source_code_info.location if place.leading_comments}
    return file, comments


def type_of(field):
    name = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
    kind = NUMBERS.get(name, "")
    if name == "TYPE_MESSAGE":
        message = field.type_name.rpartition(".")[2]
        kind = f"[{message}](#{message.lower()})"
    repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    return f"list of {kind}" if repeated else kind


def page():
    file, comments = load()
    text = [HEAD]
    for m, message in enumerate(file.message_type):
        text.append(f"\n## {message.name}\n\n")
        if (4, m) in comments:
            text.append(comments[4, m] + "\n\n")
        text.append("| key | type | meaning |\n|---|---|---|\n")
        rows = []
        for f, field in enumerate(message.field):
            comment = comments.get((4, m, 2, f), "")
            if not comment and rows and not field.type_name:
                rows[-1][0].append(field.name)  # fields under one comment
            else:
                rows.append([[field.name], type_of(field), comment])
        for names, kind, comment in rows:
            comment = re.sub(r"([|<>])", r"\\\1", comment)
            text.append(f"| {', '.join(f'`{name}`' for name in names)} | {kind} | {comment} |\n")
    return "".join(text)


def main():
    wanted = page()
    if "--write" in sys.argv:
        PAGE.write_text(wanted)
    elif not PAGE.exists() or PAGE.read_text() != wanted:
        print(f"{PAGE.relative_to(ROOT)} is not what {PROTO} says: {REMEDY}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
