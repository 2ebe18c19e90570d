"""HTTP/2 by hand (RFC 9113): what no well-behaved gRPC client would send. Plain text, blocking, one connection."""

import socket
import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
ENHANCE_YOUR_CALM = 11
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value, index=0):
    """A header field without indexing; the name by its place in HPACK's static table or spelled out. Each shorter than
    127 bytes."""
    if index >= 15:
        head = bytes([0x0F, index - 15])
    else:
        head = bytes([index]) if index else bytes([0, len(name)]) + name
    return head + bytes([len(value)]) + value


def grpc_headers(path, *metadata):
    """The header block of a gRPC call. metadata: pairs of bytes."""
    return (b"\x83\x86" + literal(b":path", path, 4) + literal(b":authority", b"localhost", 1) +
            literal(b"content-type", b"application/grpc", 31) + literal(b"te", b"trailers") +
            b"".join(literal(*pair) for pair in metadata))


class Connection:
    """A context manager. Reads return None once the daemon has closed the connection."""

    def __init__(self, address, timeout_seconds, greet=True):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout_seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        if greet:
            self.send(PREFACE + frame(SETTINGS))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """False when the daemon has closed the connection."""
        try:
            self.socket.sendall(data)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def _read(self, size):
        while len(self._received) < size:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._received += data
        result, self._received = self._received[:size], self._received[size:]
        return result

    def next_frame(self):
        """(kind, flags, stream, payload)"""
        head = self._read(9)
        if head is None:
            return None
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        payload = self._read(int.from_bytes(head[:3], "big"))
        return None if payload is None else (kind, flags, stream, payload)

    def goaway_error(self):
        """The error code of the GOAWAY to come, of the last one if there are more; None when none comes before the
        end."""
        error = None
        while (received := self.next_frame()) is not None:
            if received[0] == GOAWAY:
                error = int.from_bytes(received[3][4:8], "big")
                if error:
                    return error
        return error

    def wait_for_ends(self, count):
        """Until so many more streams have ended."""
        while count > 0:
            received = self.next_frame()
            assert received is not None, "the daemon closed the connection"
            kind, flags, _, payload = received
            assert kind != GOAWAY, payload
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK))
            elif kind == PING and not flags & ACK:
                self.send(frame(PING, ACK, payload=payload))
            count -= kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & END_STREAM)
