"""Manual pages from what the programs say of themselves: make_man_pages.py KVASIRD KVASIR FOLDER."""

import pathlib
import re
import subprocess
import sys


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def escaped(text):
    """Text as troff shows it: no requests, no escapes, dashes as they are typed."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in lines)


def verbatim(text):
    return f".nf\n{escaped(text.strip(chr(10)))}\n.fi\n"


def page(name, section, summary, version, parts):
    text = f'.TH {name.upper()} {section} "" "{version}" "Kvasir"\n.SH NAME\n{name} \\- {escaped(summary)}\n'
    return text + "".join(f".SH {title}\n{body}" for title, body in parts)


def main(kvasird, kvasir, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    version = said(kvasird, "--version").strip()
    (folder / "kvasird.8").write_text(page(
        "kvasird", 8, "serve language models from CPUs", version,
        [("DESCRIPTION", verbatim(said(kvasird, "--help"))),
         ("FILES", verbatim("/etc/kvasir/kvasird.yaml   the service's configuration; it explains every field")),
         ("SEE ALSO", "kvasir(1)\n")]))

    overview = said(kvasir, "--help")
    commands = re.findall(r"^  ([a-z]+)  ", overview, re.MULTILINE)
    assert "generate" in commands, overview
    parts = [("DESCRIPTION", verbatim(overview))]
    parts += [(f'"{command.upper()}"', verbatim(said(kvasir, command, "--help"))) for command in commands]
    (folder / "kvasir.1").write_text(page("kvasir", 1, "command line for kvasird", version,
                                          parts + [("SEE ALSO", "kvasird(8)\n")]))


if __name__ == "__main__":
    main(*sys.argv[1:])
