"""Versions and devices of a run."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp

from metastep_lab.errors import RefusedError

PACKAGES = ("metastep", "jax", "jaxlib", "optax", "equinox", "lineax", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on, by name."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def check_devices() -> None:
    """Refuse a run if JAX has no device, such as for an unknown `JAX_PLATFORMS`.

    Raises:
        RefusedError: if JAX finds no device.
    """
    try:
        jax.devices()
    except RuntimeError as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        cause = f"JAX_PLATFORMS is {platforms!r}" if platforms else "JAX finds no device"
        raise RefusedError(f"{cause}: {error}") from error


def devices() -> list[str]:
    """Return the devices that JAX computes on, such as `["cpu"]` or `["gpu: NVIDIA H100"]`."""
    names = []
    for device in jax.devices():
        kind = device.device_kind
        names.append(device.platform if kind == device.platform else f"{device.platform}: {kind}")
    return names


def default_precision() -> str:
    """Return JAX's current default float type, `"float32"` or `"float64"`."""
    # Of Python's float, whose type in JAX follows `jax_enable_x64`.
    return str(jnp.result_type(float))


def environment(precision: str) -> dict[str, Any]:
    """Return the entry of `result.json` about the machine, with the float types of the run."""
    found = devices()
    return {
        "versions": versions(),
        "device": found[0],
        "devices": len(found),
        "cores": os.cpu_count(),
        "precision": precision,
        "system": f"{platform.system()} {platform.machine()}",
    }
