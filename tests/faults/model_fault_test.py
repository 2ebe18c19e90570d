"""Loads and unloads of models, by calls and by the file, of a daemon that serves: every open, read, stat, map, write, thread and
allocation of 64 KiB and more that they make fails in turn (fault_shim.cc). After each: the daemon serves, the streams beside keep
their tokens, descriptors, threads, maps and memory are given back, no account of sessions differs from the disk, and one log
line and one counter tell."""

import errno
import os
import pathlib
import re
import shutil
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from harness import BUNDLED, BUNDLED_FOLDER, PATIENCE_SECONDS, greedy, sample_sum, wait_until
from models_test import FAILED, READY, health, load, model_of, states, unload
from serving_faults import FILES, MEMORY, SPILLED, ServingFaultTest, main

import grpc
from kvasir.v1 import session_pb2


class ModelTest(ServingFaultTest):
    """Of one more model, "guest", whose files are in the folder."""

    CODES = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT,
             grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL, grpc.StatusCode.PERMISSION_DENIED}

    def config(self, folder, models=""):
        if not (folder / "guest").exists():
            shutil.copytree(BUNDLED_FOLDER, folder / "guest")
            # An optional file that changes what the model says: were it passed over in silence, others would be its ends.
            (folder / "guest" / "generation_config.json").write_text('{"eos_token_id": [0, 5, 6]}')
        return f"""
models:
  - {{name: {BUNDLED}, path: {BUNDLED_FOLDER}, compute_type: f32, kv_cache: {{capacity_bytes: 16Mi}}}}
{models}"""

    def options(self, spill=None):
        sessions = f"sessions: {{spill_directory: {spill}}}" if spill else ""
        return f"""
compute_type: f32
kv_cache: {{capacity_bytes: 16Mi, element_type: f32}}
{sessions}
"""

    def state(self):
        """What a load takes of the process and gives back."""
        process = pathlib.Path(f"/proc/{self.daemon.process.pid}")
        return {"descriptors": len(os.listdir(process / "fd")), "threads": len(os.listdir(process / "task")),
                "maps": sum(f"{self.folder}/guest" in line for line in (process / "maps").read_text().splitlines())}

    def resident_mib(self):
        text = pathlib.Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def back(self):
        wait_until(lambda: all(now <= usual for now, usual in zip(self.state().values(), self.usual.values())),
                   f"what the load took is given back: {self.usual}")
        self.assertEqual(states(self.daemon), {BUNDLED: READY})
        self.assertFalse([name for name in self.daemon.metrics() if 'model="guest"' in name and "kvasir_requests" not in name])

    def recover(self):
        super().recover()
        if "guest" in states(self.daemon):
            unload(self.daemon, "guest")

    def loads(self):
        samples = self.daemon.metrics()
        return {result: sample_sum(samples, "kvasir_model_loads_total", result=result) for result in ("ready", "failed")}

    def check_loaded(self):
        """The model is what it is without a fault: nothing of its files was passed over."""
        model = model_of(self.daemon, "guest")
        model.loaded_unix_seconds = 0
        tokens = list(self.daemon.generate(greedy(text="Once upon a time", max_tokens=12, model="guest")).token_ids[0])
        self.reference = self.reference or (model, tokens)
        self.assertEqual((model, tokens), self.reference)
        self.assertEqual(health(self.daemon, "guest"), "SERVING")

    def check_ended(self, outcome, before):
        self.assertEqual(self.loads(), {result: value + (result == outcome) for result, value in before.items()})
        self.check_lines("model is ready|model could not be loaded", 1)
        if outcome == "ready":
            return self.check_loaded()
        self.assertEqual(states(self.daemon).get("guest"), FAILED)
        self.assertNotEqual(health(self.daemon, "guest"), "SERVING")
        self.assertIn("guest", model_of(self.daemon, "guest").error)

    def begin(self):
        """One load and unload, after which there is what stays."""
        self.reference = None
        load(self.daemon, "guest", self.folder / "guest", self.options(self.folder / "spill"))
        self.check_loaded()
        unload(self.daemon, "guest")
        self.usual = self.state()

    def test_loads(self):
        of_spill = {name for name, _ in SPILLED}

        def attempt(function, call, error):
            before = self.loads()
            self.mark = len(self.daemon.log_lines)
            options = self.options(self.folder / "spill" if function in of_spill else None)
            self.faults.arm(function, call, error)
            try:
                load(self.daemon, "guest", self.folder / "guest", options)
                outcome = "ready"
            except grpc.RpcError as refused:
                self.assertIn(refused.code(), self.CODES, refused.details())
                if function in ("new", "memalign") or error in (errno.EMFILE, errno.ENFILE) and function in ("open", "opendir"):
                    self.assertEqual(refused.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, refused.details())
                self.assertIn("guest", refused.details())
                outcome = "failed"
            calls = self.faults.disarm()
            self.check_ended(outcome, before)
            if calls >= call and function in ("open", "mmap_file"):
                self.assertEqual(outcome, "failed", "a file that could not be opened was passed over")
            unload(self.daemon, "guest")
            self.back()
            return calls, outcome

        functions = FILES + SPILLED + MEMORY + [("mmap", [errno.ENOMEM]), ("pthread_create", [errno.EAGAIN])]
        with self.serving(self.config), self.beside(self.daemon.generate) as beside:
            self.begin()
            resident = self.resident_mib()
            self.sweep("loads", functions, attempt, beside)
            print(f"resident: {resident:.0f} MiB before, {self.resident_mib():.0f} after")
            self.assertLess(self.resident_mib(), resident + 24)

    def test_loads_by_the_file(self):
        model = "  - {name: guest, path: %s/guest, compute_type: f32, kv_cache: {capacity_bytes: 16Mi, element_type: f32}}\n"
        end = "model is ready|model could not be loaded|reload failed|is not loaded"

        def reload(models, pattern):
            self.replace(self.config_file, self.config(self.folder, models))
            self.mark = len(self.daemon.log_lines)
            self.daemon.signal(signal.SIGHUP)
            wait_until(lambda: self.lines(pattern), f"'{pattern}' in the log")

        def attempt(function, call, error):
            named = model % self.folder
            self.faults.arm(function, call, error)
            reload(named, end)
            calls = self.faults.disarm()
            outcome = "ready" if self.lines("model is ready") else "failed"
            self.check_lines(end, 1)
            if outcome == "failed":  # the file is as it was, and is read again
                reload(named, end)
                self.check_lines("model is ready", 1)
            self.check_loaded()
            reload("", "unloaded model")
            self.back()
            return calls, outcome

        with self.serving(self.config), self.beside(self.daemon.generate) as beside:
            self.reference = None
            reload(model % self.folder, end)
            self.check_loaded()
            reload("", "unloaded model")
            self.usual = self.state()
            self.sweep("loads by the file", FILES + MEMORY, attempt, beside)

    def test_unloads(self):
        """Two sessions that are to be kept: each is on the disk and goes on, or is told lost."""
        self.number = 0
        prompts = [[100 + 7 * (i + 31 * number) % 1500 for i in range(60)] for number in range(2)]

        def turn(number):
            request = greedy(prompts[number], max_tokens=8, model="guest", session_id=f"s{number}")
            reply = self.daemon.generate(request)
            return reply.usage.prompt_tokens, list(reply.token_ids[0])

        def both_turns(spill, faulty):
            load(self.daemon, "guest", self.folder / "guest", self.options(spill))
            first = [turn(number) for number in range(2)]
            self.mark = len(self.daemon.log_lines)
            faulty()
            report = unload(self.daemon, "guest")
            calls = self.faults.disarm()
            files = len(list(spill.rglob("*.kvs")))
            self.assertEqual((report.sessions_kept, report.sessions_lost), (files, 2 - files))
            self.assertFalse(list(spill.rglob("*.tmp")))
            self.check_lines("sessions of the model are not on the disk", 1 if report.sessions_lost else 0)
            load(self.daemon, "guest", self.folder / "guest", self.options(spill))
            second = [turn(number) for number in range(2)]
            for number in range(2):
                self.daemon.sessions.DeleteSession(session_pb2.DeleteSessionRequest(model="guest", session_id=f"s{number}"),
                                                   timeout=PATIENCE_SECONDS)
            unload(self.daemon, "guest")
            return calls, report.sessions_lost, first, second

        def attempt(function, call, error):
            self.number += 1
            calls, lost, first, second = both_turns(self.folder / f"spill{self.number}",
                                                    lambda: self.faults.arm(function, call, error))
            self.assertEqual(first, self.undisturbed[0])
            # One that was lost begins anew with its second turn, which is then the first one's equal.
            anew = sum(now == begun for now, begun in zip(second, first))
            self.assertEqual(anew, lost)
            self.assertEqual(sum(now == usual for now, usual in zip(second, self.undisturbed[1])), 2 - lost)
            self.back()
            return calls, f"{lost} lost"

        with self.serving(self.config), self.beside(self.daemon.generate) as beside:
            self.begin()
            self.undisturbed = both_turns(self.folder / "spill0", lambda: None)[2:]
            self.assertNotEqual(*self.undisturbed)
            self.sweep("unloads", SPILLED + [("fstat", [errno.EIO]), ("linkat", [errno.EIO]), ("utimensat", [errno.EPERM])]
                       + MEMORY, attempt, beside)


if __name__ == "__main__":
    main()
