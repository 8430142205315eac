"""Public docstrings say what goes in, what comes out and what is raised."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SIDE = r"(?:ceil\([^()]+\)|\.\.\.|[\w*]+'?)"
SIDES = rf"{SIDE}(?:(?: ?[-+*/|] ?| or ){SIDE})*"
SHAPE = re.compile(
    rf"\((?=[^)]*(?:\b[A-Z]\b|\b\d|\.\.\.)){SIDES}(?:, {SIDES})+\)|\({SIDES},\)|\bscalars?\b|\bshapes?\b"
)
"""`(B, 4)`, `(N,)`, `(..., 2)`, `(B, C, ceil(H / 2), W)`, or the words."""
ARRAY = re.compile(r"\b(?:Tensor|ndarray|NDArray)\b")


@dataclass(frozen=True)
class Public:
    """A public function with what its documentation says: its own or an inherited docstring, and its class's."""

    where: str
    node: ast.FunctionDef
    doc: str
    class_doc: str
    torch_tensors: bool

    @property
    def takes_or_makes_arrays(self) -> bool:
        arguments = self.node.args
        hints = [a.annotation for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        names = set(ARRAY.findall(" ".join(ast.unparse(hint) for hint in (*hints, self.node.returns) if hint)))
        return bool(names - (set() if self.torch_tensors else {"Tensor"}))

    @property
    def gives_shapes(self) -> bool:
        return bool(SHAPE.search(self.doc + (self.class_doc if self.node.name == "__call__" else "")))

    @property
    def raises(self) -> bool:
        return any(isinstance(node, ast.Raise) and node.exc for node in ast.walk(self.node))

    @property
    def says_so(self) -> bool:
        return "Raises:" in self.doc or "Raises:" in self.class_doc


def _methods(of: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in of.body if isinstance(node, ast.FunctionDef)}


def _doc(node: ast.FunctionDef, of: ast.ClassDef | None, classes: dict[str, ast.ClassDef]) -> str:
    """The function's docstring, or that of the nearest base class that has one, found by name."""
    if doc := ast.get_docstring(node):
        return doc
    for base in of.bases if of else ():
        parent = classes.get(ast.unparse(base).split("[")[0])
        if parent and (doc := _doc(_methods(parent).get(node.name, node), parent, classes)):
            return doc
    return ""


def _is_public(node: ast.FunctionDef) -> bool:
    """Called by others, documented here: no test of a contract, and no overload, whose docstring is the function's."""
    if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
        return False
    return node.name == "__call__" or not node.name.startswith(("_", "test_"))


def _public_functions() -> list[Public]:
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.glob("packages/*/src/**/*.py"))}
    classes = {n.name: n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}

    def visit(path: Path, body: list[ast.stmt], of: ast.ClassDef | None, torch_tensors: bool) -> Iterator[Public]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from visit(path, node.body, node, torch_tensors)
            elif isinstance(node, ast.FunctionDef) and _is_public(node):
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                class_doc = (of and ast.get_docstring(of)) or ""
                yield Public(where, node, _doc(node, of, classes), class_doc, torch_tensors)

    found = []
    for path, tree in trees.items():
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        imported = any(node.module != "torch" and alias.name == "Tensor" for node in froms for alias in node.names)
        found += visit(path, tree.body, None, torch_tensors=not imported and "class Tensor" not in ast.unparse(tree))
    return found


def _share(functions: list[Public], told: list[bool]) -> float:
    for function, fine in zip(functions, told, strict=True):
        if not fine:
            print(function.where)
    return sum(told) / len(told)


def test_public_functions_on_tensors_and_arrays_give_their_shapes() -> None:
    functions = [function for function in _public_functions() if function.takes_or_makes_arrays]
    assert len(functions) > 100
    assert _share(functions, [function.gives_shapes for function in functions]) >= 0.90


def test_public_functions_that_raise_say_so() -> None:
    functions = [function for function in _public_functions() if function.raises]
    assert len(functions) > 100
    assert _share(functions, [function.says_so for function in functions]) >= 0.95
