"""The daemon and the machine: instructions of older CPUs, threads and their places, an idle daemon's CPU time."""

import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time
import unittest

import harness
from harness import BIN, BUNDLED_FOLDER, PATIENCE_SECONDS, ROOT, Daemon, greedy

import grpc
from kvasir.v1 import admin_pb2

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def logged(daemon, pattern):
    """The first group of the first log line that matches."""
    match = re.search(pattern, daemon.log())
    assert match, f"no {pattern!r} in:\n{daemon.log()}"
    return match.group(1)


def cpu_flags():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split())
    return set()


# oneDNN's instruction sets for products, each with the CPU flags that it adds to the one before.
PRODUCT_ISAS = (
    ("sse41", {"sse4_1"}),
    ("avx", {"avx"}),
    ("avx2", {"avx2"}),
    ("avx512_core", {"avx512f", "avx512bw", "avx512vl", "avx512dq"}),
    ("avx512_core_vnni", {"avx512_vnni"}),
    ("avx512_core_bf16", {"avx512_bf16"}),
    ("avx512_core_amx", {"amx_tile", "amx_int8", "amx_bf16"}),
)
BF16_ISAS = {"avx512_core_bf16", "avx512_core_amx"}
AVX512_KERNELS = {"AVX3", "AVX3_DL", "AVX3_ZEN4", "AVX3_SPR"}  # by the version of Highway
KERNELS = {"sse41": {"SSE4"}, "avx": {"SSE4"}, "avx2": {"AVX2"}, "avx2_vnni": {"AVX2"},
           **{name: AVX512_KERNELS for name, _ in PRODUCT_ISAS if name.startswith("avx512")}}


def forced_target():
    """What the tests' own environment forces on every daemon, to play an older CPU."""
    return os.environ.get("KVASIR_CPU_TARGET", "")


def product_isa():
    """What oneDNN uses: the last set that the flags allow, nor more than the tests' environment does."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "all").lower()
    limit = {"": limit, "auto": limit, "avx2": "avx2", "avx512": "avx512_core", "avx512_bf16": "avx512_core_bf16"}[forced_target()]
    found = None
    for name, flags in PRODUCT_ISAS:
        if not flags <= cpu_flags():
            break
        found = name
        if name == limit:
            return found
    return "avx2_vnni" if found == "avx2" and "avx_vnni" in cpu_flags() else found


class CpuTargetTest(unittest.TestCase):
    def test_avx2_meets_the_goldens_in_f32(self):
        with Daemon("--cpu_target", "avx2", compute_type="f32") as daemon:
            self.assertEqual(logged(daemon, r'instructions="([^"]*)"'), "kernels AVX2, products avx2")
            for prompt in harness.golden()["prompts"]:
                reply = daemon.generate(greedy(prompt["ids"], max_tokens=len(prompt["greedy_ids"])))
                self.assertEqual(reply.token_ids[0], prompt["greedy_ids"], prompt["name"])

    def test_avx2_int8_stays_within_a_hundredth_of_a_nat(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            # Any text will do: both daemons score the same tokens.
            text.write("".join(prompt["text"] for prompt in harness.golden()["prompts"] if prompt.get("text"))
                       + (ROOT / "LICENSE").read_text()[:8000])
            text.flush()
            score = {}
            for compute_type, target in (("f32", "auto"), ("int8", "avx2")):
                with Daemon("--cpu_target", target, compute_type=compute_type) as daemon:
                    score[compute_type] = daemon.cli_json("score", "--file", text.name, "--window", 512,
                                                          "--max_tokens", 2048)["nll_mean"]
        print(f"NLL {score}")
        self.assertLess(abs(score["int8"] - score["f32"]), 0.01, score)

    def test_bf16_falls_back_with_a_log_line(self):
        with Daemon(environment={"KVASIR_CPU_TARGET": "avx2"}) as daemon:
            self.assertEqual(logged(daemon, r"bf16 weights compute in f32.* compute_type=(\w+)"), "f32")
            info = [name for name in daemon.metrics() if name.startswith("kvasir_model_info{")]
            self.assertEqual(len(info), 1)
            self.assertIn('compute_type="f32"', info[0])
            prompt = harness.golden()["prompts"][0]
            reply = daemon.generate(greedy(prompt["ids"], max_tokens=8))
            self.assertEqual(reply.token_ids[0], prompt["greedy_ids"][:8])

    @unittest.skipUnless(platform.machine() == "x86_64", "names the instruction sets of x86-64")
    def test_the_log_names_what_this_cpu_offers(self):
        with Daemon() as daemon:
            instructions = logged(daemon, r'instructions="([^"]*)"')
            match = re.fullmatch(r"kernels (\w+), products (\w+)(?: or newer)?(?:, (bf16|amx) attention)?", instructions)
            self.assertTrue(match, instructions)
            kernels, products, attention = match.groups()
            self.assertIn(kernels, KERNELS[product_isa()])
            self.assertEqual(products, product_isa())
            self.assertEqual("compute in f32" in daemon.log(), product_isa() not in BF16_ISAS)
            # Our own kernels are no business of oneDNN's variable.
            fastest = ("amx" if {"amx_tile", "amx_int8", "amx_bf16"} <= cpu_flags() else
                       "bf16" if {"avx512_bf16", "avx512_vnni"} <= cpu_flags() else None)
            forced = {"avx512_bf16": "bf16", "avx512": None, "avx2": None}
            self.assertEqual(attention, forced.get(forced_target(), fastest))

    def test_unknown_targets_are_refused(self):
        for flags, variables in ((["--cpu_target", "avx9"], {}), ([], {"KVASIR_CPU_TARGET": "avx9"})):
            result = subprocess.run([BIN / "kvasird", "--model", BUNDLED_FOLDER, *flags], capture_output=True, text=True,
                                    env={**os.environ, **variables}, timeout=PATIENCE_SECONDS, check=False)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn("cpu_target is 'avx9', but must be one of: auto, avx512_bf16, avx512, avx2", result.stderr)


class PlacesTest(unittest.TestCase):
    def threads(self, **environment):
        with Daemon(environment=environment) as daemon:
            daemon.generate(greedy(max_tokens=4))
            # Every thread may run wherever the process may.
            allowed = {re.search(r"Cpus_allowed_list:\s*(\S+)", (task / "status").read_text()).group(1)
                       for task in pathlib.Path(f"/proc/{daemon.process.pid}/task").iterdir()}
            return int(logged(daemon, r"computing with.* threads=(\d+)")), allowed

    def test_openmp_binding_does_not_leave_the_daemon_one_cpu(self):
        plain = self.threads()
        for binding in ({"OMP_PROC_BIND": "true"}, {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"},
                        {"GOMP_CPU_AFFINITY": "0-1023"}, {"OMP_PROC_BIND": "spread", "GOMP_SPINCOUNT": "1000"}):
            with self.subTest(binding=binding):
                self.assertEqual(self.threads(**binding), plain)

    def test_a_narrower_mask_gives_fewer_threads(self):
        cpus = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(cpus)})
            threads, allowed = self.threads()
        finally:
            os.sched_setaffinity(0, cpus)
        self.assertEqual((threads, allowed), (1, {str(min(cpus))}))


class ControlGroup:
    """A real group with limits, and one inside it without, where the daemon runs: version 1 or 2, as root. Skips the test,
    loudly, where that cannot be."""

    PROBED = (("memory", "memory.limit_in_bytes", "memory.max"), ("cpu", "cpu.cfs_quota_us", "cpu.max"))

    def __init__(self, memory_bytes=None, cpus=None):
        limits = {"memory": memory_bytes, "cpu": cpus and int(cpus * 100_000)}
        self.folders = []
        for controller, version1, version2 in self.PROBED:
            if limits[controller] is None:
                continue
            name, roots = f"kvasir_test_{os.getpid()}", pathlib.Path("/sys/fs/cgroup")
            for root, file in ((roots / controller, version1), (roots, version2)):
                try:
                    (root / name / "inner").mkdir(parents=True, exist_ok=True)
                    (root / name / file).write_text(f"{limits[controller]}\n")
                    self.folders.append(root / name)
                    break
                except OSError:
                    self.remove(root / name)
            else:
                self.close()
                print(f"*** no control group with a limit of {controller} can be made here: this test is skipped",
                      file=sys.stderr)
                raise unittest.SkipTest(f"no control group with a limit of {controller} can be made")

    def wrapper(self, *more):
        """Moves the process in; `more` is a command of sh after that."""
        moves = [f"echo $$ > {folder}/inner/cgroup.procs" for folder in self.folders]
        return ["sh", "-c", " && ".join([*moves, *more, 'exec "$0" "$@"'])]

    @staticmethod
    def remove(folder):
        for each in (folder / "inner", folder):
            if each.is_dir():
                each.rmdir()

    def close(self):
        for folder in self.folders:
            harness.wait_until(lambda: not (folder / "inner" / "cgroup.procs").read_text().strip(), "the group is empty")
            self.remove(folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class ControlGroupTest(unittest.TestCase):
    CONFIG = f"""
models:
  - {{name: {harness.BUNDLED}, path: {BUNDLED_FOLDER}, compute_type: f32, kv_cache: {{element_type: f32}},
     scheduler: {{max_running: 64}}}}
"""

    def test_the_pool_fits_the_limit_of_the_group_above_and_is_filled_without_a_kill(self):
        """What the systemd unit promises of MemoryMax, in its view of the file system (ProtectControlGroups)."""
        limit = 512 << 20
        with ControlGroup(memory_bytes=limit) as group:
            read_only = ("mount --rbind /sys/fs/cgroup /sys/fs/cgroup && "
                         "for at in /sys/fs/cgroup /sys/fs/cgroup/*/; do mount -o remount,bind,ro $at 2> /dev/null; done; "
                         "! touch /sys/fs/cgroup/here 2> /dev/null")
            can_unshare = subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0
            wrapper = group.wrapper(*([read_only] if can_unshare else []))
            with Daemon(config=self.CONFIG, wrapper=["unshare", "--mount", *wrapper] if can_unshare else wrapper) as daemon:
                samples = daemon.metrics()
                self.assertEqual(samples["kvasir_usable_memory_bytes"], limit)
                capacity = harness.sample_sum(samples, "kvasir_kv_pool_capacity_bytes")
                self.assertLess(capacity, limit)
                self.assertGreater(capacity, limit // 8)
                # Every block of the pool is written to once.
                prompt = 0
                while harness.sample_sum(daemon.metrics(), "kvasir_kv_pool_bytes", state="free") > capacity / 20:
                    prompt += 1
                    ids = [100 + (i * 7 + prompt * 31) % 1500 for i in range(1900)]
                    daemon.generate(greedy(ids, max_tokens=2))
                    self.assertLess(prompt, 400)
                print(f"limit {limit >> 20} MiB, pool {int(capacity) >> 20} MiB, filled by {prompt} prompts, "
                      f"resident {int(daemon.metrics()['process_resident_memory_bytes']) >> 20} MiB")
                self.assertEqual(daemon.stop(), 0)

    def test_what_does_not_fit_the_group_ends_the_start_with_the_sum(self):
        with ControlGroup(memory_bytes=128 << 20) as group:
            with self.assertRaisesRegex(AssertionError, r"ended with 5 before(?s:.)*134217728 bytes"):
                Daemon(config=self.CONFIG, wrapper=group.wrapper())

    def test_a_model_that_does_not_fit_the_group_is_refused_beside_one_that_serves(self):
        with ControlGroup(memory_bytes=512 << 20) as group:
            config = self.CONFIG.replace("element_type: f32", "capacity_bytes: 64Mi")
            with Daemon(config=config, wrapper=group.wrapper()) as daemon:
                with self.assertRaises(grpc.RpcError) as refused:
                    daemon.admin.LoadModel(admin_pb2.LoadModelRequest(
                        name="more", path=str(BUNDLED_FOLDER), options="kv_cache: {capacity_bytes: 1Gi}", wait=True),
                        timeout=PATIENCE_SECONDS)
                self.assertEqual(refused.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
                self.assertEqual(daemon.generate(greedy(max_tokens=4, model=harness.BUNDLED)).usage.completion_tokens, 4)

    def test_threads_are_as_many_as_the_quota_allows(self):
        with ControlGroup(cpus=0.5) as group, Daemon(wrapper=group.wrapper()) as daemon:
            self.assertEqual(daemon.metrics()["kvasir_usable_cpus"], 1)
            self.assertEqual(logged(daemon, r"computing with.* threads=(\d+)"), "1")


class IdleTest(unittest.TestCase):
    def test_an_idle_daemon_uses_less_than_a_hundredth_of_a_cpu(self):
        """With a warm engine, an open connection and an idle session; being scraped is not idle."""
        seconds = 5

        def cpu_seconds(pid):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

        with Daemon() as daemon:
            daemon.generate(greedy(max_tokens=64, session_id="idle"))
            daemon.generate(greedy(max_tokens=64))
            # Compute threads spin for about a millisecond after a step, then sleep.
            time.sleep(0.1)
            before, start = cpu_seconds(daemon.process.pid), time.monotonic()
            time.sleep(seconds)
            used = cpu_seconds(daemon.process.pid) - before
            share = used / (time.monotonic() - start)
            print(f"an idle daemon used {100 * share:.2f} % of one CPU")
            self.assertLess(share, 0.01)


if __name__ == "__main__":
    unittest.main()
