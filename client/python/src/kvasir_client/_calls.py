"""The methods of the services on a channel, sync or asyncio: what protoc's grpc plugin would write, from descriptors."""

from typing import Any

from kvasir_client._descriptors import message_class, pool

GENERATION = "kvasir.v1.GenerationService"
SESSIONS = "kvasir.v1.SessionService"
ADMIN = "kvasir.v1.AdminService"
HEALTH = "grpc.health.v1.Health"

HealthRequest = message_class("grpc.health.v1.HealthCheckRequest")
SERVING = 1  # of HealthCheckResponse.ServingStatus


def method(channel: Any, service: str, name: str) -> Any:
    """A callable of the channel's kind. channel: grpc.Channel or grpc.aio.Channel."""
    descriptor = pool.FindServiceByName(service).FindMethodByName(name)
    request = message_class(descriptor.input_type.full_name)
    reply = message_class(descriptor.output_type.full_name)
    # Descriptors tell of streams only in newer versions of protobuf; the API has one.
    streams = service == GENERATION and name == "Generate"
    make = channel.unary_stream if streams else channel.unary_unary
    return make(f"/{service}/{name}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString)
