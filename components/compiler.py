"""torch.compile's own needs: a C++ compiler, Triton for a GPU, a folder for what it builds, no processes of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def found() -> bool:
    """Whether torch.compile finds the C++ compiler that it would call."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second or two to import
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return False
    return True


def writes_kernels() -> bool:
    """Whether Triton is there, by which torch.compile writes kernels for a GPU."""
    return find_spec("triton") is not None


def settle(folder: Path) -> None:
    """Keep what this process compiles for generating in `folder`; one that the environment names goes before."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def settled(call: Callable[P, R], native: bool = True) -> Callable[P, R]:
    """`call`, which `torch.compile` has returned, as it is to be built: in this process, for these weights alone.

    What is `native`, for the CPU, has its weights as constants, which lie as the products want them, and kernels that
    call each other without Python; for a GPU that would need CUDA's headers. torch keeps these settings by thread, so
    they are made in the one that calls; tracing looks for them there and not at the options of `torch.compile`.
    """
    import torch._inductor.config as inductor

    @wraps(call)
    def under(*args: P.args, **named: P.kwargs) -> R:
        if inductor.freezing != native or inductor.compile_threads != 1:
            inductor.compile_threads = 1
            inductor.freezing = inductor.cpp_wrapper = native
        return call(*args, **named)

    return under
