"""docs/operations/configuration.md is what config.proto says. With --write, makes it so."""

import pathlib
import re
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "operations" / "configuration.md"
PROTO = "kvasir/config/v1/config.proto"
REMEDY = "run tests/write_pages.sh, and commit what it changes"

HEAD = """# Configuration

<!-- Made from proto/kvasir/config/v1/config.proto by tests/write_pages.sh: change that file, not this one. -->

`kvasird --config FILE`; [deploy/config/kvasird.yaml](../../deploy/config/kvasird.yaml) is an example with every field
explained, [tls.yaml](../../deploy/config/tls.yaml) one for a network. The file is YAML or JSON. Unknown keys are errors with
their line. Precedence: flag, environment variable, file, default. `kvasird --check_config` says whether a file is right,
`--print_config` what would be in effect, and `--help` which fields have flags. Durations are in seconds, sizes in bytes; they
may be written as `500ms` and `4GiB`. A field without a default here has one that follows from others, or none.
"""

NUMBERS = {"TYPE_INT32": "whole number", "TYPE_INT64": "whole number", "TYPE_DOUBLE": "number", "TYPE_BOOL": "true or false",
           "TYPE_STRING": "text"}


def load():
    """The file's descriptor, with its options; its comments by path; the option that states defaults and ranges."""
    with tempfile.NamedTemporaryFile(suffix=".bin") as out:
        subprocess.run(["protoc", f"--proto_path={ROOT / 'proto'}", "--include_source_info", "--include_imports",
                        f"--descriptor_set_out={out.name}", PROTO], check=True)
        text = pathlib.Path(out.name).read_bytes()
    # A pool of its own: only descriptors that know the option read it as one.
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(text).file:
        pool.Add(file)
    factory = message_factory.MessageFactory(pool)

    def message(name):
        return factory.GetPrototype(pool.FindMessageTypeByName(name))

    message("kvasir.config.v1.Setting")
    extension = pool.FindExtensionByName("kvasir.config.v1.setting")
    message("google.protobuf.FieldOptions").RegisterExtension(extension)
    files = message("google.protobuf.FileDescriptorSet").FromString(text)
    file = next(file for file in files.file if file.name == PROTO)
    comments = {tuple(place.path): " ".join(place.leading_comments.split())
                for place in file.source_code_info.location if place.leading_comments}
    return file, comments, extension


def type_of(field):
    name = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
    kind = NUMBERS.get(name, "")
    if name == "TYPE_MESSAGE":
        message = field.type_name.rpartition(".")[2]
        kind = f"[{message}](#{message.lower()})"
    repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    return f"list of {kind}" if repeated else kind


def range_of(setting):
    if not setting.HasField("min"):
        return ""
    return f"{setting.min} to {setting.max}" if setting.HasField("max") else f"at least {setting.min}"


def page():
    file, comments, extension = load()
    text = [HEAD]
    for m, message in enumerate(file.message_type):
        text.append(f"\n## {message.name}\n\n")
        if (4, m) in comments:
            text.append(comments[4, m] + "\n\n")
        text.append("| key | type | range | default | meaning |\n|---|---|---|---|---|\n")
        for f, field in enumerate(message.field):
            setting = field.options.Extensions[extension]
            meaning = re.sub(r"([|<>])", r"\\\1", comments.get((4, m, 2, f), ""))
            default = f"`{setting.default_value}`" if setting.HasField("default_value") else ""
            text.append(f"| `{field.name}` | {type_of(field)} | {range_of(setting)} | {default} | {meaning} |\n")
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
