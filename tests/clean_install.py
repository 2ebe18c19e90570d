#!/usr/bin/python3
"""Follows README's first commands as a new user does, in a clean root file system of each supported release: a checkout of
this tree, deploy/quickstart.sh, and with --tests also tests/run.sh. Says how long each step took and how much it left on
the disk. Not part of ctest: without compiled objects from before it takes an hour for each release on two cores.

    tests/clean_install.py                                   # every release
    tests/clean_install.py debian:13 --tests="-L kernels"    # one, and what ctest is given there
    tests/clean_install.py debian:12 --install               # packages only

As root, with debootstrap, a mirror and 8 GB below $TMPDIR for each release. Compiled objects and crates are kept for the
next time in $XDG_CACHE_HOME/kvasir/RELEASE. Exit code 77 where nothing could be tried; a release that could not is said."""

import argparse
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time

import clean_root
from clean_root import CannotRun, Failure, run

ROOT = pathlib.Path(__file__).resolve().parent.parent
SKIPPED = 77
QUICKSTART, TESTS = "deploy/quickstart.sh", "tests/run.sh"
# Of the tests, beside the programs: golden models and vectors.
SHARED = pathlib.Path(os.environ.get("KVASIR_SHARED", ROOT.parent / "shared")).resolve()
CHECKOUT = "/srv/kvasir"  # where users other than root get too: some tests become one


def readme_commands():
    """The lines of README's first block of commands, without comments."""
    block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    commands = [line.partition("#")[0].strip() for line in block.splitlines()]
    if commands != [QUICKSTART, TESTS]:
        raise Failure(f"README begins with the commands {commands}; this script follows {[QUICKSTART, TESTS]}")
    return commands


class System:
    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.bytes = 0
        clean_root.make(name, folder)
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "kvasir" / name
        mounts = [(cache / "ccache", "ccache"), (cache / "cargo", "cargo"), ("/dev", "dev")]
        if SHARED.is_dir():
            mounts.append((SHARED, "shared"))
        for source, target in mounts:
            (folder / target).mkdir(exist_ok=True)
            if str(source) != "/dev":
                pathlib.Path(source).mkdir(parents=True, exist_ok=True)
            run(["mount", "--rbind", source, folder / target])
        run(["mount", "-t", "proc", "proc", folder / "proc"])
        self.check_out()

    def check_out(self):
        """What git has, and what it would add: no build folder."""
        place = self.folder / CHECKOUT[1:]
        place.mkdir(parents=True)
        files = run(["git", "-C", ROOT, "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others",
                     "--exclude-standard"])
        names = "\0".join(name for name in files.split("\0") if name and (ROOT / name).exists())
        archive = subprocess.Popen(["tar", "-C", str(ROOT), "--null", "--files-from=-", "-c"], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        extract = subprocess.Popen(["tar", "-C", str(place), "-x"], stdin=archive.stdout)
        archive.stdin.write(names.encode())
        archive.stdin.close()
        if extract.wait() or archive.wait():
            raise Failure(f"cannot copy {ROOT}")

    def size(self):
        return int(run(["du", "--summarize", "--one-file-system", "--block-size=1", self.folder]).split()[0])

    def say(self, what, started):
        now = self.size()
        print(f"   {self.name}: {what}: {time.monotonic() - started:.0f} s, "
              f"{(now - self.bytes) / 1e6:+.0f} MB ({now / 1e6:.0f} MB in all)", flush=True)
        self.bytes = now

    def execute(self, command):
        """Runs it in the checkout; its output goes to ours, each line behind the seconds since it began."""
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
                       "LC_ALL": "C.UTF-8", "CCACHE_DIR": "/ccache", "CCACHE_BASEDIR": CHECKOUT,
                       "CCACHE_NOHASHDIR": "true", "CARGO_TARGET_DIR": "/cargo", "KVASIR_SHARED": "/shared"}
        for name in ("http_proxy", "https_proxy", "no_proxy", "CMAKE_BUILD_PARALLEL_LEVEL"):
            if name in os.environ:
                environment[name] = os.environ[name]
        started = time.monotonic()
        process = subprocess.Popen(
            ["chroot", str(self.folder), "/usr/bin/env", "-i", *[f"{key}={value}" for key, value in environment.items()],
             "/bin/sh", "-c", f"cd {CHECKOUT} && {command}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        last = []
        for line in process.stdout:
            last = [*last[-40:], line]
            if re.match(r"\W*(\[\d/\d\]|==|\d+% tests passed|\d+/\d+ Test)", line.replace("\x1b[1m", "")):
                print(f"   {time.monotonic() - started:6.0f} s  {line.strip()}", flush=True)
        if process.wait() != 0:
            raise Failure(f"{self.name}: {command} ended with {process.returncode}:\n{''.join(last)}")
        return "".join(last)


def follow(name, folder, options):
    print(f"== {name}", flush=True)
    quickstart, tests = readme_commands()
    started = time.monotonic()
    system = System(name, folder)
    system.say("clean root and checkout", started)
    started = time.monotonic()
    system.execute("deploy/install_dependencies.sh build")
    system.say("packages to build", started)
    if "all" not in system.execute("deploy/install_dependencies.sh build"):
        raise Failure(f"{name}: installing again does not find everything installed")
    if options.install:
        return
    started = time.monotonic()
    said = system.execute(f"{quickstart} --once")
    system.say(quickstart, started)
    if "[5/5]" not in said:
        raise Failure(f"{name}: {quickstart} did not come to its end:\n{said}")
    if options.tests is not None:
        started = time.monotonic()
        system.execute(f"{tests} {shlex.join(shlex.split(options.tests))}")
        system.say(tests, started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=f"of {', '.join(clean_root.RELEASES)}; all")
    parser.add_argument("--install", action="store_true", help="only the packages: no build")
    parser.add_argument("--tests", nargs="?", const="", metavar="ARGUMENTS", help="tests/run.sh too, with these for ctest")
    options = parser.parse_args()
    unknown = set(options.releases) - set(clean_root.RELEASES)
    if unknown:
        parser.error(f"no release is called {', '.join(sorted(unknown))}")
    namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    if "KVASIR_CLEAN_NAMESPACE" not in os.environ:
        if os.getuid() != 0 or subprocess.run([*namespace, "true"], check=False, stderr=subprocess.DEVNULL).returncode:
            print("*** clean installation skipped: it has to be root, with the right to mount", file=sys.stderr)
            return SKIPPED
        # Mounts and processes of a namespace of their own end with it, however this ends.
        os.execvpe("unshare", [*namespace, sys.executable, *sys.argv], {**os.environ, "KVASIR_CLEAN_NAMESPACE": "1"})
    followed, failed = [], []
    for name in options.releases or clean_root.RELEASES:
        with tempfile.TemporaryDirectory(prefix="kvasir-clean.") as parent:
            folder = pathlib.Path(parent) / "root"
            folder.mkdir()
            try:
                follow(name, folder, options)
                followed.append(name)
            except CannotRun as reason:
                print(f"*** {name} skipped: {reason}", file=sys.stderr)
            except Failure as failure:
                print(f"*** {name} FAILED: {failure}", file=sys.stderr)
                failed.append(name)
            finally:
                # What is mounted has to go first, or it would be removed as part of the root.
                for target in ("proc", "dev", "ccache", "cargo", "shared"):
                    subprocess.run(["umount", "--quiet", "--recursive", "--lazy", str(folder / target)], check=False,
                                   stderr=subprocess.DEVNULL)
                run(["rm", "--recursive", "--force", "--one-file-system", folder])
    print(f"== clean installation: {', '.join(followed) or 'nothing'} passed"
          + (f", {', '.join(failed)} FAILED" if failed else ""))
    return 1 if failed else 0 if followed else SKIPPED


if __name__ == "__main__":
    sys.exit(main())
