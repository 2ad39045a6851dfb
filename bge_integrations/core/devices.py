"""Resolve the arguments `device` and `dtype` to names. The rest of the core does not query torch for devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    import torch


def resolve_devices(device: str | list[str] | None) -> list[str]:
    """Return the devices to use, such as ["cpu"] or ["cuda:0", "cuda:1"]; None uses CUDA if it is available.

    Raises:
        InvalidInputError: A device does not exist here, or several devices are not distinct CUDA devices.
    """
    devices = [_resolve_device(each) for each in device] if isinstance(device, list) else [_resolve_device(device)]
    if not devices:
        raise InvalidInputError(
            "device=[] is empty", argument="device", advice="pass one or more devices, or leave it out"
        )
    if len(devices) > 1 and (len(set(devices)) < len(devices) or "cpu" in devices):
        raise InvalidInputError(
            f"device={device!r}: several devices must be CUDA devices, each named once",
            argument="device",
            advice="use 'cpu' alone for all cores",
        )
    return devices


def _resolve_device(device: str | None) -> str:
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"device={device!r} is not a device",
            argument="device",
            advice="use 'cpu', 'cuda', 'cuda:0' or a list of these",
        ) from error
    if resolved.type == "mps":
        raise InvalidInputError(
            f"device={device!r}: Apple's GPUs are not supported",
            argument="device",
            advice="leave it out, or use 'cpu': models run on CPUs (Linux, macOS, Windows) and on NVIDIA's GPUs",
        )
    if resolved.type not in ("cpu", "cuda"):
        raise InvalidInputError(f"device={device!r} is not supported", argument="device", advice="use 'cpu' or 'cuda'")
    if resolved.type == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise InvalidInputError(
            f"device={device!r} was requested, but torch finds no CUDA device", argument="device", advice="use 'cpu'"
        )
    return f"cuda:{torch.cuda.current_device() if resolved.index is None else resolved.index}"


def resolve_dtype(dtype: str | torch.dtype | None, device: str) -> str:
    """Return the dtype's name; None means bfloat16 on CUDA and float32 on the CPU.

    Raises:
        InvalidInputError: The device does not support it.
    """
    on_cuda = device.startswith("cuda")
    if dtype is None:
        return "bfloat16" if on_cuda else "float32"
    supported = ("float32", "bfloat16", "float16" if on_cuda else "int8")
    name = str(dtype).removeprefix("torch.")
    if name not in supported:
        choices = ", ".join(map(repr, supported))
        raise InvalidInputError(
            f"dtype={dtype!r} is not supported on {device.partition(':')[0]}",
            argument="dtype",
            advice=f"use one of {choices}",
        )
    return name
