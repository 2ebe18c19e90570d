"""Client of kvasird over gRPC.

    from kvasir_client import Client

    with Client("127.0.0.1:50051") as client:
        for delta in (stream := client.stream("Once upon a time", max_tokens=40)):
            print(delta.text, end="", flush=True)
        print(stream.result.usage.kv_bytes_peak)

AsyncClient is the same for asyncio. The messages of the API are in kvasir_client.v1; docs/api.md explains them.
"""

from kvasir_client.aio import AsyncClient, AsyncStream
from kvasir_client.client import Client, Stream
from kvasir_client.errors import FieldViolation, KvasirError
from kvasir_client.requests import Completion, Result, ToolCall

__all__ = ["AsyncClient", "AsyncStream", "Client", "Completion", "FieldViolation", "KvasirError", "Result", "Stream", "ToolCall"]
