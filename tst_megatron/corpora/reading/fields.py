"""The fields of a record by their paths, and a filter over them, ``score >= 3 and len(text) > 9``.

The one idea: the filter is Python's, parsed by Python and checked against a list of what is
allowed; then every field in it becomes a place in a tuple of values and Python compiles the rest.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NoReturn

from tst_megatron.corpora.reading.batches import UnusableError
from tst_megatron.corpora.reading.cells import Cell
from tst_megatron.errors import UserError

_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    """What a parsed value is, in JSON's words."""
    return _KINDS.get(type(value), type(value).__name__)


def field_reader(path: str) -> Callable[[Mapping[str, Any]], Any]:
    """A function from a record to what is at a path of it.

    The function raises `UnusableError` where the record has no such field. A field whose whole name
    is the path comes before one that is nested.
    """
    steps = path.split(".")

    def follow(record: Mapping[str, Any]) -> Any:
        if path in record:
            return record[path]
        value: Any = record
        for done, step in enumerate(steps):
            if not isinstance(value, dict):
                parent = ".".join(steps[:done])
                raise UnusableError(f'no field "{path}"', f'"{parent}" is {kind_of(value)}')
            if step not in value:
                parent = ".".join(steps[:done])
                raise UnusableError(
                    f'no field "{path}"',
                    f'"{parent}" has no "{step}"' if parent else "",
                    (".".join((*steps[:done], name)) for name in value),
                )
            value = value[step]
        return value

    if len(steps) > 1:
        return follow
    direct = itemgetter(path)

    def read(record: Mapping[str, Any]) -> Any:
        try:
            return direct(record)
        except KeyError:
            return follow(record)

    return read


_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Div)
_UNARY = (ast.Not, ast.USub, ast.UAdd)
_JSON_NAMES = {"true": "True", "false": "False", "null": "None"}
_MAX_LENGTH = 10_000


class Missing:
    """Stands for a field that a record does not have: whatever is asked of it, it says so.

    Args:
        error: what it raises.
    """

    def __init__(self, error: UnusableError) -> None:
        self._error = error

    def _raise(self, *_: Any) -> NoReturn:
        raise self._error

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _raise
    __bool__ = __len__ = __iter__ = __contains__ = _raise
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _raise
    __truediv__ = __rtruediv__ = __neg__ = __pos__ = _raise


class Where:
    """An expression over the fields of a record. Can be pickled, and is equal to its like.

    Args:
        expression: as `parse_where` takes it.

    Attributes:
        expression: as it was given.
        fields: paths of the fields in it, each once.

    Raises:
        UserError: the expression is not one.
    """

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._evaluate, self.fields = _compiled(expression)
        self._readers = [partial(_value_or_missing, field_reader(path)) for path in self.fields]

    def __reduce__(self) -> tuple[type["Where"], tuple[str]]:
        return Where, (self.expression,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Where) and other.expression == self.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def __repr__(self) -> str:
        return f"Where({self.expression!r})"

    def of_values(self, values: Sequence[Any]) -> bool:
        """Whether a record is wanted.

        Args:
            values: of `fields`, in their order; `Missing` for one that is not there.

        Raises:
            UnusableError: the values do not compare, or one that is needed is missing.
        """
        try:
            return bool(self._evaluate(values))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UnusableError(f"--where {self.expression} cannot be said", str(error)) from None

    def of_record(self, record: Mapping[str, Any]) -> bool:
        """Whether a parsed record is wanted.

        Raises:
            UnusableError: as `of_values` does.
        """
        return self.of_values([read(record) for read in self._readers])


def parse_where(expression: str) -> Where:
    """A filter in the syntax of a Python expression.

    It may have comparisons (chained too), ``in``, ``not in`` and ``is None``; ``and``, ``or`` and
    ``not``; ``+ - * /``; numbers, strings, ``True``, ``False``, ``None`` and lists of these; fields
    by their names or dotted paths; and ``len(field)``. It means what it means in Python, but a
    field that is missing, or values that do not compare, make the record a bad one.

    Raises:
        UserError: it has anything else; the message names it.
    """
    return Where(expression)


def _value_or_missing(read: Callable[[Mapping[str, Any]], Any], record: Mapping[str, Any]) -> Any:
    try:
        return read(record)
    except UnusableError as error:
        return Missing(error)


def _translated(expression: str) -> tuple[ast.expr, tuple[str, ...]]:
    def refuse(what: str) -> NoReturn:
        raise UserError(
            f"--where {expression!r} {what}: write something like "
            """'score >= 3 and meta.lang in ("en", "de")'"""
        )

    if len(expression) > _MAX_LENGTH:
        raise UserError(f"--where is longer than {_MAX_LENGTH:,} characters: shorten it")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        fields: dict[str, int] = {}
        body = _translate(tree.body, fields, refuse)
    except SyntaxError as error:
        refuse(f"is not an expression ({error.msg}, character {error.offset})")
    except (ValueError, RecursionError, MemoryError):
        refuse("is not an expression that can be read")
    if not fields:
        refuse("names no field")
    return body, tuple(fields)


def _translate(
    node: ast.expr, fields: dict[str, int], refuse: Callable[[str], NoReturn]
) -> ast.expr:
    """The same expression with ``values[i]`` for a field; refuses what is not on the list."""

    def below(child: ast.expr) -> ast.expr:
        return _translate(child, fields, refuse)

    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node
        case ast.Name() | ast.Attribute():
            return _place(_path(node, refuse), fields)
        case ast.BoolOp():
            return ast.BoolOp(node.op, [below(value) for value in node.values])
        case ast.UnaryOp(op=op) if isinstance(op, _UNARY):
            return ast.UnaryOp(op, below(node.operand))
        case ast.BinOp(op=op) if isinstance(op, _ARITHMETIC):
            return ast.BinOp(below(node.left), op, below(node.right))
        case ast.BinOp(op=ast.Mult()):
            return _call("multiply", below(node.left), below(node.right))
        case ast.Compare():
            return _comparison(node, below, refuse)
        case ast.Tuple() | ast.List():
            return type(node)([below(item) for item in node.elts], ast.Load())
        case ast.Set():
            return ast.Set([below(item) for item in node.elts])
        case ast.Call(func=ast.Name(id="len"), args=[argument], keywords=[]):
            return _call("len", below(argument))
    refuse(f"has {ast.unparse(node)!r}, which it cannot have")


def _path(node: ast.expr, refuse: Callable[[str], NoReturn]) -> str:
    match node:
        case ast.Name(id=name):
            if name in _JSON_NAMES:
                refuse(f"has {name!r}, which is written {_JSON_NAMES[name]!r} here")
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_path(value, refuse)}.{name}"
    refuse(f"has {ast.unparse(node)!r}, which is no field")


def _place(path: str, fields: dict[str, int]) -> ast.expr:
    place = fields.setdefault(path, len(fields))
    return ast.Subscript(ast.Name("values", ast.Load()), ast.Constant(place), ast.Load())


def _comparison(
    node: ast.Compare, below: Callable[[ast.expr], ast.expr], refuse: Callable[[str], NoReturn]
) -> ast.expr:
    operators: list[ast.cmpop] = []
    compared = [below(node.left)]
    links: list[ast.expr] = []
    for operator, right in zip(node.ops, node.comparators, strict=True):
        match operator, right:
            # By value, so that a missing field is noticed.
            case ast.Is(), ast.Constant(value=None):
                operators.append(ast.Eq())
            case ast.IsNot(), ast.Constant(value=None):
                operators.append(ast.NotEq())
            case _ if isinstance(operator, _COMPARISONS):
                operators.append(operator)
            case _:
                refuse(f"has {ast.unparse(node)!r}, which it cannot have")
        compared.append(below(right))
        if isinstance(operator, ast.In | ast.NotIn) and isinstance(compared[-1], ast.Set):
            # A set finds by hash, which what compares as a text and as a number cannot have; but
            # it is one to what is compared with it next: a chain is its links, one and the other.
            found = ast.Tuple(compared[-1].elts, ast.Load())
            links.append(ast.Compare(compared[0], operators, [*compared[1:-1], found]))
            operators, compared = [], compared[-1:]
    if operators:
        links.append(ast.Compare(compared[0], operators, compared[1:]))
    return links[0] if len(links) == 1 else ast.BoolOp(ast.And(), links)


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _compiled(expression: str) -> tuple[Callable[[Sequence[Any]], Any], tuple[str, ...]]:
    body, fields = _translated(expression)
    parameters = ast.arguments(
        posonlyargs=[], args=[ast.arg("values")], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    tree = ast.fix_missing_locations(ast.Expression(ast.Lambda(parameters, body)))
    names = {"__builtins__": {}, "len": len, "multiply": _multiply}
    return eval(compile(tree, "--where", "eval"), names), fields


def _multiply(left: Any, right: Any) -> Any:
    """A product of numbers: a text times a number is no filter and could fill the memory."""
    for value in (left, right):
        # A cell knows itself whether it says a number.
        if isinstance(value, str | bytes | list | tuple | dict) and not isinstance(value, Cell):
            raise TypeError(f"can't multiply {type(value).__name__!r}")
    return left * right
