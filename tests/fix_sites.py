"""Where the package makes messages that tell a user what to type, read from its source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import hydratune

SOURCE = Path(hydratune.__file__).parent
_ERRORS = {"InputError", "DataError", "RunError", "SweepError", "HydratuneError"}
_ADVICE = re.compile(
    r"(?<![\w.])\+?[a-z_]{2,}(\.[a-z_]+)*=(?!=)|\bhydratune (?!with\b|an?\b)[a-z]+\b"
)


def functions() -> Iterator[tuple[str, ast.AST, ast.Module]]:
    """Yield (module:function, its node, the module) of every function; of a method, with its class.

    What is outside functions has the name of the module or class.
    """

    def visit(node: ast.AST, names: list[str]) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = [*names, child.name]
                if isinstance(child, ast.FunctionDef):
                    yield ".".join(inner), child
            yield from visit(child, inner)

    for file in sorted(SOURCE.rglob("*.py")):
        module = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
        tree = ast.parse(file.read_text())
        for name, node in visit(tree, []):
            yield f"{module}:{name}", node, tree


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls in a function, without those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from _calls(child)


def makers_of_problems() -> set[str]:
    """Return the functions that make a ``Problem``."""
    return {
        name
        for name, node, _ in functions()
        if any(getattr(call.func, "id", "") == "Problem" for call in _calls(node))
    }


def makers_of_advice() -> dict[str, str]:
    """Return the functions that make an error whose text has a setting or a command in it, and the
    text. A text may come from names and functions of the same module.
    """
    found: dict[str, str] = {}
    for name, node, tree in functions():
        for call in _calls(node):
            if getattr(call.func, "id", "") in _ERRORS:
                text = " ".join(_texts(call, node, tree))
                if _ADVICE.search(text):
                    found[name] = f"{found.get(name, '')} {text}"
    return found


def _texts(call: ast.AST, function: ast.AST, module: ast.Module) -> Iterator[str]:
    """Yield the texts in a call, and those that are given to the names in it."""
    used = {child.id for child in ast.walk(call) if isinstance(child, ast.Name)}
    places = [call, *_given_to(used, function), *_given_to(used, module.body)]
    for place in places:
        for child in ast.walk(place):
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.value


def _given_to(names: set[str], place: ast.AST | list[ast.stmt]) -> Iterator[ast.AST]:
    """Yield the values that are assigned to ``names``, and functions of these names."""
    statements = place if isinstance(place, list) else list(ast.walk(place))
    for child in statements:
        if isinstance(child, ast.FunctionDef) and child.name in names:
            yield from child.body[1:]
        if isinstance(child, ast.Assign | ast.AugAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            given = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            if given & names:
                yield child.value
