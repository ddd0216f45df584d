"""Whether oneDNN's own products, which torch has for its compiler, are there and faster than torch's usual ones."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

MACHINES = ("x86_64", "AMD64")
"""Where the products were measured."""


@cache
def there() -> bool:
    """Whether torch has them, on an x86 that has AVX2: on older ones they are slower than torch's usual ones."""
    return (
        platform.machine() in MACHINES
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def maker() -> str:
    """Who made the processor, as it says itself; empty where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
