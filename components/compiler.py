"""torch.compile's own needs: a C++ compiler, a folder for what it has built, and no processes of its own."""

from __future__ import annotations

import os
from pathlib import Path


def found() -> bool:
    """Whether torch.compile finds the C++ compiler that it would call."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second or two to import
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return False
    return True


def settle(folder: Path) -> None:
    """Have what this process compiles built in this process, and kept in `folder` unless the environment names one."""
    import torch._inductor.config as inductor

    inductor.compile_threads = 1
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
