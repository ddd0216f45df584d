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
    """Have what this process compiles for generating built in this process, and kept in `folder`.

    Weights become constants, which lie as the products want them, and kernels call each other without Python. These
    are settings of the process, as tracing looks for them there and not at the options of `torch.compile`. A folder
    that the environment names goes before.
    """
    import torch._inductor.config as inductor

    inductor.compile_threads = 1
    inductor.freezing = inductor.cpp_wrapper = True
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
