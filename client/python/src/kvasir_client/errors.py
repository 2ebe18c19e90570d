"""What a failed call says: code, message, which fields were wrong, when to try again."""

from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

import grpc

from kvasir_client._descriptors import message_class

_Status = message_class("google.rpc.Status")
_BadRequest = message_class("google.rpc.BadRequest")
_RetryInfo = message_class("google.rpc.RetryInfo")


@dataclass(frozen=True)
class FieldViolation:
    field: str
    """As in "sampling.temperature"."""
    description: str


class KvasirError(Exception):
    """A call that the daemon, or the way to it, refused. Nothing is retried by this package."""

    def __init__(self, code: grpc.StatusCode, message: str, violations: Tuple[FieldViolation, ...] = (),
                 retry_after_seconds: Optional[float] = None):
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.violations = violations
        self.retry_after_seconds = retry_after_seconds
        """When the daemon thinks that a retry makes sense; None: not said."""


def error_from_call(error: Any) -> KvasirError:
    """error: a grpc.RpcError of a call, or grpc.aio's."""
    violations: List[FieldViolation] = []
    retry_after: Optional[float] = None
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in _Status.FromString(value).details:
            name = detail.type_url.rpartition("/")[2]
            if name == "google.rpc.BadRequest":
                violations += [FieldViolation(each.field, each.description)
                               for each in _BadRequest.FromString(detail.value).field_violations]
            elif name == "google.rpc.RetryInfo":
                delay = _RetryInfo.FromString(detail.value).retry_delay
                retry_after = delay.seconds + delay.nanos / 1e9
    return KvasirError(error.code(), error.details() or "", tuple(violations), retry_after)
