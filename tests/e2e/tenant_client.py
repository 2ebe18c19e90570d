"""A client of a harness.Daemon that brings a credential, and configurations with tenants."""

import json

import harness
from harness import BUNDLED, BUNDLED_FOLDER

import grpc
from kvasir.v1 import admin_pb2, admin_pb2_grpc, generation_pb2_grpc, session_pb2, session_pb2_grpc

KEYS = {"team-a": "key-of-team-a-0123456789", "team-b": "key-of-team-b-0123456789",
        "operator": "key-of-the-operator-0123456789"}


class _AddMetadata(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, metadata):
        self._metadata = metadata

    def _call(self, continuation, details, request):
        details = details._replace(metadata=list(details.metadata or ()) + self._metadata)
        return continuation(details, request)

    intercept_unary_unary = intercept_unary_stream = _call


class TenantClient:
    """Stubs whose calls carry the key (none without one) and any more metadata."""

    def __init__(self, daemon, key=None, metadata=(), channel=None):
        self._daemon = daemon
        metadata = list(metadata)
        if key is not None:
            metadata.append(("authorization", f"Bearer {key}"))
        self.channel = channel or daemon.new_channel()
        intercepted = grpc.intercept_channel(self.channel, _AddMetadata(metadata)) if metadata else self.channel
        self.generation = generation_pb2_grpc.GenerationServiceStub(intercepted)
        self.sessions = session_pb2_grpc.SessionServiceStub(intercepted)
        self.admin = admin_pb2_grpc.AdminServiceStub(intercepted)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def generate(self, request, timeout=harness.PATIENCE_SECONDS):
        reply = harness.Reply()
        for response in self.generation.Generate(request, timeout=timeout):
            reply.take(response)
        return reply

    def get_session(self, session_id):
        return self.sessions.GetSession(session_pb2.GetSessionRequest(session_id=session_id),
                                        timeout=harness.PATIENCE_SECONDS)

    def list_sessions(self):
        return self.sessions.ListSessions(session_pb2.ListSessionsRequest(), timeout=harness.PATIENCE_SECONDS)

    def requests(self):
        return self.admin.ListRequests(admin_pb2.ListRequestsRequest(), timeout=harness.PATIENCE_SECONDS)

    def stats(self):
        return self.admin.GetStats(admin_pb2.GetStatsRequest(), timeout=harness.PATIENCE_SECONDS)


def refusal(call, *arguments, **options):
    """The RpcError of a call that must fail."""
    try:
        reply = call(*arguments, **options)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"the call succeeded: {reply!r}")


def config(tenants, models=None, server=None, kv_cache=None):
    """Text of a configuration file. tenants: {id: fields}; models: {name: folder}."""
    return json.dumps({
        "models": [{"name": name, "path": str(folder), "kv_cache": {"capacity_bytes": "64MiB", **(kv_cache or {})}}
                   for name, folder in (models or {BUNDLED: BUNDLED_FOLDER}).items()],
        "tenants": [{"id": name, **fields} for name, fields in tenants.items()],
        **({"server": server} if server else {})})
