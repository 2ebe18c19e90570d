"""TLS and client certificates: who gets a connection, who is who, and what bad files and peers are told."""

import os
import pathlib
import socket
import subprocess
import tempfile
import unittest

import harness
from harness import BIN, BUNDLED, PATIENCE_SECONDS, Daemon, greedy, wait_until
from tenant_client import KEYS, TenantClient, config, refusal

import grpc


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority in a folder; issue() makes NAME.crt and NAME.key."""

    def __init__(self, folder, name="authority"):
        self.folder, self.name = pathlib.Path(folder), name
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", self.key,
                "-out", self.certificate)

    @property
    def certificate(self):
        return self.folder / f"{self.name}.crt"

    @property
    def key(self):
        return self.folder / f"{self.name}.key"

    def issue(self, name, subject=None):
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n"
                              "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.crt"
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-subj", subject or f"/CN={name}", "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
                "-days", "2", "-extfile", extensions, "-out", certificate)
        return certificate, key


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.authority = Authority(cls.folder.name)
        cls.stranger = Authority(cls.folder.name, "stranger")
        cls.server = cls.authority.issue("server")
        cls.client = cls.authority.issue("client", "/O=Example/CN=team-a")
        cls.foreign = cls.stranger.issue("foreign", "/O=Example/CN=team-a")
        cls.key_file = pathlib.Path(cls.folder.name, "team-b.key.txt")
        cls.key_file.write_text(KEYS["team-b"] + "\n")
        cls.tenants = {"team-b": {"key_file": str(cls.key_file)}}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def daemon(self, **tls):
        by_certificate = {"team-a": {"certificate_subjects": ["CN=team-a,O=Example"]}} if "client_ca_file" in tls else {}
        return Daemon(config=config({**self.tenants, **by_certificate}, server={"tls": {
            "certificate_file": str(self.server[0]), "private_key_file": str(self.server[1]), **tls}}))

    def channel(self, daemon, certificate=None):
        pair = {} if certificate is None else {"certificate_chain": certificate[0].read_bytes(),
                                               "private_key": certificate[1].read_bytes()}
        return grpc.secure_channel(daemon.grpc_address, grpc.ssl_channel_credentials(
            root_certificates=self.authority.certificate.read_bytes(), **pair),
            options=[("grpc.use_local_subchannel_pool", 1)])

    def client_of(self, daemon, key=None, certificate=None):
        return TenantClient(daemon, key, channel=self.channel(daemon, certificate))

    def test_a_key_over_tls_and_a_certificate_each_name_their_tenant(self):
        with self.daemon(client_ca_file=str(self.authority.certificate)) as daemon:
            with self.client_of(daemon, KEYS["team-b"]) as b, self.client_of(daemon, certificate=self.client) as a:
                session = greedy(max_tokens=4)
                session.session_id = "of-a"
                self.assertEqual(a.generate(session).usage.completion_tokens, 4)
                self.assertEqual(b.generate(greedy(max_tokens=4)).usage.completion_tokens, 4)
                self.assertEqual([s.session_id for s in a.list_sessions().sessions], ["of-a"])
                self.assertEqual(len(b.list_sessions().sessions), 0)
            with self.client_of(daemon) as nobody:
                error = refusal(nobody.generate, greedy())
                self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED, error.details())

    def test_a_required_certificate_must_be_there_and_of_the_authority(self):
        with self.daemon(client_ca_file=str(self.authority.certificate), client_certificates="required") as daemon:
            with self.client_of(daemon, certificate=self.client) as a:
                self.assertEqual(a.generate(greedy(max_tokens=2)).usage.completion_tokens, 2)
            for key, certificate in ((KEYS["team-b"], None), (None, self.foreign)):
                with self.client_of(daemon, key, certificate) as other:
                    error = refusal(other.generate, greedy(), timeout=PATIENCE_SECONDS)
                    self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE, error.details())

    def test_plain_text_and_old_tls_get_no_connection_and_the_next_client_does(self):
        with self.daemon() as daemon:
            host, port = daemon.grpc_address.rsplit(":", 1)
            with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as plain:
                plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
                while data := plain.recv(4096):  # a TLS alert at most, then the end
                    self.assertNotIn(b"grpc", data)
            with daemon.new_channel() as insecure:
                error = refusal(TenantClient(daemon, KEYS["team-b"], channel=insecure).generate, greedy(),
                                timeout=PATIENCE_SECONDS)
                self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
            for version, accepted in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
                with self.subTest(version=version):
                    # Security level 0, or this machine's own openssl would refuse before it asks.
                    shake = subprocess.run(
                        ["openssl", "s_client", "-connect", daemon.grpc_address, version, "-alpn", "h2", "-cipher",
                         "ALL:@SECLEVEL=0", "-CAfile", str(self.authority.certificate)],
                        input="", capture_output=True, text=True, errors="replace", timeout=PATIENCE_SECONDS)
                    self.assertEqual("Verify return code: 0" in shake.stdout and "Cipher is (NONE)" not in shake.stdout,
                                     accepted, shake.stdout + shake.stderr)
            with self.client_of(daemon, KEYS["team-b"]) as b:
                self.assertEqual(b.generate(greedy(max_tokens=2)).usage.completion_tokens, 2)

    def test_a_new_certificate_serves_new_connections_without_a_restart(self):
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = pathlib.Path(folder, "tls.crt"), pathlib.Path(folder, "tls.key")

            def install(pair):
                for source, target in zip(pair, (certificate, key)):
                    fresh = target.with_suffix(".new")
                    fresh.write_bytes(source.read_bytes())
                    os.replace(fresh, target)

            install(self.server)
            with Daemon(config=config(self.tenants, server={"tls": {
                    "certificate_file": str(certificate), "private_key_file": str(key), "reload_seconds": 1}})) as daemon:
                with self.client_of(daemon, KEYS["team-b"]) as old:
                    self.assertEqual(old.generate(greedy(max_tokens=2)).usage.completion_tokens, 2)
                    install(self.stranger.issue("renewed"))

                    def is_renewed():
                        shown = subprocess.run(["openssl", "s_client", "-connect", daemon.grpc_address, "-alpn", "h2"],
                                               input="", capture_output=True, text=True, errors="replace",
                                               timeout=PATIENCE_SECONDS)
                        # OpenSSL 3.2 writes no spaces around the sign.
                        return "issuer=CN=stranger" in shown.stdout.replace(" = ", "=")

                    wait_until(is_renewed, "the new certificate is shown")
                    self.assertEqual(old.generate(greedy(max_tokens=2)).usage.completion_tokens, 2)

    def test_whatever_a_rotation_leaves_the_old_certificate_serves_on(self):
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = pathlib.Path(folder, "tls.crt"), pathlib.Path(folder, "tls.key")

            def install(path, make):
                path.unlink(missing_ok=True)
                make(path)

            def put(text):
                return lambda path: path.write_bytes(text)

            good = {path: source.read_bytes() for path, source in zip((certificate, key), self.server)}
            for path, text in good.items():
                path.write_bytes(text)
            with Daemon(config=config(self.tenants, server={"tls": {
                    "certificate_file": str(certificate), "private_key_file": str(key), "reload_seconds": 1}})) as daemon:
                states = ((key, put(b"")), (key, put(good[key][:len(good[key]) // 2])), (key, lambda path: None),
                          (key, os.mkfifo), (key, pathlib.Path.mkdir), (key, put(self.client[1].read_bytes())),
                          (certificate, put(good[certificate][:200])), (certificate, os.mkfifo),
                          (certificate, put(good[certificate] + good[certificate][:300])))
                for number, (path, make) in enumerate(states):
                    with self.subTest(state=number):
                        seen = daemon.log().count("TLS files cannot be used")
                        install(path, make)
                        wait_until(lambda: daemon.log().count("TLS files cannot be used") > seen, "the log tells")
                        with self.client_of(daemon, KEYS["team-b"]) as client:
                            self.assertEqual(client.generate(greedy(max_tokens=2)).usage.completion_tokens, 2)
                        if path.is_dir():
                            path.rmdir()
                        install(path, put(good[path]))

    def test_the_command_line_client_brings_key_and_authority(self):
        with self.daemon() as daemon:
            command = [str(BIN / "kvasir"), "generate", "--server", daemon.grpc_address, "--max_tokens", "2", "Once"]
            flags = ["--tls_ca", str(self.authority.certificate), "--api_key_file", str(self.key_file)]
            done = subprocess.run(command + flags, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
            self.assertEqual(done.returncode, 0, done.stderr)
            health = subprocess.run([str(BIN / "kvasir"), "health", "--server", daemon.grpc_address],
                                    env={**os.environ, "KVASIR_TLS_CA": str(self.authority.certificate)},
                                    capture_output=True, text=True, timeout=PATIENCE_SECONDS)
            self.assertEqual(health.returncode, 0, health.stderr)
            python = subprocess.run(
                ["/usr/bin/python3", "-B", "client/python/generate.py", "--server", daemon.grpc_address, "--max_tokens",
                 "2", *flags, "Once"], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
            self.assertEqual(python.returncode, 0, python.stderr)
            keyless = subprocess.run(command + flags[:2], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
            self.assertEqual(keyless.returncode, 1)
            self.assertIn("Bearer KEY", keyless.stderr)
            for bad, text in ((["--api_key_file", "/nowhere"], "/nowhere"), (["--tls_ca", "/nowhere"], "/nowhere"),
                              (["--tls_certificate", str(self.client[0])], "--tls_private_key")):
                refused = subprocess.run(command + bad, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
                self.assertEqual(refused.returncode, 2, refused.stderr)
                self.assertIn(text, refused.stderr)

    def test_giant_metadata_and_a_stalled_handshake_end_and_cost_nobody_else(self):
        with Daemon(config=config(self.tenants, server={"handshake_timeout_seconds": 1, "tls": {
                "certificate_file": str(self.server[0]), "private_key_file": str(self.server[1])}})) as daemon:
            with self.client_of(daemon, KEYS["team-b"]) as b:
                b.generate(greedy(max_tokens=2))
                host, port = daemon.grpc_address.rsplit(":", 1)
                with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as stalled:
                    stalled.sendall(b"\x16\x03\x01")  # the beginning of a handshake, and never more
                    self.assertEqual(stalled.recv(1), b"")  # closed by the daemon
                with TenantClient(daemon, KEYS["team-b"], metadata=[("x-giant", "g" * (1 << 20))],
                                  channel=self.channel(daemon)) as giant:
                    error = refusal(giant.generate, greedy(), timeout=PATIENCE_SECONDS)
                    self.assertIn(error.code(), (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE,
                                                 grpc.StatusCode.INTERNAL), error.details())
                with self.client_of(daemon, "k" * 10000) as wrong:
                    error = refusal(wrong.generate, greedy(), timeout=PATIENCE_SECONDS)
                    self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED, error.details())
                    self.assertNotIn("kkkk", error.details())
                self.assertEqual(b.generate(greedy(max_tokens=2)).usage.completion_tokens, 2)

    def test_files_that_do_not_fit_are_named_and_nothing_listens(self):
        garbage = pathlib.Path(self.folder.name, "garbage.pem")
        garbage.write_text("no certificate\n")
        for tls, text in (({"certificate_file": "/nowhere.crt"}, "/nowhere.crt"),
                          ({"certificate_file": str(garbage)}, "holds no certificate"),
                          ({"private_key_file": str(self.client[1])}, "does not belong"),
                          ({"client_ca_file": str(garbage)}, "holds no certificate")):
            with self.subTest(tls=tls), self.assertRaises(AssertionError) as failed:
                self.daemon(**tls).kill()
            self.assertIn(text, str(failed.exception))


if __name__ == "__main__":
    unittest.main()
