"""kvasir pull against a hub of this machine: what is downloaded, where it lands, what is refused, and what happens when
the hub, the disk or the user gets in the way."""

import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import unittest

import fake_hub
from hub_case import WEIGHTS, HubTest
from harness import BIN, PATIENCE_SECONDS, wait_until


class WhatIsPulled(HubTest):
    def test_needed_files_in_the_standard_layout(self):
        result = self.run_pull("org/tale")
        snapshot = self.storage / "snapshots" / self.repo.commit
        self.assertEqual((result.returncode, result.stdout.strip()), (0, str(snapshot)), result.stderr)
        self.assert_whole()
        self.assertEqual((self.storage / "refs" / "main").read_text(), self.repo.commit)
        self.assertEqual(os.readlink(snapshot / WEIGHTS), f"../../blobs/{self.repo.digest(WEIGHTS)}")
        self.assertRegex(result.stderr, r"commit \w{12}: 6 files, .* to download into \S+ \(.* free\)")
        self.assertRegex(result.stderr, r"weights as stored: [\d.]+ MiB; this machine may use [\d.]+ GiB")
        self.assertIn("pull [#", result.stderr)
        self.assertTrue(all(re.match(r"kvasir/\d", request["agent"]) for request in self.hub.requests))

        # The second time, only two questions.
        self.hub.requests.clear()
        report = self.pull()
        self.assertEqual((report["downloaded_bytes"], report["missing_bytes"]), (0, 0))
        self.assertEqual([request["path"].split("/")[5] for request in self.hub.requests], ["revision", "tree"])

    def test_a_new_commit_brings_only_what_changed(self):
        self.pull()
        old = self.repo.commit
        self.repo.files["generation_config.json"] += b"\n"
        report = self.pull()
        self.assertEqual(report["downloaded_bytes"], len(self.repo.files["generation_config.json"]))
        self.assertEqual((self.storage / "refs" / "main").read_text(), self.repo.commit)
        self.assertEqual(self.pull(f"hf:org/tale@{self.repo.commit}")["downloaded_bytes"], 0)
        self.assertIn("no such revision", self.refused(f"hf:org/tale@{'0' * 40}"))
        offline = self.pull(f"hf:org/tale@{old}", environment={"HF_HUB_OFFLINE": "1"})
        self.assertEqual(pathlib.Path(offline["path"]).name, old)

    def test_shards_by_their_index_and_templates_in_folders(self):
        files = self.repo.files
        weights = files.pop(WEIGHTS)
        files["model-00001-of-00002.safetensors"], files["model-00002-of-00002.safetensors"] = weights[:9], weights[9:]
        files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": {
            "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}).encode()
        files["model-extra.safetensors"] = b"not in the index"
        files["additional_chat_templates/tools.jinja"] = b"{{ tools }}"
        self.repo.large = {name for name in files if name.endswith(".safetensors")}
        report = self.pull()
        names = [file["path"] for file in report["files"]]
        self.assertEqual(names[-3:], ["model.safetensors.index.json", "model-00001-of-00002.safetensors",
                                      "model-00002-of-00002.safetensors"])
        self.assertNotIn("model-extra.safetensors", names)
        link = pathlib.Path(report["path"]) / "additional_chat_templates" / "tools.jinja"
        self.assertEqual(link.read_bytes(), b"{{ tools }}")
        self.assertTrue(os.readlink(link).startswith("../../../blobs/"))
        self.assertEqual(self.pull(environment={"HF_HUB_OFFLINE": "1"})["path"], report["path"])
        # Without one of its parts the cache has not the model.
        self.blob("model-00002-of-00002.safetensors").unlink()
        self.assertIn("model-00002-of-00002.safetensors, which is not there",
                      self.refused(environment={"HF_HUB_OFFLINE": "1"}))

    def test_gguf_by_pattern_default_or_list(self):
        names = ["tale-Q8_0.gguf", "tale-Q4_K_M.gguf", "tale-Q4_K_S.gguf", "mmproj-tale.gguf",
                 "BF16/tale-BF16-00001-of-00002.gguf", "BF16/tale-BF16-00002-of-00002.gguf"]
        self.repo = self.hub.repos["org/tale"] = fake_hub.Repo({name: name.encode() for name in names}, large=names)
        report = self.pull()
        self.assertTrue(report["path"].endswith("/tale-Q4_K_M.gguf"), report)
        self.assertIn("tale-Q8_0.gguf", report["stderr"])
        self.assertEqual([file["path"] for file in report["files"]], ["tale-Q4_K_M.gguf"])
        self.assertTrue(self.pull("hf:org/tale:q8_0")["path"].endswith("/tale-Q8_0.gguf"))
        self.assertTrue(self.pull("hf:org/tale:*S.gguf")["path"].endswith("/tale-Q4_K_S.gguf"))
        parts = self.pull("hf:org/tale:BF16")
        self.assertTrue(parts["path"].endswith("/BF16/tale-BF16-00001-of-00002.gguf"), parts)
        self.assertEqual(len(parts["files"]), 2)
        self.assertIn("no GGUF file of org/tale matches 'IQ1'; it has BF16/tale", self.refused("hf:org/tale:IQ1"))
        self.assertIn("2 files of org/tale match 'tale-Q4*'", self.refused("hf:org/tale:tale-Q4*"))
        del self.repo.files["tale-Q4_K_M.gguf"]
        self.assertIn("3 GGUF files and none is Q4_K_M", self.refused())
        self.assertNotIn("mmproj", self.refused())

    def test_the_listing_has_pages(self):
        self.hub.page_size = 3
        self.pull()
        self.assertEqual(len(self.hub.asked("/tree/")), -(-len(self.repo.listing()) // 3))
        self.assert_whole()

    def test_dry_run_says_and_does_nothing(self):
        report = self.pull("--dry_run", "org/tale")
        self.assertEqual(report["missing_bytes"], report["total_bytes"])
        self.assertFalse(self.cache.exists())

    def test_verify_finds_and_mends_a_wrong_file(self):
        self.pull()
        with open(self.blob(WEIGHTS), "r+b") as file:
            file.write(b"\xff")
        self.assertEqual(self.pull()["downloaded_bytes"], 0)  # the size is right
        report = self.pull("--verify", "hf:org/tale")
        self.assertIn("model.safetensors in the cache is wrong and is deleted", report["stderr"])
        self.assert_whole()


class WhatIsRefused(HubTest):
    def test_command_lines(self):
        for words in ([], ["a/b", "c/d"], ["hf:"], ["hf:../x"], ["hf:a/b/c"], ["hf:a/b@"], ["hf:a/b:"], ["hf:a/b@../c"]):
            result = self.run_pull(*words)
            self.assertEqual(result.returncode, 2, words)
        self.assertFalse(self.hub.requests)

    def test_who_may_not(self):
        self.hub.repos["org/private"] = fake_hub.Repo(self.repo.files, private=True)
        self.hub.repos["org/gated"] = fake_hub.Repo(self.repo.files, gated=True)
        self.hub.accepted = False
        page = self.hub.endpoint
        self.assertRegex(self.refused("org/none"), f"does not exist, or is private: look at {page}/org/none.*HF_TOKEN")
        self.assertRegex(self.refused("org/private"), "does not exist, or is private")
        self.assertRegex(self.refused("org/private", environment={"HF_TOKEN": "hf_wrong"}),
                         "refuses org/private to this HF_TOKEN")
        self.assertRegex(self.refused("org/none", environment={"HF_TOKEN": self.hub.token}), "is not on the hub")
        self.assertRegex(self.refused("org/gated"), f"accept them at {page}/org/gated, then set HF_TOKEN")
        self.assertRegex(self.refused("org/gated", environment={"HF_TOKEN": self.hub.token}),
                         f"accept them at {page}/org/gated with the account of this HF_TOKEN")
        self.assertRegex(self.refused("org/tale", environment={"HF_TOKEN": "two words"}), "printable ASCII")

    def test_what_cannot_be_served(self):
        files = {"config.json": b"{}", "pytorch_model.bin": b"x", "tokenizer.json": b"{}"}
        self.hub.repos["org/bin"] = fake_hub.Repo(files)
        self.assertIn("neither model.safetensors nor model.safetensors.index.json nor a GGUF file but *.bin",
                      self.refused("org/bin"))
        self.hub.repos["org/lora"] = fake_hub.Repo({"adapter_model.safetensors": b"x", "adapter_config.json": b"{}"})
        self.assertIn("but adapter_model.safetensors", self.refused("org/lora"))
        self.hub.repos["org/text"] = fake_hub.Repo({"config.json": b"{}", WEIGHTS: b"x", "vocab.json": b"{}"})
        self.assertIn("neither tokenizer.json nor tokenizer.model", self.refused("org/text"))
        self.assertFalse(self.cache.exists())

    def test_a_listing_that_would_lead_elsewhere(self):
        good = self.repo.listing()
        for path in ("../../escape", "/etc/cron.d/x", "a//b", "a/./b", "..", "a\\b", "a\nb", ""):
            self.hub.lie_listing = good + [{**good[0], "type": "file", "path": path}]
            self.assertIn("no path below the model's folder", self.refused(), path)
        for change in ({"oid": "../" * 13 + "x"}, {"oid": "short"}, {"oid": 7}, {"size": -1}, {"size": "9"}, {"size": 1e30},
                       {"lfs": {"oid": "/" * 64, "size": 1}}):
            self.hub.lie_listing = [{**good[1], "type": "file", **change}]
            self.assertIn("nothing was downloaded", self.refused(), change)
        self.hub.lie_listing, self.hub.lie_commit = None, "../../../elsewhere"
        self.assertIn("names no commit", self.refused())
        self.hub.lie_commit = None
        self.hub.page_size, self.hub.next_base = 3, self.hub.cdn
        self.assertIn("which is not the hub", self.refused())
        self.assertFalse(self.hub.asked("", cdn=True))
        self.assertFalse(self.cache.exists())

    def test_who_is_no_hub(self):
        self.hub.faults["/revision/"] = [{"status": 200}]
        self.assertIn("is no JSON but 'no'", self.refused().replace('"', "'"))
        error = self.refused(environment={"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"})
        self.assertRegex(error, "certificate of https://127.0.0.1:.* is not trusted.*SSL_CERT_FILE")
        self.assertIn("HF_ENDPOINT is", self.refused(environment={"HF_ENDPOINT": "ftp://hub"}))
        self.assertIn("neither HF_HOME nor HOME is set", self.refused(environment={"HF_HOME": "", "HOME": ""}))


class Secrets(HubTest):
    def test_the_token_stays_with_the_hub(self):
        self.hub.repos["org/tale"].private = True
        self.pull(environment={"HF_TOKEN": self.hub.token})
        self.assertTrue(all(request["authorization"] == f"Bearer {self.hub.token}" for request in self.hub.asked("", cdn=False)))
        cdn = self.hub.asked("", cdn=True)
        self.assertTrue(cdn)
        self.assertEqual({request["authorization"] for request in cdn}, {None})

    def test_the_token_in_a_file(self):
        self.hub.repos["org/tale"].private = True
        (self.folder / "hf").mkdir()
        (self.folder / "hf" / "token").write_text(f"{self.hub.token}\n")
        self.assertIn("does not exist, or is private", self.refused(environment={"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}))
        self.pull()

    def test_a_redirect_to_plain_http_is_not_followed(self):
        self.hub.faults["/resolve/"] = [{"status": 302, "headers": [("Location", "http://127.0.0.1:9/x")]}]
        self.assertIn("which is not encrypted; it is not followed", self.refused())

    def test_redirects_within_the_hub_keep_the_token_and_end(self):
        self.repo.private = True
        target = f"/api/models/org/tale/revision/{self.repo.commit}"
        self.hub.faults["/revision/main"] = [{"status": 307, "headers": [("Location", target)]}]
        self.pull(environment={"HF_TOKEN": self.hub.token})
        self.hub.faults["/revision/"] = [{"status": 307, "headers": [("Location", target)]}] * 20
        self.assertIn("more than 10 redirects", self.refused(environment={"HF_TOKEN": self.hub.token}))

    def test_proxies_but_not_for_this_machine(self):
        proxy = fake_hub.Proxy()
        self.addCleanup(proxy.close)
        self.repo.large = set()  # the CDN is another host
        through = {"https_proxy": proxy.url, "HF_TOKEN": self.hub.token}
        self.pull(environment=through)
        self.assertFalse(proxy.asked)
        shutil.rmtree(self.cache)
        self.pull(environment={**through, "HF_ENDPOINT": f"https://hub.test:{self.hub.port}"})
        self.assertEqual(set(proxy.asked), {(f"hub.test:{self.hub.port}", False)})


class WhenThingsGoWrong(HubTest):
    def test_a_truncated_body_is_gone_on_with(self):
        size = len(self.repo.files[WEIGHTS])
        self.hub.faults["/large/"] = [{"truncate": 1000}, {"truncate": 500_000}]
        report = self.pull()
        self.assertEqual([request["range"] for request in self.hub.asked("/large/")], [None, "bytes=1000-", "bytes=501000-"])
        self.assertIn("trying again in", report["stderr"])
        self.assertEqual(report["downloaded_bytes"], report["total_bytes"])
        self.assertGreater(size, 501_000)
        self.assert_whole()

    def test_a_server_without_ranges_begins_anew(self):
        self.hub.faults["/large/"] = [{"truncate": 1000}, {"no_ranges": True}]
        self.pull()
        self.assert_whole()

    def test_an_earlier_beginning_of_another_tool_is_taken(self):
        self.blob(WEIGHTS).parent.mkdir(parents=True)
        self.blob(WEIGHTS, ".incomplete").write_bytes(self.repo.files[WEIGHTS][:4321])
        self.pull()
        self.assertEqual(self.hub.asked("/large/")[0]["range"], "bytes=4321-")
        self.assert_whole()

    def test_a_wrong_beginning_is_found_and_dropped(self):
        self.blob(WEIGHTS).parent.mkdir(parents=True)
        for wrong in (b"\0" * 4321, b"\0" * len(self.repo.files[WEIGHTS]), b"\0" * (len(self.repo.files[WEIGHTS]) + 1)):
            self.blob(WEIGHTS, ".incomplete").write_bytes(wrong)
            self.pull()
            self.assert_whole()
            self.blob(WEIGHTS).unlink()

    def test_wrong_content_is_deleted_and_said(self):
        for fault in ({"flip": True}, {"more": b"!"}):
            for part, path in (("/large/", WEIGHTS), ("/resolve/" + self.repo.commit + "/tokenizer.json", "tokenizer.json")):
                shutil.rmtree(self.storage, ignore_errors=True)
                self.hub.faults = {part: [fault]}
                error = self.refused()
                self.assertRegex(error, f"{path}.* deleted|deleted.*{path}" if "flip" in fault else "but sends more")
                self.assertFalse(self.blob(path).exists() or self.blob(path, ".incomplete").exists())
                self.assertFalse((self.storage / "refs").exists())

    def test_refusals_that_pass(self):
        self.hub.faults = {"/revision/": [{"status": 503}], "/tree/": [{"status": 429, "headers": [("Retry-After", "1")]}],
                           "/large/": [{"status": 500}]}
        self.assertEqual(self.pull()["stderr"].count("trying again in 1s"), 3)
        self.assert_whole()

    def test_a_pause_that_is_too_long_is_said(self):
        self.hub.faults["/revision/"] = [{"status": 429, "headers": [("Retry-After", "3600")]}]
        self.assertRegex(self.refused(), "too many requests from here; with an HF_TOKEN.*asks to wait 1h, try again then")

    def test_without_the_hub_what_is_there_is_taken(self):
        self.assertIn("not in the cache", self.refused(environment={"HF_HUB_OFFLINE": "1"}))
        path = self.pull()["path"]
        self.hub.requests.clear()
        self.assertEqual(self.pull(environment={"HF_HUB_OFFLINE": "1"})["path"], path)
        self.assertFalse(self.hub.requests)
        self.hub.faults["/revision/"] = [{"status": 502}] * 9
        report = self.pull()
        self.assertEqual(report["path"], path)
        self.assertIn("taking what the cache has of hf:org/tale", report["stderr"])

    def test_the_disk_is_too_small(self):
        self.hub.lie_listing = self.repo.listing()
        for entry in self.hub.lie_listing:
            if entry["path"] == WEIGHTS:
                entry["lfs"]["size"] = 1 << 43
        self.assertRegex(self.refused(), r"needs \d+ more bytes in .*, but its disk has \d+ free")
        self.assertFalse(self.hub.asked("/large/"))

    def test_a_limit_on_files_keeps_the_beginning(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        self.assertRegex(self.refused(preexec_fn=limit), "cannot write .*incomplete: File too large")
        self.assertEqual(self.blob(WEIGHTS, ".incomplete").stat().st_size, 1 << 20)
        self.pull()
        self.assertEqual(self.hub.asked("/large/")[-1]["range"], f"bytes={1 << 20}-")
        self.assert_whole()

    def test_a_full_disk(self):
        disk = self.folder / "disk"
        disk.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True)
        if mount.returncode != 0:
            print("*** no right to mount a small disk: this test is skipped", file=sys.stderr)
            self.skipTest("cannot mount")
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=False)
        place = {"HF_HUB_CACHE": str(disk / "hub")}
        self.assertRegex(self.refused(environment=place), "more bytes in .* free; make room")
        # Filled by another while the download runs.
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        self.hub.faults["/large/"] = [{"hold": go_on, "first": 1000}]
        process = self.start("org/tale", environment=place)
        partial = disk / "hub" / self.storage.name / "blobs" / (self.repo.digest(WEIGHTS) + ".incomplete")
        wait_until(lambda: partial.exists() and partial.stat().st_size == 1000, "the first bytes")
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "other").write_bytes(b"x" * (free - (1 << 20)))
        go_on.set()
        _, error = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(process.returncode, 1, error)
        self.assertRegex(error, "No space left on device; make room.*the next pull goes on from there")
        self.assertGreaterEqual(partial.stat().st_size, 1 << 19)

    @unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
    def test_a_cache_that_cannot_be_written(self):
        self.folder.chmod(0o755)
        for file in ("ca.pem",):
            (self.folder / file).chmod(0o644)
        # The build folder may be where only root gets, below /root.
        program = shutil.copy2(BIN / "kvasir", self.folder)
        nobody = {"user": 65534, "group": 65534, "extra_groups": [], "program": program}
        self.assertRegex(self.refused(**nobody), "cannot make the folder .*: Permission denied; set HF_HOME or HF_HUB_CACHE")
        self.pull()
        for path in [self.folder / "hf", *(self.folder / "hf").rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
        self.assertEqual(self.pull(**nobody)["downloaded_bytes"], 0)  # all there: nothing to write

    def test_ctrl_c_keeps_the_beginning(self):
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        self.hub.faults["/large/"] = [{"hold": go_on, "first": 70_000}]
        process = self.start("org/tale")
        partial = self.blob(WEIGHTS, ".incomplete")
        wait_until(lambda: partial.exists() and partial.stat().st_size == 70_000, "the first bytes")
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual((process.returncode, out), (130, ""), error)
        self.assertIn("the next pull goes on from there", error)
        self.assertEqual(partial.stat().st_size, 70_000)
        self.pull()
        self.assertEqual(self.hub.asked("/large/")[-1]["range"], "bytes=70000-")
        self.assert_whole()

    def test_two_at_once_download_once(self):
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        self.hub.faults["/large/"] = [{"hold": go_on, "first": 5}]
        first = self.start("org/tale")
        partial = self.blob(WEIGHTS, ".incomplete")
        wait_until(lambda: partial.exists() and partial.stat().st_size == 5, "the first bytes")
        second = self.start("org/tale")
        said = []
        reader = threading.Thread(target=lambda: said.extend(second.stderr))
        reader.start()
        wait_until(lambda: any("waiting for another process that downloads model.safetensors" in line for line in said),
                   "the second to wait")
        go_on.set()
        self.assertEqual((first.wait(PATIENCE_SECONDS), second.wait(PATIENCE_SECONDS)), (0, 0), said)
        reader.join()
        for process in (first, second):
            process.stdout.close()
        first.stderr.close()
        second.stderr.close()
        self.assertEqual(len(self.hub.asked("/large/")), 1)
        self.assert_whole()


if __name__ == "__main__":
    unittest.main()
