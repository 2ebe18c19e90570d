"""Message classes from descriptors.bin, in a pool of their own, so that they meet no other package's in the process.

Only what protobuf's Python library has documented for years is used: any recent version serves."""

import pathlib
from typing import Any, Dict

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

pool = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(
        (pathlib.Path(__file__).parent / "v1" / "descriptors.bin").read_bytes()).file:
    pool.Add(_file)

if hasattr(message_factory, "GetMessageClass"):
    _class_of = message_factory.GetMessageClass
else:  # before protobuf 4.22
    _class_of = getattr(message_factory.MessageFactory(pool), "GetPrototype")  # newer types do not know it


def message_class(full_name: str) -> Any:
    return _class_of(pool.FindMessageTypeByName(full_name))


def publish(file_name: str, module: Dict[str, Any]) -> None:
    """Puts a file's messages and enum values into a module, as protoc's own modules have them."""
    descriptor = pool.FindFileByName(file_name)
    module["DESCRIPTOR"] = descriptor
    for name in descriptor.message_types_by_name:
        module[name] = _class_of(descriptor.message_types_by_name[name])
    for name, enum in descriptor.enum_types_by_name.items():
        from google.protobuf.internal import enum_type_wrapper
        module[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        for value in enum.values:
            module[value.name] = value.number
