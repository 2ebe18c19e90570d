#!/usr/bin/python3
"""The Debian packages: packages_test.py BUILD makes them by cpack and looks into them; as root, with debootstrap and a
mirror, it installs them in a clean system of this machine's release, upgrades them, and removes them again. What cannot
run is said."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import clean_root
import image_test as image

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else ROOT / "build/release"
CONFIG = "/etc/kvasir/kvasird.yaml"


def make(folder, version=None):
    """The packages by name, as files."""
    image.run(["cpack", "--config", BUILD / "CPackConfig.cmake", "-B", folder,
               *(["-D", f"CPACK_PACKAGE_VERSION={version}"] if version else [])], cwd=BUILD)
    return {path.name.split("_")[0]: path for path in pathlib.Path(folder).glob("*.deb")}


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvasir-packages-"))
        cls.debs = make(cls.folder / "first")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder, ignore_errors=True)

    def field(self, package, name):
        return image.run(["dpkg-deb", "--field", self.debs[package], name]).strip()

    def files(self, package):
        listing = image.run(["dpkg-deb", "--contents", self.debs[package]])
        return {line.split()[5].removeprefix("."): line.split()[0] for line in listing.splitlines()}

    def test_what_they_are(self):
        self.assertEqual(set(self.debs), {"kvasird", "kvasir", "libkvasir-client-dev"})
        version = re.search(r"project\(kvasir VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
        for package in self.debs:
            self.assertEqual(self.field(package, "Version"), version)
        self.assertIn("libgrpc++", self.field("kvasird", "Depends"))
        self.assertIn("libdnnl", self.field("kvasird", "Depends"))
        self.assertIn("libgrpc++-dev", self.field("libkvasir-client-dev", "Depends"))

    def test_what_they_hold(self):
        daemon, client, library = (self.files(name) for name in ("kvasird", "kvasir", "libkvasir-client-dev"))
        for path in ("/usr/bin/kvasird", "/usr/bin/kvasir-convert", "/usr/lib/systemd/system/kvasird.service",
                     "/usr/lib/sysusers.d/kvasir.conf", CONFIG,
                     "/usr/share/man/man8/kvasird.8", "/usr/share/kvasir/models/tale-7m-gqa2/config.json",
                     "/usr/share/doc/kvasird/copyright"):
            self.assertIn(path, daemon)
        for path in ("/usr/bin/kvasir", "/usr/share/man/man1/kvasir.1",
                     "/usr/share/bash-completion/completions/kvasir"):
            self.assertIn(path, client)
        self.assertTrue(any(path.endswith("kvasir-config.cmake") for path in library))
        self.assertFalse(set(daemon) & set(client) - {path for path in daemon if path.endswith("/")})
        for path, mode in (daemon | client | library).items():
            if "/bin/" in path and not path.endswith("/"):
                self.assertEqual(mode, "-rwxr-xr-x", path)

    def test_the_unit_starts_what_is_installed(self):
        extracted = self.folder / "extracted"
        image.run(["dpkg-deb", "--extract", self.debs["kvasird"], extracted])
        unit = (extracted / "usr/lib/systemd/system/kvasird.service").read_text()
        self.assertIn(f"ExecStart=/usr/bin/kvasird --config {CONFIG}", unit)
        config = (extracted / CONFIG[1:]).read_text()
        path = re.search(r"^ *path: (\S+)", config, re.MULTILINE)[1]
        self.assertTrue((extracted / path[1:] / "config.json").exists(), path)

    def test_manual_pages_are_sound(self):
        for page, word in (("kvasird.8", "max_context_tokens"), ("kvasir.1", "max_tokens")):
            text = (BUILD / "deploy/packages/man" / page).read_text()
            self.assertIn(word, text)
            if shutil.which("groff") is None:
                print("******** SKIPPED: no groff, so nothing reads the manual pages", file=sys.stderr)
                continue
            read = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=text, capture_output=True, text=True,
                                  check=True)
            self.assertEqual(read.stderr, "")
            self.assertIn(word, read.stdout)

    def test_completion_knows_commands_and_flags(self):
        def complete(*words):
            script = (f"source {ROOT}/deploy/packages/kvasir.bash-completion; COMP_WORDS=({' '.join(words)}); "
                      f"COMP_CWORD={len(words) - 1}; _kvasir; echo ${{COMPREPLY[*]}}")
            return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env={
                **os.environ, "PATH": f"{BUILD}/bin:{os.environ['PATH']}"}).stdout.split()

        self.assertEqual(complete("kvasir", "gen"), ["generate"])
        self.assertEqual(complete("kvasir", "generate", "--max_t"), ["--max_tokens"])
        self.assertIn("--json", complete("kvasir", "models", "--"))

    def test_installation_upgrade_and_removal_in_a_clean_system(self):
        if os.geteuid() != 0:
            self.skipTest("******** SKIPPED: needs root for a clean system")
        # Mounts of a name space of its own go with this program.
        if image.LIBC.unshare(0x00020000) != 0:
            self.skipTest("******** SKIPPED: no mount name space of its own")
        image.run(["mount", "--make-rprivate", "/"])
        root = self.folder / "debian"
        try:
            clean_root.make(clean_root.this_machine(), root)
        except clean_root.CannotRun as error:
            self.skipTest(f"******** SKIPPED: {error}")
        system = image.RootFileSystem(root, None)

        def install(debs):
            for deb in debs.values():
                shutil.copy(deb, root / "tmp")
            names = " ".join(f"/tmp/{debs[name].name}" for name in ("kvasird", "kvasir"))
            system.execute(f"export DEBIAN_FRONTEND=noninteractive; apt-get update -q && apt-get install -q -y "
                           f"--no-install-recommends -o Dpkg::Options::=--force-confold {names}")

        def inside(command):
            return image.run(["chroot", root, "/bin/sh", "-c", command])

        install(self.debs)
        version = self.field("kvasird", "Version")
        self.assertIn(version, inside("kvasird --version"))
        self.assertIn("OK", inside(f"kvasird --config {CONFIG} --check_config"))
        self.assertIn("kvasir", inside("getent passwd kvasir"))
        self.assertIn("--max_tokens", inside("kvasir generate --help"))

        # An upgrade keeps what was written.
        inside(f"sed -i 's/default_max_tokens: 256/default_max_tokens: 77/' {CONFIG}; mkdir -p /var/lib/kvasir/spill; "
               "echo session > /var/lib/kvasir/spill/one")
        install(make(self.folder / "second", version="99.0.0"))
        self.assertIn("99.0.0", inside("dpkg-query --show kvasird"))
        self.assertIn("default_max_tokens: 77", inside(f"kvasird --config {CONFIG} --print_config"))
        self.assertEqual(inside("cat /var/lib/kvasir/spill/one"), "session\n")

        inside("dpkg --remove kvasird kvasir")
        self.assertTrue((root / CONFIG[1:]).exists())
        inside("dpkg --purge kvasird")
        self.assertFalse((root / CONFIG[1:]).exists())
        self.assertFalse((root / "var/lib/kvasir").exists())


if __name__ == "__main__":
    unittest.main()
