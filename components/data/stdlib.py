"""The standard library of the Python that runs, as documents of code: bundled with every installation."""

from __future__ import annotations

import ast
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

from components.data.documents import Document
from components.data.example import Dropped, Progress
from components.data.records import lines
from components.data.texts import NOT_UTF8, text_files
from components.rows import StdlibRow

LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})
"""Folders that hold other people's code, or tests, some of which are no valid Python on purpose."""


def library_documents(name: str, row: StdlibRow, progress: Progress) -> Iterator[Document | Dropped]:
    """The functions and methods of the standard library, or its files, in the order of the files' names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        file for file in text_files(root) if file.endswith(".py") and not LEFT_OUT & set(file.split("/"))
    ]
    for place, file in enumerate(files, start=1):
        try:
            text = lines((root / file).read_bytes().decode("utf-8-sig"))
        except UnicodeDecodeError:
            yield Dropped(file, NOT_UTF8)
            continue
        if row.unit == "file":
            yield Document(file, text)
        else:
            yield from functions(file, text)
        progress(f"{name} (files)", place, len(files))


def functions(name: str, text: str) -> Iterator[Document | Dropped]:
    """The functions and methods in a module with their decorators, each as if it stood alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's code: escapes that will be errors one day
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        yield Dropped(name, "no Python that this version reads")
        return
    rows = text.split("\n")
    for node in _functions(tree):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        code = textwrap.dedent("\n".join(rows[first - 1 : node.end_lineno])) + "\n"
        place = f"{name}:{first}"
        if code[:1].isspace() or not code.startswith(("def ", "async def ", "@")):
            yield Dropped(place, "a function that does not stand alone")
        else:
            yield Document(place, code)


def _functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions at any depth of classes and conditions, but not those inside another function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif not isinstance(child, ast.expr):
            yield from _functions(child)
