"""The files that deploy TLS and tenants' keys: compose, Kubernetes and systemd put every file where the configuration
looks for it, and a daemon with that configuration and with what deploy/make_secrets.sh made serves whom it should.

Debian's docker-compose and a kubectl with kustomize 5 read the files as well where they are installed, systemd-analyze
likewise; without them those tests are skipped, loudly.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

import yaml

from harness import BIN, BUNDLED_FOLDER, PATIENCE_SECONDS, ROOT, Daemon, wait_until
from prometheus_server import DEPLOY, need

SECRETS = pathlib.PurePosixPath("/run/secrets/kvasird")
CREDENTIALS = "/run/credentials/kvasird.service"


def load(path):
    return yaml.safe_load((DEPLOY / path).read_text())


def files_named(config):
    """Every file that the configuration wants to read, but for the models."""
    named = [tenant["key_file"] for tenant in config["tenants"] if "key_file" in tenant]
    return named + [value for key, value in config["server"]["tls"].items() if key.endswith("_file")]


def merge(base, patch):
    """A strategic merge as Kubernetes defines it, as far as these files need it: null removes, lists whose items have one
    of the keys below are merged by it, everything else is replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = dict(base)
        for key, value in patch.items():
            merged[key] = merge(merged.get(key, {}), value)
            if value is None:
                del merged[key]
        return merged
    if isinstance(base, list) and isinstance(patch, list):
        for key in ("mountPath", "port", "name"):
            if all(isinstance(item, dict) and key in item for item in base + patch):
                order = [item[key] for item in patch + base]
                both = {item[key]: item for item in base}
                for item in patch:
                    both[item[key]] = merge(both.get(item[key], {}), item)
                return [both[name] for name in dict.fromkeys(order)]
    return patch


class ComposeTest(unittest.TestCase):
    FILES = ("docker-compose.yaml", "docker-compose.tls.yaml")

    def test_every_file_is_a_secret_and_the_configuration_is_mounted(self):
        overlay = load("docker-compose.tls.yaml")
        daemon = overlay["services"]["kvasird"]
        targets = {str(SECRETS.parent / secret["target"]) for secret in daemon["secrets"]}
        self.assertLessEqual(set(files_named(load("config/tls.yaml"))), targets)
        self.assertIn(daemon["environment"]["KVASIR_TLS_CA"], targets)
        self.assertEqual({secret["source"] for secret in daemon["secrets"]}, set(overlay["secrets"]))
        source, target, mode = daemon["volumes"][0].split(":")
        self.assertEqual(mode, "ro")
        config = pathlib.PurePosixPath(daemon["command"][0].removeprefix("--config="))
        self.assertEqual(str(config.parent), target)
        self.assertTrue((DEPLOY / source / config.name).is_file())
        # Neither git nor the image's build may take them.
        folder = pathlib.PurePosixPath("deploy") / pathlib.PurePosixPath(overlay["secrets"]["tls.key"]["file"])
        self.assertIn(f"/{folder.parent}/", (ROOT / ".gitignore").read_text().splitlines())
        self.assertIn(str(folder.parent), (ROOT / ".dockerignore").read_text().splitlines())

    def test_compose_puts_both_files_together(self):
        compose = need("docker-compose")
        arguments = [argument for file in self.FILES for argument in ("-f", str(DEPLOY / file))]
        done = subprocess.run([compose, *arguments, "config"], capture_output=True, text=True, check=False,
                              env={**os.environ, "KVASIR_ADDRESS": "192.0.2.7"})
        self.assertEqual(done.returncode, 0, done.stderr)
        daemon = yaml.safe_load(done.stdout)["services"]["kvasird"]
        # "192.0.2.7:50051:50051/tcp", or, by docker compose of version 2, its parts.
        ports = [port if isinstance(port, str) else f"{port['host_ip']}:{port['published']}:{port['target']}"
                 for port in daemon["ports"]]
        self.assertTrue(any(port.startswith("192.0.2.7:50051:50051") for port in ports), ports)
        self.assertEqual(daemon["command"], ["--config=/etc/kvasir/tls.yaml"])
        self.assertTrue(daemon["read_only"])


class KubernetesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.merged = {}
        for path in load("k8s/base/kustomization.yaml")["resources"]:
            manifest = load(f"k8s/base/{path}")
            cls.merged[manifest["kind"], manifest["metadata"]["name"]] = manifest
        cls.patches = [patch["path"] for patch in load("k8s/tls/kustomization.yaml")["patches"]]
        for path in cls.patches:
            patch = load(f"k8s/tls/{path}")
            name = patch["kind"], patch["metadata"]["name"]
            assert name in cls.merged, f"{path} patches nothing"
            cls.merged[name] = merge(cls.merged[name], patch)
        cls.pod = cls.merged["Deployment", "kvasird"]["spec"]["template"]["spec"]
        cls.container = cls.pod["containers"][0]

    def test_every_patch_is_named(self):
        present = {path.name for path in (DEPLOY / "k8s" / "tls").glob("*.yaml")}
        self.assertEqual(set(self.patches), present - {"kustomization.yaml"})

    def test_the_configuration_is_that_of_the_other_deployments(self):
        config = yaml.safe_load(self.merged["ConfigMap", "kvasird"]["data"]["kvasird.yaml"])
        self.assertEqual(config, load("config/tls.yaml"))
        pre_stop = int(self.container["lifecycle"]["preStop"]["exec"]["command"][-1])
        self.assertGreater(self.pod["terminationGracePeriodSeconds"], pre_stop +
                           config["server"]["drain_grace_seconds"] + config["server"]["drain_timeout_seconds"])

    def test_secrets_are_mounted_where_the_configuration_looks(self):
        mounts = {mount["name"]: mount for mount in self.container["volumeMounts"]}
        self.assertEqual(mounts["config"]["mountPath"], "/etc/kvasir")
        self.assertEqual(mounts["secrets"]["mountPath"], str(SECRETS))
        self.assertTrue(mounts["secrets"]["readOnly"])
        volume = next(volume for volume in self.pod["volumes"] if volume["name"] == "secrets")["projected"]
        self.assertEqual(volume["defaultMode"], 0o440)
        self.assertEqual(self.pod["securityContext"]["fsGroup"], self.pod["securityContext"]["runAsGroup"])
        self.assertEqual([source["secret"]["name"] for source in volume["sources"]], ["kvasird-tls", "kvasird-keys"])
        # A Secret of type tls has these two; the other one is made of the files that the comment names.
        comment = (DEPLOY / "k8s" / "tls" / "kustomization.yaml").read_text()
        keys = {f"{SECRETS}/{pathlib.PurePosixPath(file).name}" for file in re.findall(r"--from-file=(\S+)", comment)}
        self.assertEqual(set(files_named(load("config/tls.yaml"))), keys | {f"{SECRETS}/tls.crt", f"{SECRETS}/tls.key"})

    def test_probes_and_services_do_not_speak_plain_grpc(self):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertNotIn("grpc", self.container[probe])
        self.assertEqual(self.container["readinessProbe"]["httpGet"], {"path": "/healthz", "port": "metrics"})
        for name in ("kvasird", "kvasird-headless"):
            port = self.merged["Service", name]["spec"]["ports"][0]
            self.assertEqual((port["name"], port["appProtocol"]), ("grpc", "https"))

    def test_kustomize_merges_to_the_same(self):
        kubectl = need("kubectl")
        version = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=False).stdout
        if "Kustomize Version: v5" not in version:
            raise unittest.SkipTest("*** kubectl has no kustomize 5: this test is skipped")
        done = subprocess.run([kubectl, "kustomize", str(DEPLOY / "k8s" / "tls")], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        for made in yaml.safe_load_all(done.stdout):
            made["metadata"].pop("namespace", None)
            ours = self.merged[made["kind"], made["metadata"]["name"]]
            if made["kind"] == "Deployment":
                ours["spec"]["template"]["spec"]["containers"][0]["image"] = "kvasir:latest"  # of the base's kustomization
            self.assertEqual(made, ours)


class SystemdTest(unittest.TestCase):
    DROP_IN = DEPLOY / "systemd" / "kvasird.service.d" / "tls.conf"

    def test_every_credential_exists_in_the_configuration(self):
        credentials = dict(re.findall(r"^LoadCredential=([^:]+):(/etc/kvasir/\S+)$", self.DROP_IN.read_text(), re.M))
        wanted = {pathlib.PurePosixPath(file).name for file in files_named(load("config/tls.yaml"))}
        self.assertEqual(wanted, set(credentials))
        for name, source in credentials.items():
            self.assertEqual(pathlib.PurePosixPath(source).name, name)
        self.assertIn(CREDENTIALS, self.DROP_IN.read_text())

    def test_systemd_takes_the_unit_and_its_drop_in(self):
        analyze = need("systemd-analyze")
        with tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder, "kvasird.service")
            text = (DEPLOY / "systemd" / "kvasird.service").read_text()
            unit.write_text(text.replace("/usr/local/bin/kvasird", str(BIN / "kvasird")))
            shutil.copytree(self.DROP_IN.parent, f"{folder}/kvasird.service.d")
            environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"}
            done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False,
                                  env=environment)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            # In tenths: 0 is no exposure, 100 is all there is. Without the unit's sandbox it would be 96.
            done = subprocess.run([analyze, "security", "--offline=true", "--threshold=20", str(unit)],
                                  capture_output=True, text=True, check=False, env=environment)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class ServingTest(unittest.TestCase):
    """deploy/config/tls.yaml with the files of deploy/make_secrets.sh, on a loopback port."""

    def make(self, folder, *arguments):
        subprocess.run([str(DEPLOY / "make_secrets.sh"), *arguments, str(folder)], check=True, capture_output=True)

    def test_strict_clients_accept_the_certificates(self):
        with tempfile.TemporaryDirectory() as folder:
            self.make(folder, "--names", "kvasird.kvasir.svc")
            done = subprocess.run(["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname",
                                   "kvasird.kvasir.svc", "-CAfile", f"{folder}/ca.crt", f"{folder}/tls.crt"],
                                  capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_it_serves_the_tenants_and_reloads_their_keys(self):
        with tempfile.TemporaryDirectory() as folder:
            self.make(folder, "--names", "kvasird.kvasir.svc")
            text = (DEPLOY / "config" / "tls.yaml").read_text().replace(str(SECRETS), folder)
            config = yaml.safe_load(text.replace("/models/tale-7m-gqa2", str(BUNDLED_FOLDER)))
            config["server"]["listen"] = "127.0.0.1:0"
            config["metrics"]["listen"] = "127.0.0.1:0"
            for model in config["models"]:
                model["kv_cache"] = {"capacity_bytes": "64MiB"}
            with Daemon(config=yaml.safe_dump(config)) as daemon:
                port = daemon.grpc_address.rsplit(":", 1)[1]
                environment = {"KVASIR_SERVER": f"localhost:{port}", "KVASIR_TLS_CA": f"{folder}/ca.crt"}

                def kvasir(*arguments, tenant=None):
                    key = {"KVASIR_API_KEY_FILE": f"{folder}/{tenant}.key"} if tenant else {}
                    return subprocess.run([str(BIN / "kvasir"), *arguments], env={**os.environ, **environment, **key},
                                          capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)

                self.assertEqual(kvasir("health", "--timeout", f"{PATIENCE_SECONDS:g}").returncode, 0)
                for tenant in ("team-a", "operator"):
                    done = kvasir("generate", "--max_tokens", "3", "Once", tenant=tenant)
                    self.assertEqual(done.returncode, 0, done.stderr)
                self.assertNotEqual(kvasir("generate", "--max_tokens", "3", "Once").returncode, 0)

                # A new key for the team; the old one ends with the reload.
                pathlib.Path(folder, "team-a.key").rename(pathlib.Path(folder, "old.key"))
                self.make(folder)
                self.assertNotEqual(kvasir("generate", "--max_tokens", "3", "Once", tenant="team-a").returncode, 0)
                daemon.signal(signal.SIGHUP)
                wait_until(lambda: kvasir("generate", "--max_tokens", "3", "Once", tenant="team-a").returncode == 0,
                           "the new key counts")
                self.assertNotEqual(kvasir("generate", "--max_tokens", "3", "Once", tenant="old").returncode, 0)
                self.assertEqual(daemon.stop(), 0)

    def test_making_secrets_again_keeps_what_is_there(self):
        with tempfile.TemporaryDirectory() as folder:
            self.make(folder)
            before = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
            self.make(folder)
            self.assertEqual({path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}, before)
            for path in pathlib.Path(folder).iterdir():
                self.assertEqual(path.stat().st_mode & 0o077, 0, f"{path.name} can be read by others")


if __name__ == "__main__":
    unittest.main()
