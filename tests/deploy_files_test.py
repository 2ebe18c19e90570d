"""The deployment files parse, name what exists, and agree with the daemon: ports, users, probes, grace times."""

import json
import pathlib
import re
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
GRPC_PORT, METRICS_PORT = 50051, 9464
DRAIN_SECONDS = 30  # server.drain_timeout_seconds by default


def load(path):
    return yaml.safe_load((DEPLOY / path).read_text())


class EveryFile(unittest.TestCase):
    def test_yaml_and_json_parse(self):
        files = [path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".yml", ".json")
                 and DEPLOY / "models" not in path.parents
                 and DEPLOY / "helm/kvasir/templates" not in path.parents]
        self.assertGreater(len(files), 15)
        for path in files:
            with self.subTest(path=path):
                text = path.read_text()
                documents = [json.loads(text)] if path.suffix == ".json" else list(yaml.safe_load_all(text))
                self.assertTrue(all(documents))


class Compose(unittest.TestCase):
    def test_files_and_ports_exist(self):
        compose = load("docker-compose.yaml")
        daemon = compose["services"]["kvasird"]
        self.assertTrue(daemon["read_only"])
        self.assertGreater(int(daemon["stop_grace_period"].removesuffix("s")), DRAIN_SECONDS)
        for service in compose["services"].values():
            for volume in service.get("volumes", ()):
                source = volume.split(":")[0]
                if source.startswith("."):
                    self.assertTrue((DEPLOY / source).is_dir(), source)
                else:
                    self.assertIn(source, compose["volumes"])
        target = load("prometheus/prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"][0]
        self.assertEqual(target, f"kvasird:{METRICS_PORT}")
        self.assertIn(load("grafana/provisioning/dashboards/kvasir.yml")["providers"][0]["options"]["path"],
                      "".join(compose["services"]["grafana"]["volumes"]))


class Kubernetes(unittest.TestCase):
    def setUp(self):
        self.base = {}
        for name in load("k8s/base/kustomization.yaml")["resources"]:
            manifest = load(f"k8s/base/{name}")
            self.assertTrue(manifest["apiVersion"] and manifest["metadata"]["name"], name)
            self.base[name.removesuffix(".yaml")] = manifest
        self.pod = self.base["deployment"]["spec"]["template"]
        self.container = self.pod["spec"]["containers"][0]
        self.config = yaml.safe_load(self.base["configmap"]["data"]["kvasird.yaml"])

    def test_kustomizations_name_every_file(self):
        for folder in ("base", "monitoring"):
            named = {pathlib.Path(name).name for name in load(f"k8s/{folder}/kustomization.yaml")["resources"]}
            present = {path.name for path in (DEPLOY / "k8s" / folder).glob("*.yaml")}
            self.assertEqual(named - {"base"}, present - {"kustomization.yaml", "adapter-rules.yaml"})

    def test_a_model_by_name_is_pulled_before_the_daemon_starts(self):
        config = load("k8s/hub/configmap.yaml")
        deployment = load("k8s/hub/deployment.yaml")
        for patch, kind in ((config, "configmap"), (deployment, "deployment")):
            self.assertEqual(patch["metadata"]["name"], self.base[kind]["metadata"]["name"])
        pod = deployment["spec"]["template"]["spec"]
        (pull,), (daemon,) = pod["initContainers"], pod["containers"]
        (model,) = yaml.safe_load(config["data"]["kvasird.yaml"])["models"]
        self.assertEqual(pull["command"], ["kvasir", "pull", model["path"]])
        self.assertEqual(pull["image"], self.container["image"])
        self.assertEqual(daemon["name"], self.container["name"])
        # Both at one place, and what serves asks nobody.
        self.assertEqual({mount["mountPath"] for mount in pull["volumeMounts"] + daemon["volumeMounts"]}, {"/hub"})
        environment = {variable["name"]: variable.get("value") for variable in daemon["env"]}
        self.assertEqual(environment, {"HF_HOME": "/hub", "HF_HUB_OFFLINE": "1"})
        named = {pathlib.Path(patch["path"]).name for patch in load("k8s/hub/kustomization.yaml")["patches"]}
        self.assertEqual(named, {"configmap.yaml", "deployment.yaml"})

    def test_the_spill_volume_holds_what_the_daemon_may_write(self):
        config, deployment = load("k8s/spill/configmap.yaml"), load("k8s/spill/deployment.yaml")
        for patch, kind in ((config, "configmap"), (deployment, "deployment")):
            self.assertEqual(patch["metadata"]["name"], self.base[kind]["metadata"]["name"])
        pod = deployment["spec"]["template"]["spec"]
        (daemon,), (volume,) = pod["containers"], pod["volumes"]
        self.assertEqual(daemon["name"], self.container["name"])
        (mount,) = daemon["volumeMounts"]
        self.assertEqual(mount["name"], volume["name"])
        written = yaml.safe_load(config["data"]["kvasird.yaml"])
        # Nothing but the disk is added to the base.
        (model,) = written["models"]
        sessions = model.pop("sessions")
        self.assertEqual(written, self.config)
        self.assertTrue(sessions["spill_directory"].startswith(mount["mountPath"] + "/"))

        def gibibytes(size):
            return int(re.fullmatch(r"(\d+)GiB?", size).group(1))
        self.assertLess(gibibytes(sessions["max_spill_bytes"]) + gibibytes(sessions["max_prefix_spill_bytes"]),
                        gibibytes(volume["emptyDir"]["sizeLimit"]))
        named = {pathlib.Path(patch["path"]).name for patch in load("k8s/spill/kustomization.yaml")["patches"]}
        self.assertEqual(named, {"configmap.yaml", "deployment.yaml"})

    def test_the_grace_period_covers_the_drain(self):
        server = self.config["server"]
        pre_stop = int(self.container["lifecycle"]["preStop"]["exec"]["command"][-1])
        self.assertGreater(self.pod["spec"]["terminationGracePeriodSeconds"],
                           pre_stop + server["drain_grace_seconds"] + server["drain_timeout_seconds"])

    def test_ports_probes_and_labels_agree(self):
        self.assertEqual(self.config["server"]["listen"], f"0.0.0.0:{GRPC_PORT}")
        self.assertEqual(self.config["metrics"]["listen"], f"0.0.0.0:{METRICS_PORT}")
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.assertEqual(ports, {"grpc": GRPC_PORT, "metrics": METRICS_PORT})
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(self.container[probe]["grpc"]["port"], GRPC_PORT)
        self.assertEqual(self.container["readinessProbe"]["grpc"]["service"], "kvasir.v1.GenerationService")
        labels = self.pod["metadata"]["labels"]
        self.assertEqual(self.base["deployment"]["spec"]["selector"]["matchLabels"], labels)
        self.assertEqual(self.base["poddisruptionbudget"]["spec"]["selector"]["matchLabels"], labels)
        for service in ("service", "service-headless"):
            spec = self.base[service]["spec"]
            self.assertEqual(spec["selector"], labels)
            self.assertEqual(spec["ports"][0]["appProtocol"], "kubernetes.io/h2c")
        self.assertEqual(self.base["service-headless"]["spec"]["clusterIP"], "None")
        # The monitor finds the one Service that has a metrics port.
        monitor = load("k8s/monitoring/servicemonitor.yaml")["spec"]
        self.assertEqual(monitor["selector"]["matchLabels"], self.base["service"]["metadata"]["labels"])
        self.assertNotEqual(monitor["selector"]["matchLabels"], self.base["service-headless"]["metadata"]["labels"])
        self.assertEqual(load("k8s/monitoring/horizontalpodautoscaler.yaml")["spec"]["scaleTargetRef"]["name"],
                         self.base["deployment"]["metadata"]["name"])

    def test_the_pod_is_restricted(self):
        security = self.pod["spec"]["securityContext"]
        user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.M)
        self.assertEqual((str(security["runAsUser"]), str(security["runAsGroup"])), user.groups())
        own = self.container["securityContext"]
        self.assertTrue(security["runAsNonRoot"] and own["readOnlyRootFilesystem"])
        self.assertFalse(own["allowPrivilegeEscalation"])
        self.assertEqual(own["capabilities"], {"drop": ["ALL"]})

    def test_the_client_policy_retries_only_what_is_safe(self):
        policy = json.loads((DEPLOY / "k8s" / "client-service-config.json").read_text())
        for method in policy["methodConfig"]:
            self.assertEqual(method["retryPolicy"]["retryableStatusCodes"], ["UNAVAILABLE"])


class Systemd(unittest.TestCase):
    def test_the_unit_notifies_and_waits_for_the_drain(self):
        lines = [line for line in (DEPLOY / "systemd" / "kvasird.service").read_text().splitlines()
                 if line and line[0] not in "#["]
        unit = dict(line.split("=", 1) for line in lines)
        self.assertEqual(unit["Type"], "notify")
        self.assertTrue(unit["WatchdogSec"])
        self.assertGreater(int(unit["TimeoutStopSec"].removesuffix("s")), DRAIN_SECONDS)
        self.assertEqual(unit["NoNewPrivileges"], "yes")
        self.assertIn("AF_UNIX", unit["RestrictAddressFamilies"], "or the notify socket is out of reach")


if __name__ == "__main__":
    unittest.main()
