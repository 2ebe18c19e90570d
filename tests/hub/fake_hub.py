"""A hub on this machine that speaks the part of Hugging Face's HTTP API that a download needs, over HTTPS with an
authority of its own, and that fails as it is told to. Small files come from the hub itself; large ones (Git LFS) by a
redirect to a second server, as from a CDN, which must never see a token.
"""

import hashlib
import http.server
import json
import pathlib
import socket
import ssl
import subprocess
import threading
import urllib.parse

PAGE_TOKEN = "cursor"


def git_digest(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repo:
    """One commit of a model. files: {path: bytes}; those in `large` are stored in Git LFS."""

    def __init__(self, files, large=(), gated=False, private=False):
        self.files = dict(files)
        self.large = set(large)
        self.gated = gated
        self.private = private

    @property
    def commit(self):
        state = "".join(f"{path}:{git_digest(content)}" for path, content in sorted(self.files.items()))
        return hashlib.sha1(state.encode()).hexdigest()

    def digest(self, path):
        content = self.files[path]
        return hashlib.sha256(content).hexdigest() if path in self.large else git_digest(content)

    def listing(self):
        folders = {path.rsplit("/", 1)[0] for path in self.files if "/" in path}
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)]
        for path, content in sorted(self.files.items()):
            entry = {"type": "file", "oid": git_digest(content), "size": len(content), "path": path}
            if path in self.large:
                entry["lfs"] = {"oid": self.digest(path), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return entries


def make_certificates(folder):
    """An authority and a certificate of it for the names of this machine and for hub.test."""
    folder = pathlib.Path(folder)
    run = lambda *words: subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
    run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2, "-subj",
        "/CN=Test authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=hub", "-keyout",
        folder / "hub.key", "-out", folder / "hub.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:hub.test\nbasicConstraints=critical,CA:FALSE\n"
                                  "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    run("x509", "-req", "-in", folder / "hub.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
        "-CAcreateserial", "-days", 2, "-extfile", folder / "names", "-out", folder / "hub.pem")


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        pass  # who hangs up is part of the tests


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None  # the FakeHub
    is_cdn = False

    def log_message(self, *arguments):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value, headers=()):
        self.answer(200, json.dumps(value).encode(), [("Content-Type", "application/json"), *headers])

    def refuse(self, status, code, message="", headers=()):
        self.answer(status, b"", [("X-Error-Code", code), ("X-Error-Message", message), *headers])

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        with self.hub.lock:
            self.hub.requests.append({"cdn": self.is_cdn, "path": path, "range": self.headers.get("Range"),
                                      "authorization": self.headers.get("Authorization"),
                                      "agent": self.headers.get("User-Agent"), "method": self.command})
            faults = next((faults for part, faults in self.hub.faults.items() if part in self.path and faults), None)
            fault = faults.pop(0) if faults else None
        if fault is not None and "status" in fault:
            return self.answer(fault["status"], b"no", fault.get("headers", ()))
        if self.is_cdn:
            return self.send_content(self.hub.contents[path.rsplit("/", 1)[1]], fault)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.api("/".join(parts[2:4]), parts[4], "/".join(parts[5:]), urllib.parse.parse_qs(url.query))
        if "resolve" in parts:
            at = parts.index("resolve")
            return self.resolve("/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2:]), fault)
        return self.answer(404)

    def visible(self, name):
        """The repository, or None when the refusal is sent."""
        token = self.headers.get("Authorization")
        if token is not None and token != f"Bearer {self.hub.token}":
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return None
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and token is None):
            self.refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
            return None
        return repo

    def commit_of(self, repo, revision):
        if revision in ("main", "refs/pr/1", repo.commit):
            return repo.commit
        self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def api(self, name, what, revision, query):
        repo = self.visible(name)
        if repo is None:
            return
        commit = self.commit_of(repo, revision)
        if commit is None:
            return
        if what == "revision":
            return self.answer_json({"id": name, "sha": self.hub.lie_commit or commit})
        entries = self.hub.lie_listing or repo.listing()
        start = int(query.get(PAGE_TOKEN, ["0"])[0])
        page = entries[start:start + self.hub.page_size]
        headers = []
        if start + self.hub.page_size < len(entries):
            next_page = f"{self.hub.next_base or self.hub.endpoint}{self.path.split('?')[0]}?recursive=true&" \
                        f"{PAGE_TOKEN}={start + self.hub.page_size}"
            headers.append(("Link", f'<{next_page}>; rel="next"'))
        return self.answer_json(page, headers)

    def resolve(self, name, revision, path, fault):
        repo = self.visible(name)
        if repo is None:
            return
        if repo.gated and self.headers.get("Authorization") is None:
            return self.refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
        if repo.gated and not self.hub.accepted:
            return self.refuse(403, "GatedRepo", f"Access to model {name} is restricted.")
        commit = self.commit_of(repo, revision)
        if commit is None:
            return
        if path not in repo.files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        head = [("X-Repo-Commit", commit)]
        if path in repo.large:
            digest = repo.digest(path)
            self.hub.contents[digest] = repo.files[path]
            head += [("X-Linked-Etag", f'"{digest}"'), ("X-Linked-Size", str(len(repo.files[path]))),
                     ("Location", f"{self.hub.cdn}/large/{digest}?signature=secret")]
            return self.answer(302, b"Found. Redirecting", head)
        return self.send_content(repo.files[path], fault, [*head, ("ETag", f'"{repo.digest(path)}"')])

    def send_content(self, content, fault, headers=()):
        """fault: truncate=N bytes after the range's begin, flip (wrong content of right length), more (too long),
        no_ranges, hold (an Event to wait for after the first bytes)."""
        fault = fault or {}
        if fault.get("flip"):
            content = bytes(byte ^ 1 for byte in content)
        content += fault.get("more", b"")
        status, start = 200, 0
        wanted = self.headers.get("Range")
        headers = list(headers)
        if wanted and not fault.get("no_ranges"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.answer(416, b"", [("Content-Range", f"bytes */{len(content)}")])
            status = 206
            headers.append(("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"))
        body = content[start:]
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if "truncate" in fault:
            self.wfile.write(body[:fault["truncate"]])
            self.close_connection = True
            return
        if "hold" in fault:
            self.wfile.write(body[:fault.get("first", 1)])
            self.wfile.flush()
            fault["hold"].wait(60)
            body = body[fault.get("first", 1):]
        self.wfile.write(body)


class FakeHub:
    """Runs while it is open. `requests` is what was asked; `faults` {part of a path: [what the next answers do]}."""

    def __init__(self, folder):
        make_certificates(folder)
        self.ca_file = pathlib.Path(folder) / "ca.pem"
        self.token = "hf_test"
        self.accepted = True  # the token's account has accepted the terms of gated models
        self.repos = {}
        self.contents = {}
        self.requests = []
        self.faults = {}
        self.page_size = 1000
        self.lie_commit = self.lie_listing = self.next_base = None
        self.lock = threading.Lock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pathlib.Path(folder) / "hub.pem", pathlib.Path(folder) / "hub.key")
        self._servers = []
        for is_cdn in (False, True):
            handler = type("Handler", (_Handler,), {"hub": self, "is_cdn": is_cdn})
            server = _Server(("127.0.0.1", 0), handler)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            self._servers.append(server)
        self.port, cdn_port = (server.server_address[1] for server in self._servers)
        self.endpoint = f"https://127.0.0.1:{self.port}"
        self.cdn = f"https://127.0.0.1:{cdn_port}"

    def close(self):
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def asked(self, part, cdn=None):
        with self.lock:
            return [request for request in self.requests
                    if part in request["path"] and (cdn is None or request["cdn"] == cdn)]


class Proxy:
    """Joins whoever says CONNECT to 127.0.0.1, whatever the host is called. `asked` is what it was asked for."""

    def __init__(self):
        self.asked = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        target = head.split()[1].decode()
        self.asked.append((target, b"authorization" in head.lower()))
        server = socket.create_connection(("127.0.0.1", int(target.rsplit(":", 1)[1])))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
        self._pump(client, server)

    @staticmethod
    def _pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self._listener.close()
