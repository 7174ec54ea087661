"""Controls: tests that no correct answer passes, made from the tests of a row.

An answer that passes these as well has forged its verdict. A control is the tests with one
assertion made false, chosen at random among those that surely run: the expected value is replaced
by another of its type, or the comparison is inverted. Nothing else distinguishes it from the tests,
so an answer would have to know what is right in order to recognise it. Where no assertion surely
runs, a false one is added at the end.
"""

import ast
import doctest
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

# controls for an answer that passes, beside the one for results that are equal to everything
COUNT = 2
_CHOICE = random.SystemRandom()
_INVERTED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_NOT_SURE = (ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.Break, ast.Continue)


def controls(tests: str) -> tuple[list[str], str]:
    """Return (the controls, the message of the last one where a result is equal to everything).

    The message is empty if there is no such control.
    """
    try:
        if ">>>" in tests:
            return [_doctests(tests) for _ in range(COUNT)], ""
        tree = ast.parse(tests)
        # at least one control replaces a value where it can: an answer that reads what is expected
        # fails those with an inverted comparison, as an honest one does
        inverted_shares = [0.0, *[0.4] * (COUNT - 1)]
        _CHOICE.shuffle(inverted_shares)
        mutated = [_mutated(deepcopy(tree), share) for share in inverted_shares]
        said = str(_CHOICE.randrange(10**9, 10**10))
        unequal = _unequal(tree, said)
    except (SyntaxError, ValueError):
        return [], ""  # nothing passes these
    except (RecursionError, MemoryError):
        return [f"{tests}\n{_false_statement()}\n"], ""
    return ([*mutated, unequal], said) if unequal else (mutated, "")


def other(value: Any) -> Any:
    """Return another value of the same type, which looks as likely."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float | complex):
        return value + _CHOICE.choice([-1, 1]) * _CHOICE.randint(1, 9) * (
            1 if abs(value) < 1e12 else max(1, int(abs(value) // 1000))
        )
    if isinstance(value, str):
        return (
            value + _CHOICE.choice("abcdefgh")
            if not value or _CHOICE.random() < 0.5
            else value + value[-1]
        )
    if isinstance(value, bytes):
        return value + bytes([_CHOICE.randrange(97, 105)])
    if isinstance(value, list | tuple) and value and _CHOICE.random() < 0.7:
        place = _CHOICE.randrange(len(value))
        return type(value)(
            other(one) if number == place else one for number, one in enumerate(value)
        )
    if isinstance(value, list | tuple):
        return type(value)([*value, _CHOICE.randint(1, 9)])
    if isinstance(value, set):
        return value | {_CHOICE.randint(10**6, 10**7)}
    if isinstance(value, dict) and value:
        key = _CHOICE.choice(list(value))
        return {**value, key: other(value[key])}
    return {"a": 1} if isinstance(value, dict) else _CHOICE.choice([1, "a", [1]])


def _other_literal(node: ast.expr) -> ast.expr | None:
    try:
        value = ast.literal_eval(node)
        changed = other(value)
        return ast.parse(repr(changed), mode="eval").body if changed != value else None
    except (ValueError, TypeError, SyntaxError, OverflowError, RecursionError):
        return None


def _false_statement() -> str:
    one, two = _CHOICE.randint(2, 50), _CHOICE.randint(2, 50)
    return _CHOICE.choice(
        [
            f"assert {one} + {two} == {other(one + two)}",
            f"assert [{one}, {two}] + [] == {other([one, two])}",
        ]
    )


# --------------------------------------------------------------------------- one assertion is false
def _mutated(tree: ast.Module, inverted_share: float) -> str:
    """Return the tests with one assertion made false.

    ``inverted_share``: how often a comparison is inverted, although its value could be replaced.
    """
    sure = list(_sure(tree))
    while sure:
        if _falsify(sure.pop(_CHOICE.randrange(len(sure))), inverted_share):
            return ast.unparse(ast.fix_missing_locations(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) or _unittest_assertion(node):
            _falsify(node, inverted_share)
    return f"{ast.unparse(ast.fix_missing_locations(tree))}\n{_false_statement()}\n"


def _sure(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the assertions that run whenever the tests pass.

    They are those of the module, of functions it calls, and of test cases it runs.
    """
    body = [
        inner
        for node in tree.body
        for inner in (node.body if isinstance(node, ast.If) and _is_main(node) else [node])
    ]
    defined = [node for node in body if isinstance(node, ast.FunctionDef)]
    calls = [
        node.value
        for node in body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    called = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    yield from _statements(body)
    for function in defined:
        once = sum(one.name == function.name for one in defined) == 1
        if (
            once
            and function.name in called
            and not function.decorator_list
            and not _leaves(function)
        ):
            yield from _statements(function.body)
    runs_cases = any(ast.unparse(call.func) == "unittest.main" for call in calls)
    if runs_cases and "skip" not in ast.unparse(tree).lower():
        for method in _test_methods(body):
            if not method.decorator_list and not _leaves(method):
                yield from _statements(method.body)


def _test_methods(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Yield the test methods of the test cases in ``body``."""
    for node in body:
        if isinstance(node, ast.ClassDef) and any(
            "TestCase" in ast.unparse(base) for base in node.bases
        ):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name.startswith("test"):
                    yield member


def _is_main(node: ast.If) -> bool:
    return ast.unparse(node.test).replace('"', "'") == "__name__ == '__main__'"


def _leaves(node: ast.AST) -> bool:
    return any(isinstance(inner, _NOT_SURE) for inner in ast.walk(node))


def _statements(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.Assert) or _unittest_assertion(node):
            yield node
        elif isinstance(node, ast.For) and _has_elements(node.iter) and not _leaves(node):
            yield from _statements(node.body)


def _has_elements(node: ast.expr) -> bool:
    return isinstance(node, ast.List | ast.Tuple) and any(
        not isinstance(one, ast.Starred) for one in node.elts
    )


def _unittest_assertion(node: ast.AST) -> bool:
    if not (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
    ):
        return False
    least = {"assertEqual": 2, "assertTrue": 1, "assertFalse": 1}.get(node.value.func.attr, 99)
    return len(node.value.args) >= least


def _falsify(node: ast.AST, inverted_share: float) -> bool:
    """Make this assertion false, and return whether that was possible."""
    if isinstance(node, ast.Assert):
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            if (
                isinstance(test.ops[0], ast.Eq)
                and _CHOICE.random() >= inverted_share
                and _replace_literal([test.comparators, [test.left]], node)
            ):
                return True
            test.ops = [_INVERTED[type(test.ops[0])]()]
        else:
            if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
                node.test = test.operand
            else:
                node.test = ast.UnaryOp(ast.Not(), test)
        return True
    call = node.value  # type: ignore[attr-defined]
    if call.func.attr == "assertEqual":
        return _replace_literal([call.args[1:2], call.args[:1]], node)
    call.func.attr = {"assertTrue": "assertFalse", "assertFalse": "assertTrue"}[call.func.attr]
    return True


def _replace_literal(sides: list[list[ast.expr]], node: ast.AST) -> bool:
    for side in sides:
        if (changed := _other_literal(side[0])) is not None:
            for parent in ast.walk(node):
                for name, value in ast.iter_fields(parent):
                    if value is side[0]:
                        setattr(parent, name, changed)
                    elif isinstance(value, list):
                        value[:] = [changed if one is side[0] else one for one in value]
            return True
    return False


def _doctests(tests: str) -> str:
    """Replace one expected output; where none can be replaced, add a false example."""
    lines = tests.splitlines()
    examples = [
        one
        for one in doctest.DocTestParser().get_examples(tests)
        if one.want.strip() and not one.options and not one.exc_msg
    ]
    examples = [
        one
        for one in examples
        if "..." not in one.want and "SKIP" not in tests and one.want.count("\n") == 1
    ]
    if not examples:
        one, two = _CHOICE.randint(2, 50), _CHOICE.randint(2, 50)
        return f"{tests.rstrip()}\n\n>>> {one} + {two}\n{other(one + two)}\n"
    example = _CHOICE.choice(examples)
    place = example.lineno + example.source.count("\n")
    text = example.want.strip()
    lines[place] = " " * example.indent + (_value_of(text) or other(text))
    return "\n".join(lines) + "\n"


def _value_of(text: str) -> str | None:
    try:
        value = ast.literal_eval(text)
        changed = other(value)
        return repr(changed) if changed != value else None
    except (ValueError, TypeError, SyntaxError, OverflowError, RecursionError, MemoryError):
        return None


# ------------------------------------------------------------------- nothing is equal to everything
def _unequal(tree: ast.Module, said: str) -> str:
    """Return tests in which every equality is with a random value, and must not hold.

    A failing assertion has the message ``said``.
    """
    own, is_changed = _own_names(tree), False
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assert)
            and isinstance(node.test, ast.Compare)
            and [type(one) for one in node.test.ops] == [ast.Eq]
        ):
            left, right = node.test.left, node.test.comparators[0]
            wrong = _random_value()
            if _is_own(right, own) or not (
                _is_own(left, own) or (_calls(right) and not _calls(left))
            ):
                pair = (left, _other_literal(right) or wrong)
            else:
                pair = (_other_literal(left) or wrong, right)
            node.test = ast.UnaryOp(ast.Not(), ast.Compare(pair[0], [ast.Eq()], [pair[1]]))
            node.msg, is_changed = ast.Constant(said), True
    if not is_changed:
        return ""
    return f"{ast.unparse(ast.fix_missing_locations(tree))}\n{_false_statement()}\n"


def _random_value() -> ast.expr:
    number = _CHOICE.randint(10**6, 10**8)
    return ast.parse(
        _CHOICE.choice(
            [repr(number), repr(str(number)), repr([number]), repr((number,)), repr(number / 7)]
        ),
        mode="eval",
    ).body


def _calls(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Call) for inner in ast.walk(node))


def _is_own(node: ast.AST, own: set[str]) -> bool:
    return all(
        inner.id in own
        for inner in ast.walk(node)
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load)
    )


def _own_names(tree: ast.Module) -> set[str]:
    """Return the names that the tests bind without the answer.

    They are what the tests import, their classes, and values made only from these.
    """
    import builtins

    bound: list[tuple[str, ast.AST | None]] = [(name, None) for name in dir(builtins)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound += [
                ((alias.asname or alias.name).partition(".")[0], None) for alias in node.names
            ]
        elif isinstance(node, ast.ClassDef):
            bound.append((node.name, node))
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound += [(name, node.value) for target in targets for name in _stored(target)]
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            bound += [(name, node.iter) for name in _stored(node.target)]
    own = {name for name, _ in bound}
    own -= {inner.arg for inner in ast.walk(tree) if isinstance(inner, ast.arg)}
    while True:
        others = {
            name
            for name, value in bound
            if name in own and value is not None and not _is_own(value, own)
        }
        if not others:
            return own
        own -= others


def _stored(target: ast.AST) -> list[str]:
    return [
        node.id
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
