"""Root file systems of the supported systems as they are on their first day, made by debootstrap; what tests of images,
packages and installations begin with. As root, with debootstrap and a mirror."""

import dataclasses
import os
import pathlib
import shutil
import subprocess

# What a file system made here says in its /etc/os-release, by the name that a Dockerfile's FROM has for it.
MIRRORS = {"debian": ("DEBIAN_MIRROR", "http://deb.debian.org/debian"),
           "ubuntu": ("UBUNTU_MIRROR", "http://archive.ubuntu.com/ubuntu")}
DEBIAN_SECURITY = ("DEBIAN_SECURITY_MIRROR", "http://deb.debian.org/debian-security")
# Debian's keyring of Ubuntu is in trixie's ubuntu-keyring; elsewhere UBUNTU_KEYRING says where the file is.
UBUNTU_KEYRING = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"


class Failure(Exception):
    pass


class CannotRun(Exception):
    """This machine lacks something that the test needs."""


@dataclasses.dataclass(frozen=True)
class Release:
    distribution: str
    version: str
    suite: str
    components: str = "main"

    @property
    def mirror(self):
        variable, usual = MIRRORS[self.distribution]
        return os.environ.get(variable, usual)

    def sources(self):
        """The lines of /etc/apt/sources.list: with updates and security fixes, as its installer leaves it."""
        fixes = os.environ.get(*DEBIAN_SECURITY) if self.distribution == "debian" else self.mirror
        places = [(self.mirror, self.suite), (self.mirror, f"{self.suite}-updates"), (fixes, f"{self.suite}-security")]
        return "".join(f"deb {mirror} {suite} {self.components}\n" for mirror, suite in places)


RELEASES = {
    "debian:12": Release("debian", "12", "bookworm"),
    "debian:13": Release("debian", "13", "trixie"),
    "ubuntu:24.04": Release("ubuntu", "24.04", "noble", "main universe"),
}


def this_machine():
    """Its name in RELEASES; CannotRun where it has none."""
    words = dict(line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line)
    name = f"{words.get('ID', '')}:{words.get('VERSION_ID', '')}".replace('"', "")
    if name not in RELEASES:
        raise CannotRun(f"this machine is {name}, not one of {', '.join(RELEASES)}")
    return name


def run(command, **options):
    """Its output; Failure with the output's end when it fails."""
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, errors="replace", check=False, **options)
    if result.returncode != 0:
        raise Failure(f"{command} ended with {result.returncode}:\n{result.stdout[-6000:]}")
    return result.stdout


def make(name, folder):
    """The file system RELEASES[name] in the folder, with this machine's way to the network."""
    release = RELEASES[name]
    command = ["debootstrap", "--variant=minbase", f"--components={release.components.replace(' ', ',')}"]
    if release.distribution == "ubuntu":
        keyring = os.environ.get("UBUNTU_KEYRING", UBUNTU_KEYRING)
        if not os.path.exists(keyring):
            raise CannotRun(f"{name}: no {keyring}, which Debian 13's package ubuntu-keyring has: set UBUNTU_KEYRING")
        command.append(f"--keyring={keyring}")
    command += [release.suite, folder, release.mirror]
    if not os.path.exists(f"/usr/share/debootstrap/scripts/{release.suite}"):
        # Suites that this debootstrap is too old to know are made as the others of their distribution are.
        command.append({"debian": "sid", "ubuntu": "gutsy"}[release.distribution])
    try:
        run(command, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
    except (Failure, FileNotFoundError) as error:
        raise CannotRun(f"debootstrap from {release.mirror}: {error}") from error
    (folder / "etc/apt/sources.list").write_text(release.sources())
    if os.path.exists("/etc/resolv.conf"):
        shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
    # A proxy, and the authorities that it is trusted by: the package ca-certificates takes them up.
    for path in ("etc/apt/apt.conf.d", "usr/local/share/ca-certificates"):
        if os.path.exists(f"/{path}"):
            shutil.copytree(f"/{path}", folder / path, dirs_exist_ok=True)
    forget_downloads(folder)


def forget_downloads(folder):
    """As the distributions' images do: no package lists, no archives."""
    for path in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(folder / path, ignore_errors=True)
        (folder / path).mkdir()
    for path in (folder / "var/cache/apt").glob("*.bin"):
        path.unlink()
