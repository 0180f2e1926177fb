"""What becomes of a cell's syntax tree: RestrictedPython's transformer, with the policy of a notebook.

Attributes are read and written through guards; names that the language gives a meaning are refused, but for those that
ordinary code defines. Items, iteration and calls are the language's own, as nothing that code can reach guards them.
"""

# ruff: noqa: N802, N815 - the methods are named as ast.NodeTransformer calls them

import ast
from typing import Any, NoReturn, TypeVar

from RestrictedPython.transformer import RestrictingNodeTransformer

from tools.python.policy.names import refused_attribute, refused_name

Node = TypeVar("Node", bound=ast.AST)

_INSTEAD = {
    ast.AsyncFunctionDef: "`async def` is not available: write an ordinary function, nothing here waits for events",
    ast.AsyncFor: "`async for` is not available: write an ordinary loop",
    ast.AsyncWith: "`async with` is not available: write an ordinary `with`",
    ast.Await: "`await` is not available: call an ordinary function",
    ast.TryStar: "`except*` is not available: write `except`",
}


class PolicyError(SyntaxError):
    """Code that may not run here. The text says why, and what to write instead."""

    __module__ = "builtins"  # as its name is to be shown


class Policy(RestrictingNodeTransformer):
    """Makes a tree restricted.

    Args:
        name: of the cell, for errors.
        lines: of its source.
    """

    def __init__(self, name: str, lines: list[str]) -> None:
        super().__init__()
        self._name = name
        self._lines = lines
        self._classes: list[str] = []
        self._lookups: list[tuple[str, list[ast.keyword]]] = []

    def error(self, node: ast.AST, info: str) -> NoReturn:
        """Ends it: the first thing that is refused is told."""
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        text = self._lines[line - 1] if line <= len(self._lines) else ""
        raise PolicyError(info, (self._name, line, column + 1, text))

    def not_allowed(self, node: ast.AST) -> NoReturn:
        """Refuses a kind of statement or expression."""
        self.error(node, _INSTEAD.get(type(node), f"`{type(node).__name__}` is not available"))

    def check_name(self, node: ast.AST, name: str | None, allow_magic_methods: bool = False) -> None:
        """Refuses a name that code may not give to anything. RestrictedPython asks for all but those of patterns."""
        if allow_magic_methods and name == "__getattr__":
            return
        if name is not None and (reason := refused_name(name)):
            self.error(node, reason)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if reason := refused_name(node.id, reads=isinstance(node.ctx, ast.Load)):
            self.error(node, reason)
        return node

    # What RestrictedPython guards and nothing here needs to.

    def _as_it_is(self, node: Node) -> Node:
        return self.node_contents_visit(node)

    visit_Assign = visit_With = visit_Call = visit_Subscript = visit_Module = guard_iter = _as_it_is

    # What it refuses, and what works with the names and attributes checked.

    visit_AnnAssign = visit_match_case = visit_MatchSingleton = visit_MatchSequence = visit_MatchOr = _as_it_is

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> ast.AST:
        for name in node.names:
            self.check_name(node, name)
        return node

    visit_Nonlocal = visit_Global

    # Attributes.

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if reason := refused_attribute(node.attr):
            self.error(node, reason)
        name = self._mangled(node.attr)
        value = self.visit(node.value)
        if isinstance(node.ctx, ast.Load):
            return ast.copy_location(_call("_getattr_", value, ast.Constant(name)), node)
        node.value = _call("_write_", value, ast.Constant(name))
        node.attr = name
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        node = self.node_contents_visit(node)
        match node.target:
            case ast.Attribute(value=ast.Call(func=ast.Name() as guard)):
                guard.id = "_update_"
        return node

    def _mangled(self, name: str) -> str:
        """A class's private name as the language spells it ("Private name mangling" in the language reference)."""
        if not self._classes or not name.startswith("__") or name.endswith("__"):
            return name
        owner = self._classes[-1].lstrip("_")
        return f"_{owner}{name}" if owner else name

    # Definitions.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        result = super().visit_FunctionDef(node)
        if node.name == "__getattr__":
            node.decorator_list.append(ast.Name("_plain_names_", ast.Load()))
        return result

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.check_name(node, node.name)
        for keyword in node.keywords:
            if keyword.arg is None:
                self.error(node, "`**` is not available in a class statement: write the arguments")
            keyword.value = self.visit(keyword.value)
            if keyword.arg == "metaclass":
                keyword.value = _call("_metaclass_", keyword.value)
        node.decorator_list = [self.visit(each) for each in node.decorator_list]
        node.bases = [self.visit(each) for each in node.bases]
        self._classes.append(node.name)
        node.body = self.node_contents_visit(ast.Module(node.body, [])).body
        self._classes.pop()
        return node

    # Imports.

    def visit_Import(self, node: ast.Import) -> Any:
        statements: list[ast.stmt] = []
        for alias in node.names:
            self.check_name(node, alias.asname or alias.name.partition(".")[0])
            package, _, module = alias.name.rpartition(".")
            if package and alias.asname:
                # `import a.b as c` reads `b` without any guard; `from a import b as c` gets it from the import guard.
                statement: ast.stmt = ast.ImportFrom(package, [ast.alias(module, alias.asname)], 0)
            else:
                statement = ast.Import([alias])
            statements.append(ast.copy_location(statement, node))
        return statements

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.level or not node.module:
            self.error(node, "relative imports are not available: there is no package around this code")
        for alias in node.names:
            if alias.name == "*":
                self.error(node, f"`from {node.module} import *` is not available: import the names that you need")
            self.check_name(node, alias.asname or alias.name)
        return node

    # match: see patterns.py.

    def visit_Match(self, node: ast.Match) -> Any:
        name = self.gen_tmp_name()
        self._lookups.append((name, []))
        node = self.node_contents_visit(node)
        _, finders = self._lookups.pop()
        if not finders:
            return node
        found = ast.Call(ast.Name("_lookups_", ast.Load()), [], finders)
        return [ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], found), node), node]

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.AST:
        node.value = self._looked_up(node.value)
        return node

    def visit_MatchMapping(self, node: ast.MatchMapping) -> ast.AST:
        self.check_name(node, node.rest)
        node.keys = [self._looked_up(key) for key in node.keys]
        node.patterns = [self.visit(pattern) for pattern in node.patterns]
        return node

    def visit_MatchClass(self, node: ast.MatchClass) -> ast.AST:
        for name in node.kwd_attrs:
            if reason := refused_attribute(name) or refused_name(name):
                self.error(node, reason)
        kind = self.visit(node.cls)
        if node.patterns or node.kwd_attrs:
            names = ast.Tuple([ast.Constant(name) for name in node.kwd_attrs], ast.Load())
            kind = _call("_class_pattern_", kind, ast.Constant(len(node.patterns)), names)
        node.cls = self._found_later(kind, node)
        node.patterns = [self.visit(pattern) for pattern in node.patterns]
        node.kwd_patterns = [self.visit(pattern) for pattern in node.kwd_patterns]
        return node

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> ast.AST:
        self.check_name(node, node.name)
        return self.node_contents_visit(node)

    visit_MatchStar = visit_MatchAs

    def _looked_up(self, value: ast.expr) -> ast.expr:
        return self._found_later(self.visit(value), value) if isinstance(value, ast.Attribute) else self.visit(value)

    def _found_later(self, value: ast.expr, place: ast.AST) -> ast.expr:
        """What stands in a pattern for an expression that patterns cannot have."""
        holder, finders = self._lookups[-1]
        name = f"p{len(finders)}"
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        finders.append(ast.keyword(name, ast.Lambda(nothing, value)))
        return ast.copy_location(ast.Attribute(ast.Name(holder, ast.Load()), name, ast.Load()), place)


def _call(guard: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(guard, ast.Load()), list(arguments), [])
