"""Which names of NVIDIA's bindings a module of ours uses, read from its syntax."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MODULE = ""
"""The class of the bindings themselves, in `Use` and in tables of receivers."""


@dataclass(frozen=True)
class Use:
    """A name taken on something of the bindings: `IBuilderConfig.set_flag` is ("IBuilderConfig", "set_flag").

    asked: in a `hasattr` or `getattr`.
    """

    kind: str
    name: str
    asked: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.name


class Names:
    """Reads one module. receivers: an expression as it is written -> the class of the bindings that it is of."""

    def __init__(self, source: str, receivers: Mapping[str, str]) -> None:
        self._tree, self._receivers = ast.parse(source), receivers

    def used(self) -> Iterator[Use]:
        """Attributes that are taken or set, names that are asked for in words, methods that are overridden."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Attribute) and (kind := self.kind_of(node.value)) is not None:
                yield Use(kind, node.attr)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr"):
                of, name = node.args[:2]
                if (kind := self.kind_of(of)) is not None and isinstance(name, ast.Constant):
                    yield Use(kind, str(name.value), asked=True)
            elif isinstance(node, ast.ClassDef):
                for base in node.bases:
                    if isinstance(base, ast.Attribute) and self.kind_of(base.value) == MODULE:
                        methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
                        yield from (Use(base.attr, name) for name in methods if name != "__init__")

    def kind_of(self, node: ast.expr) -> str | None:
        """The class of an expression, None where it is not of the bindings.

        A class of the module, and what calling it gives, are of that class.
        """
        found = self._receivers.get(ast.unparse(node))
        if found is not None:
            return found
        inner = node.func if isinstance(node, ast.Call) else node
        return inner.attr if isinstance(inner, ast.Attribute) and self.kind_of(inner.value) == MODULE else None

    def unknown(self, names: set[str]) -> list[str]:
        """Attributes that are called like something of the bindings, on receivers that the table does not have."""
        nodes = [node for node in ast.walk(self._tree) if isinstance(node, ast.Attribute) and node.attr in names]
        return [ast.unparse(node) for node in nodes if self.kind_of(node.value) is None]
