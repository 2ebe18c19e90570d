"""The Helm chart: lint, the manifests of several sets of values against Kubernetes' own schemas (the package
kubernetes-validate of PyPI), and the daemon's configuration in them against the daemon. Needs helm; without it or
without PyPI says so and skips that part. helm is no Debian package:
go install helm.sh/helm/v3/cmd/helm@v3.18.4"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/helm/kvasir"
HELM = os.environ.get("KVASIR_HELM") or shutil.which("helm", path=os.pathsep.join(
    [os.environ.get("PATH", ""), str(pathlib.Path.home() / "go/bin")]))
KVASIRD = pathlib.Path(os.environ.get("KVASIR_BIN", ROOT / "build/release/bin")) / "kvasird"
KUBERNETES = "1.33"

TENANTS = {"tenants": [{"id": "team-a", "key_file": "/run/secrets/kvasird/keys/team-a", "weight": 2}],
           "keysSecret": "kvasir-keys"}
VALUES = {
    "whoever reaches it may call": {"auth": {"anonymous": "allow"}},
    "tenants": {"auth": TENANTS},
    "everything": {
        "auth": TENANTS,
        "replicas": 3,
        "image": {"repository": "registry.example/kvasir", "tag": "1.2.3"},
        "imagePullSecrets": [{"name": "pull"}],
        "models": {"list": [{"name": "org/a", "path": "/models/a", "compute_type": "int8",
                             "sessions": {"ttl_seconds": 60}},
                            {"name": "b", "path": "/models/b.gguf"}],
                   "source": {"existingClaim": "models"}},
        "tls": {"secret": "kvasir-tls", "clientCaConfigMap": "clients"},
        "config": {"threads": 4, "server": {"max_connections": 100}},
        "spill": {"storageClassName": "fast", "size": "20Gi", "maxBytesPerModel": "8GiB",
                  "maxPrefixBytesPerModel": "2GiB"},
        "networkPolicy": {"callers": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}],
                          "scrapers": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        "monitoring": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
                       "prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "cpu", "operator": "Exists"}],
    },
    "models by name": {"auth": {"anonymous": "allow"},
                       "models": {"list": [{"name": "a", "path": "hf:org/a@v1"}, {"name": "b", "path": "hf:org/b:Q8_0"},
                                           {"name": "again", "path": "hf:org/a@v1"}]}},
    "models by name from elsewhere": {
        "auth": {"anonymous": "allow"},
        "models": {"list": [{"name": "a", "path": "hf:org/a"}, {"name": "tale", "path": "/models/tale-7m-gqa2"}],
                   "pull": {"tokenSecret": "hub", "endpoint": "https://hub.example",
                            "env": [{"name": "https_proxy", "value": "http://proxy:3128"}],
                            "cache": {"existingClaim": "hub-cache"},
                            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "proxy"}}}]}]}}},
    "an image with models": {"auth": {"anonymous": "allow"}, "spill": {"enabled": False},
                             "networkPolicy": {"enabled": False},
                             "models": {"source": {"image": "registry.example/models:1"}}},
    "another volume": {"auth": {"anonymous": "allow"},
                       "models": {"source": {"volume": {"nfs": {"server": "nas", "path": "/models"}}}}},
}


def helm(*arguments):
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def template(*arguments):
    # Of its own accord a helm built by go install takes Kubernetes 1.20.
    return helm("template", "release", str(CHART), "--kube-version", KUBERNETES, *arguments)


def validator():
    """Of a manifest, by a package in a venv of the build folder; None where PyPI does not answer."""
    venv = ROOT / "build/venv-kubernetes"
    python = venv / "bin/python"
    if not (venv / "ready").exists():
        make = subprocess.run(
            f"{sys.executable} -m venv {venv} && {python} -m pip install -q kubernetes-validate pyyaml",
            shell=True, capture_output=True, text=True, check=False)
        if make.returncode != 0:
            return None
        (venv / "ready").touch()

    def validate(documents):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump_all(documents, file)
            file.flush()
            run = subprocess.run([venv / "bin/kubernetes-validate", "-k", KUBERNETES, "--strict", file.name],
                                 capture_output=True, text=True, check=False)
        return run.returncode, run.stdout + run.stderr

    return validate


@unittest.skipUnless(HELM, "******** SKIPPED: no helm; go install helm.sh/helm/v3/cmd/helm@v3.18.4")
class Chart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.files = {}
        for index, (name, values) in enumerate(VALUES.items()):
            cls.files[name] = pathlib.Path(cls.folder.name) / f"{index}.json"
            cls.files[name].write_text(json.dumps(values))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def render(self, name):
        run = template("--namespace", "serving", "--values", str(self.files[name]))
        self.assertEqual(run.returncode, 0, run.stderr)
        return [document for document in yaml.safe_load_all(run.stdout) if document]

    def test_lint(self):
        for name, file in self.files.items():
            with self.subTest(name):
                run = helm("lint", str(CHART), "--kube-version", KUBERNETES, "--strict", "--values", str(file))
                self.assertEqual(run.returncode, 0, run.stdout + run.stderr)

    def test_nobody_who_could_call_is_an_error(self):
        run = template()
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("auth.tenants", run.stderr)

    def test_a_misspelt_value_is_an_error(self):
        run = template("--set", "auth.anonymous=allow", "--set", "replica=2")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("replica", run.stderr)

    def test_manifests_follow_kubernetes_schemas(self):
        validate = validator()
        if validate is None:
            self.skipTest("******** SKIPPED: PyPI does not answer, so nothing checked the manifests' schemas")
        for name in VALUES:
            with self.subTest(name):
                known = [d for d in self.render(name) if "monitoring.coreos.com" not in d["apiVersion"]]
                code, output = validate(known)
                self.assertEqual(code, 0, output)
        # The check itself: what is misspelt is found.
        broken = self.render("tenants")
        next(d for d in broken if d["kind"] == "Deployment")["spec"]["template"]["spec"]["volume"] = []
        self.assertNotEqual(validate(broken)[0], 0)

    def test_the_daemon_reads_its_configuration(self):
        if not KVASIRD.exists():
            self.skipTest(f"******** SKIPPED: {KVASIRD} is not built")
        for name in VALUES:
            with self.subTest(name):
                config = next(d for d in self.render(name) if d["kind"] == "ConfigMap"
                              and "kvasird.yaml" in d["data"])["data"]["kvasird.yaml"]
                with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                    file.write(config)
                    file.flush()
                    run = subprocess.run([KVASIRD, "--config", file.name, "--print_config"],
                                         capture_output=True, text=True, check=False)
                self.assertEqual(run.returncode, 0, run.stderr)

    def test_prefix_blocks_go_to_the_disk_where_a_size_is_given(self):
        def sessions(name):
            config = next(d for d in self.render(name) if d["kind"] == "ConfigMap" and "kvasird.yaml" in d["data"])
            return [model["sessions"] for model in yaml.safe_load(config["data"]["kvasird.yaml"])["models"]]
        for model in sessions("everything"):
            self.assertEqual(model["max_prefix_spill_bytes"], "2GiB")
        for model in sessions("whoever reaches it may call"):
            self.assertNotIn("max_prefix_spill_bytes", model)

    def test_every_mount_has_its_volume_and_every_selector_its_pods(self):
        for name in VALUES:
            with self.subTest(name):
                documents = self.render(name)
                pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]
                container = pod["spec"]["containers"][0]
                self.assertEqual({mount["name"] for mount in container["volumeMounts"]},
                                 {volume["name"] for volume in pod["spec"]["volumes"]})
                self.assertNotRegex(container["image"], ":latest$")
                self.assertIn(":", container["image"])
                for document in documents:
                    selector = document.get("spec", {}).get("selector", {})
                    labels = selector.get("matchLabels", selector if document["kind"] == "Service" else {})
                    if document["kind"] in ("Service", "PodDisruptionBudget"):
                        self.assertLessEqual(labels.items(), pod["metadata"]["labels"].items())

    def test_models_by_name_are_pulled_before_the_daemon_starts(self):
        documents = self.render("models by name")
        pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]
        self.assertEqual([container["command"] for container in pod["initContainers"]],
                         [["kvasir", "pull", "hf:org/a@v1"], ["kvasir", "pull", "hf:org/b:Q8_0"]])
        daemon = pod["containers"][0]
        self.assertIn({"name": "HF_HUB_OFFLINE", "value": "1"}, daemon["env"])
        self.assertIn({"name": "hub", "mountPath": "/hub", "readOnly": True}, daemon["volumeMounts"])
        policy = next(d for d in documents if d["kind"] == "NetworkPolicy")
        self.assertEqual({port["port"] for port in policy["spec"]["egress"][0]["ports"]}, {53, 443})

        documents = self.render("models by name from elsewhere")
        pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]
        (pull,) = pod["initContainers"]
        environment = {variable["name"]: variable for variable in pull["env"]}
        self.assertEqual(environment["HF_ENDPOINT"]["value"], "https://hub.example")
        self.assertEqual(environment["HF_TOKEN"]["valueFrom"]["secretKeyRef"], {"name": "hub", "key": "token"})
        self.assertIn("https_proxy", environment)
        self.assertIn({"name": "hub", "persistentVolumeClaim": {"claimName": "hub-cache"}}, pod["volumes"])
        policy = next(d for d in documents if d["kind"] == "NetworkPolicy")
        self.assertEqual(policy["spec"]["egress"], VALUES["models by name from elsewhere"]["models"]["pull"]["egress"])

        # Whoever pulls nothing opens nothing.
        documents = self.render("whoever reaches it may call")
        self.assertEqual(next(d for d in documents if d["kind"] == "NetworkPolicy")["spec"]["egress"], [])
        self.assertNotIn("initContainers", next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"])

    def test_monitoring_is_the_repositorys(self):
        documents = self.render("everything")
        rules = next(d for d in documents if d["kind"] == "PrometheusRule")["spec"]
        self.assertEqual(rules, yaml.safe_load((ROOT / "deploy/prometheus/kvasir.rules.yml").read_text()))
        shown = {name: text for d in documents if d["kind"] == "ConfigMap"
                 for name, text in d["data"].items() if name.endswith(".json")}
        for path in (ROOT / "deploy/grafana/dashboards").glob("*.json"):
            self.assertEqual(json.loads(shown[path.name]), json.loads(path.read_text()))
            # A ConfigMap takes 1 MiB.
            self.assertLess(len(shown[path.name]), 1 << 20)


if __name__ == "__main__":
    unittest.main()
