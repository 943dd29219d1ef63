"""The child's side of the search for a GPU: the Vulkan devices that a loader and its drivers give. Pure Python.

The layouts are those of vulkan_core.h: VkPhysicalDeviceProperties2 with VkPhysicalDeviceDriverProperties behind it, and
VkPhysicalDeviceFeatures2 with VkPhysicalDeviceShaderFloat16Int8Features.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

from parity.core.errors import ParityError

_INSTANCE_INFO, _PROPERTIES_2, _FEATURES_2 = 1, 1000059001, 1000059000
_DRIVER_PROPERTIES, _FLOAT16_FEATURES = 1000196000, 1000082000
_APPLICATION_INFO, _VULKAN_1_1 = 0, 1 << 22 | 1 << 12
_HEAD = 16  # bytes of sType and pNext
_PROPERTIES, _FEATURES = 824, 220  # bytes of VkPhysicalDeviceProperties and VkPhysicalDeviceFeatures
_CPU = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU


@dataclass(frozen=True)
class VulkanRequest:
    """Which loader to open, and the environment variables that name its drivers."""

    loader: str
    environment: dict[str, str]


@dataclass(frozen=True)
class VulkanDevice:
    """A device: its name, its driver with the version, whether it is software, whether it claims arithmetic in fp16."""

    name: str
    driver: str
    is_software: bool
    claims_fp16: bool


def devices(request: VulkanRequest) -> list[VulkanDevice]:
    """Every device, in the loader's order. Raises ParityError where there is no Vulkan."""
    os.environ.update(request.environment)
    try:
        vulkan = ctypes.CDLL(request.loader)
    except OSError as error:
        raise ParityError(f"Vulkan's loader cannot be opened: {error}") from None
    application = struct.pack("=IxxxxQQIxxxxQII", _APPLICATION_INFO, 0, 0, 0, 0, 0, _VULKAN_1_1)
    held = ctypes.create_string_buffer(application, len(application))
    info = struct.pack("=IxxxxQIxxxxQIxxxxQIxxxxQ", _INSTANCE_INFO, 0, 0, ctypes.addressof(held), 0, 0, 0, 0)
    instance = ctypes.c_void_p()
    code = vulkan.vkCreateInstance(info, None, ctypes.byref(instance))
    if code != 0:
        raise ParityError(f"no Vulkan driver answers (vkCreateInstance gives {code})")
    try:
        return [_device(vulkan, handle) for handle in _handles(vulkan, instance)]
    finally:
        vulkan.vkDestroyInstance(instance, None)


def _handles(vulkan: ctypes.CDLL, instance: ctypes.c_void_p) -> list[ctypes.c_void_p]:
    count = ctypes.c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    handles = (ctypes.c_void_p * max(count.value, 1))()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    return [ctypes.c_void_p(handle) for handle in handles[: count.value]]


def _device(vulkan: ctypes.CDLL, handle: ctypes.c_void_p) -> VulkanDevice:
    driver = ctypes.create_string_buffer(struct.pack("=IxxxxQ", _DRIVER_PROPERTIES, 0), 1024)
    properties = _with_next(_PROPERTIES_2, driver, _HEAD + _PROPERTIES)
    vulkan.vkGetPhysicalDeviceProperties2(handle, properties)
    kind = struct.unpack_from("=I", properties, _HEAD + 16)[0]
    float16 = ctypes.create_string_buffer(struct.pack("=IxxxxQ", _FLOAT16_FEATURES, 0), 64)
    vulkan.vkGetPhysicalDeviceFeatures2(handle, _with_next(_FEATURES_2, float16, _HEAD + _FEATURES))
    number = struct.unpack_from("=I", properties, _HEAD + 4)[0]
    # driverInfo has the version in words; a driver that leaves it empty has its number alone.
    version = _text(driver, _HEAD + 4 + 256) or f"{number >> 22}.{number >> 12 & 0x3FF}.{number & 0xFFF}"
    said = (_text(driver, _HEAD + 4), version)
    return VulkanDevice(
        _text(properties, _HEAD + 20),
        " ".join(word for word in said if word),
        kind == _CPU,
        bool(struct.unpack_from("=I", float16, _HEAD)[0]),
    )


def _with_next(kind: int, following: ctypes.Array[ctypes.c_char], size: int) -> ctypes.Array[ctypes.c_char]:
    """A structure of that kind whose pNext is another one."""
    return ctypes.create_string_buffer(struct.pack("=IxxxxQ", kind, ctypes.addressof(following)), size + 64)


def _text(data: ctypes.Array[ctypes.c_char], offset: int) -> str:
    return data.raw[offset : offset + 256].partition(b"\0")[0].decode("utf-8", "replace")
