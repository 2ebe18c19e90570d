"""Where the daemon is and who calls: arguments, else the variables that the command line reads too."""

import os
import pathlib
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple, Union

import grpc

DEFAULT_SERVER = "127.0.0.1:50051"

PathLike = Union[str, "os.PathLike[str]"]


def _variable(name: str) -> Optional[str]:
    return os.environ.get(name) or None


def _first_line(path: PathLike) -> str:
    """The first line of a key file that is neither empty nor a comment."""
    for line in pathlib.Path(path).read_text().splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            return line
    raise ValueError(f"{path} holds no key; put the key on a line of its own")


def _is_on_this_machine(server: str) -> bool:
    """Whether no proxy can reach it for us."""
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        if server.startswith(scheme):
            server = server[len(scheme):]
            break
    return server.startswith(("unix:", "unix-abstract:", "127.", "[::1]", "localhost:")) or server == "localhost"


@dataclass(frozen=True)
class Connection:
    """All that a channel needs."""

    server: str
    api_key: Optional[str]
    ca_certificates: Optional[bytes]
    certificate: Optional[bytes]
    private_key: Optional[bytes]

    @staticmethod
    def resolve(server: Optional[str] = None, api_key: Optional[str] = None, api_key_file: Optional[PathLike] = None,
                tls_ca: Optional[PathLike] = None, tls_certificate: Optional[PathLike] = None,
                tls_private_key: Optional[PathLike] = None) -> "Connection":
        """ValueError when the arguments do not fit together, OSError when a file cannot be read."""
        if (tls_certificate is None) != (tls_private_key is None):
            raise ValueError("tls_certificate and tls_private_key come together")
        tls_ca = tls_ca or _variable("KVASIR_TLS_CA")
        if tls_certificate is not None and tls_ca is None:
            raise ValueError("tls_certificate needs tls_ca, the authority of the server's certificate")
        if api_key is None:
            key_file = api_key_file or _variable("KVASIR_API_KEY_FILE")
            api_key = _first_line(key_file) if key_file else None

        def read(path: Optional[PathLike]) -> Optional[bytes]:
            return pathlib.Path(path).read_bytes() if path else None

        return Connection(server or _variable("KVASIR_SERVER") or DEFAULT_SERVER, api_key, read(tls_ca),
                          read(tls_certificate), read(tls_private_key))

    def credentials(self) -> Optional[grpc.ChannelCredentials]:
        """None: plain text."""
        if self.ca_certificates is None:
            return None
        return grpc.ssl_channel_credentials(self.ca_certificates, self.private_key, self.certificate)

    def channel_options(self) -> List[Tuple[str, Any]]:
        options: List[Tuple[str, Any]] = [
            # Idle connections survive middle boxes; the daemon accepts a ping every 10 s.
            ("grpc.keepalive_time_ms", 30000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", 16 << 20),
        ]
        if _is_on_this_machine(self.server):
            options.append(("grpc.enable_http_proxy", 0))
        return options

    def metadata(self, request_id: str = "", session_id: str = "") -> List[Tuple[str, str]]:
        pairs: List[Tuple[str, str]] = []
        if self.api_key:
            pairs.append(("authorization", f"Bearer {self.api_key}"))
        if request_id:
            pairs.append(("x-request-id", request_id))
        # For load balancers, which see headers only: all calls of a session go to the replica that holds it.
        if session_id and session_id.isascii() and session_id.isprintable():
            pairs.append(("x-session-id", session_id))
        return pairs
