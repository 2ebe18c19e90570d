#!/usr/bin/python3
"""Builds the image as the Dockerfile says, instruction by instruction, without a container engine: each stage in a clean
Debian root file system, COPY and RUN in their order. Then, as the image's user, with the image's command, on a
read-only root: the daemon starts, is healthy, serves, and drains on SIGTERM in time. The image without its models must
be smaller than 150 MB.

    tests/image_test.py                              # everything
    tests/image_test.py --binaries build/release/bin # all but the build stage

The build stage uses this machine's ccache: two minutes where tests/run.sh has compiled the same before, many more where
not. As root, with debootstrap, a Debian mirror and 3 GB below $TMPDIR; exit code 77, for ctest, where it cannot run.
"""

import argparse
import ctypes
import dataclasses
import fnmatch
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import clean_root
from clean_root import CannotRun, Failure, run

ROOT = pathlib.Path(__file__).resolve().parent.parent
MOST_BYTES = 150_000_000
# Ports of its own, so that a daemon on this machine does not answer in its place.
PORTS = {":50051": ":50971", ":8080": ":8971", ":9464": ":9971"}
HEALTHY_SECONDS = 60
# What debian:N-slim leaves out of debian:N, and its dpkg out of every package.
SLIM = ["/usr/share/doc/*", "/usr/share/groff/*", "/usr/share/info/*", "/usr/share/linda/*", "/usr/share/lintian/*",
        "/usr/share/locale/*", "/usr/share/man/*"]
KEPT = "/usr/share/doc/*/copyright"
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


SKIPPED = 77


@dataclasses.dataclass
class Stage:
    name: str
    base: str
    instructions: list  # (keyword, argument) in order, without FROM

    def last(self, keyword):
        found = [argument for word, argument in self.instructions if word == keyword]
        if not found:
            raise Failure(f"the Dockerfile's last stage has no {keyword}")
        return found[-1]


def parse(dockerfile):
    """The stages; comments and continuations as Docker reads them."""
    text = "\n".join(line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#"))
    stages = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        keyword, _, argument = line.strip().partition(" ")
        if keyword == "FROM":
            base, _, name = argument.partition(" AS ")
            stages.append(Stage(name, base, []))
        elif keyword:
            stages[-1].instructions.append((keyword, argument.strip()))
    return stages


class RootFileSystem:
    """A stage's files. Mounts are gone with this program's mount namespace."""

    def __init__(self, folder, ccache):
        self.folder, self.ccache = folder, ccache
        self.directory = "/"
        self.running = False  # whether what a running container sees is mounted

    def build(self, stage, others, binaries):
        for keyword, argument in stage.instructions:
            started = time.monotonic()
            if keyword == "WORKDIR":
                self.directory = argument
                self.inside(argument).mkdir(parents=True, exist_ok=True)
            elif keyword == "COPY":
                self.copy(argument.split(), others, binaries)
            elif keyword == "RUN":
                self.execute(argument)
            else:
                continue
            print(f"   {keyword} {argument}   ({time.monotonic() - started:.0f} s)", flush=True)

    def inside(self, path):
        return self.folder / os.path.join(self.directory, path).lstrip("/")

    def copy(self, words, others, binaries):
        stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        *paths, target = words
        into_folder = target.endswith("/") or target == "." or len(paths) > 1
        for path in paths:
            if stage is None:
                found = ROOT / path
            elif stage in others:
                found = others[stage].folder / path.lstrip("/")
            else:
                found = binaries / pathlib.Path(path).name  # in the place of the build stage's
            place = self.inside(target)
            if found.is_dir():
                ignored = Ignored() if stage is None else None
                shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True, ignore=ignored)
                continue
            place = place / found.name if into_folder else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, place)
            if stage is not None and stage not in others:
                run(["strip", place])

    def execute(self, command):
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        for name in ("http_proxy", "https_proxy", "no_proxy"):
            if name in os.environ:
                environment[name] = os.environ[name]
        if not self.running:
            self.running = True
            run(["mount", "-t", "proc", "proc", self.folder / "proc"])
            if self.ccache is not None:
                (self.folder / "ccache").mkdir()
                run(["mount", "--bind", self.ccache, self.folder / "ccache"])
        if self.ccache is not None:
            # Objects are found again whatever folder they were compiled in.
            environment |= {"CCACHE_DIR": "/ccache", "CCACHE_BASEDIR": self.directory, "CCACHE_NOHASHDIR": "true"}
        run(["chroot", self.folder, "/usr/bin/env", "-i", *[f"{name}={value}" for name, value in environment.items()],
             "/bin/sh", "-c", f"cd {self.directory} && {command}"])

    def bytes(self):
        """Of all files, as the size of an image is counted."""
        return int(run(["du", "--summarize", "--one-file-system", "--bytes", self.folder]).split()[0])


class Ignored:
    """.dockerignore for shutil.copytree."""

    def __init__(self):
        self.patterns = [line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines() if line.strip()]

    def __call__(self, folder, names):
        ignored = set()
        for name in names:
            path = (pathlib.Path(folder) / name).relative_to(ROOT)
            for pattern in self.patterns:
                anywhere = pattern.startswith("**/") and fnmatch.fnmatch(name, pattern[3:])
                if anywhere or fnmatch.fnmatch(str(path), pattern):
                    ignored.add(name)
        return ignored


def slim(folder):
    """What makes debian:N-slim of debian:N."""
    rules = [f"path-exclude {pattern}" for pattern in SLIM] + [f"path-include {KEPT}"]
    (folder / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True, exist_ok=True)
    (folder / "etc/dpkg/dpkg.cfg.d/docker").write_text("\n".join(rules) + "\n")
    for pattern in SLIM:
        for path in folder.joinpath(pattern[1:]).parent.rglob("*"):
            if not path.is_dir() and not fnmatch.fnmatch(f"/{path.relative_to(folder)}", KEPT):
                path.unlink()


def use(folder, stage):
    """Runs the image as a container engine would."""
    entrypoint, command = json.loads(stage.last("ENTRYPOINT")), json.loads(stage.last("CMD"))
    health = json.loads(stage.last("HEALTHCHECK").partition(" CMD ")[2])
    user, group = stage.last("USER").split(":")
    for port, own in PORTS.items():
        command = [re.sub(f"{port}$", own, word) for word in command]
    environment = dict(words.split("=", 1) for keyword, words in stage.instructions if keyword == "ENV")
    environment["KVASIR_SERVER"] = f"127.0.0.1{PORTS[':50051']}"

    def inside(words, **options):
        """As the image's user, with its root and environment, and no way to more rights."""

        def enter():
            os.chroot(folder)
            os.chdir("/")
            os.setgroups([])
            os.setgid(int(group))
            os.setuid(int(user))
            if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
                raise OSError("prctl failed")

        program = words[0] if words[0].startswith("/") else f"/usr/local/bin/{words[0]}"
        return subprocess.Popen([program, *words[1:]], preexec_fn=enter, env=environment, **options)

    def ask(words):
        """(exit code, output) of a command in the running image."""
        process = inside(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output, _ = process.communicate(timeout=HEALTHY_SECONDS)
        return process.returncode, output

    print(f"== run as {user}:{group}, root read-only: {' '.join(entrypoint + command)}", flush=True)
    run(["mount", "--bind", folder, folder])
    run(["mount", "-t", "proc", "proc", folder / "proc"])
    run(["mount", "-o", "remount,bind,ro", folder])
    with tempfile.TemporaryFile("w+") as log:
        daemon = inside(entrypoint + command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + HEALTHY_SECONDS
            while ask(health)[0] != 0:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise Failure(f"not healthy within {HEALTHY_SECONDS} s")
                time.sleep(0.1)
            if os.stat(f"/proc/{daemon.pid}").st_uid != int(user):
                raise Failure(f"the daemon does not run as {user}")
            code, text = ask(["kvasir", "generate", "--max_tokens", "16", "--temperature", "0", "Once upon a time"])
            if code != 0 or not text.strip():
                raise Failure(f"kvasir generate ended with {code}: {text}")
            print(f"   healthy; says: {text.strip()}")
            if ask(["/bin/sleep", "0"])[0] != 0:
                raise Failure("sleep, which Kubernetes runs before it stops the container, does not run")
            started = time.monotonic()
            daemon.send_signal(getattr(signal, stage.last("STOPSIGNAL")))
            code = daemon.wait(HEALTHY_SECONDS)
            if code != 0:
                raise Failure(f"exit code {code} after {stage.last('STOPSIGNAL')}")
            print(f"   drained in {1000 * (time.monotonic() - started):.0f} ms, exit code 0")
        except (Failure, subprocess.TimeoutExpired):
            log.seek(0)
            print(log.read(), file=sys.stderr)
            raise
        finally:
            daemon.kill()
            daemon.wait()


def test(folder, options):
    stages = parse(ROOT / "Dockerfile")
    compiled = run(["ccache", "--get-config", "cache_dir"]).strip() if shutil.which("ccache") else None
    base = stages[0].base
    if options.binaries is not None and clean_root.this_machine() != base:
        raise CannotRun(f"the image is of {base}, and programs built on {clean_root.this_machine()} do not run there: "
                        "without --binaries they are built as the Dockerfile says")
    print(f"== FROM {base}: debootstrap", flush=True)
    clean = folder / "debian"
    clean_root.make(base, clean)
    built = {}
    for number, stage in enumerate(stages):
        if options.binaries is not None and stage.name == "build":
            continue
        print(f"== FROM {stage.base} {stage.name and 'AS ' + stage.name}", flush=True)
        system = RootFileSystem(folder / f"stage{number}", compiled if stage.name == "build" else None)
        if stage.base == "scratch":
            system.folder.mkdir()
        else:
            run(["cp", "--archive", clean, system.folder])
        if stage.base.endswith("-slim"):
            slim(system.folder)
        system.build(stage, built, options.binaries)
        built[stage.name] = system
    models = sum(path.stat().st_size for path in (system.folder / "models").rglob("*") if path.is_file())
    whole = system.bytes() - models
    print(f"   {whole / 1e6:.1f} MB without models", flush=True)
    if whole >= MOST_BYTES:
        raise Failure(f"the image has {whole / 1e6:.1f} MB without models, the limit is {MOST_BYTES / 1e6:.0f}")
    use(system.folder, stage)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=pathlib.Path, metavar="FOLDER", help="take kvasird and kvasir from there")
    options = parser.parse_args()
    namespace = ["unshare", "--mount", "--propagation", "private"]
    if "KVASIR_IMAGE_NAMESPACE" not in os.environ:
        if os.getuid() != 0 or subprocess.run([*namespace, "true"], check=False, stderr=subprocess.DEVNULL).returncode:
            print("*** image test skipped: it has to be root, with the right to mount", file=sys.stderr)
            return SKIPPED
        # Mounts in a namespace of their own end with it, however this ends.
        os.execvpe("unshare", [*namespace, sys.executable, *sys.argv], {**os.environ, "KVASIR_IMAGE_NAMESPACE": "1"})
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kvasir-image."))
    folder.chmod(0o755)  # mkdtemp gives it to root alone, and the image's user has to get in
    started = time.monotonic()
    try:
        test(folder, options)
    except CannotRun as reason:
        print(f"*** image test skipped: {reason}", file=sys.stderr)
        return SKIPPED
    except (Failure, subprocess.TimeoutExpired) as failure:
        print(f"image test: {failure}", file=sys.stderr)
        return 1
    finally:
        for mounted in ("proc", "ccache", ""):
            for stage in folder.glob("stage*"):
                subprocess.run(["umount", "--quiet", "--lazy", str(stage / mounted)], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)
    print(f"== image test passed in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
