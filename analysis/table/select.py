"""Safe selection of rows: only comparisons, arithmetic, and / or / not over the columns of a table.

The expression is parsed to Python's syntax tree, which is walked here; user code is never evaluated.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import Code, UserError, choose

COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
# & | ~ have the precedence of and, or, not, as in a pandas query. A name in backticks may hold any character.
TOKENS = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|&&?|\|\|?|~""")
WORDS = {"&": " and ", "&&": " and ", "|": " or ", "||": " or ", "~": " not "}
REMEDY = 'is no selection; write comparisons of columns, such as "outlier == 0 and N > 1e6"'
SUM = 'is no arithmetic; write sums, products and powers of columns, such as "N=embedding + 12 * layers * width**2"'


def select(table: pd.DataFrame, where: str) -> pd.Series:
    """Truth values (rows,) of ``where``, an expression such as ``"dataset == 'c4' and D / N > 5"``.

    Raises:
      UserError: not a comparison of columns, an unknown column, or text compared with numbers.
    """
    mask = _Walker(table, "where", where, REMEDY).result()
    if not isinstance(mask, pd.Series) or mask.dtype != bool:
        raise UserError("where", where, REMEDY)
    return mask


def compute(table: pd.DataFrame, expression: str, name: str) -> pd.Series:
    """Numbers (rows,) of ``expression``, arithmetic of columns such as ``"params_transformer + params_lm_head"``.

    Args:
      name: what is computed, for messages.

    Raises:
      UserError: no arithmetic, an unknown column, or text.
    """
    walker = _Walker(table, "columns", f"{name}={expression}", SUM, expression)
    values = walker.result()
    if not isinstance(values, pd.Series) or values.dtype.kind not in "iuf":
        raise UserError("columns", f"{name}={expression}", SUM)
    return values.astype(float)


class _Walker:
    """Evaluates one expression over the columns of a table.

    Args:
      field, given, remedy: of the errors: the flag, its value, and what to write instead.
      expression: what to evaluate, by default ``given``.
    """

    def __init__(self, table: pd.DataFrame, field: str, given: str, remedy: str, expression: str | None = None):
        self.table, self.field, self.given, self.remedy = table, field, given, remedy
        self.expression = given if expression is None else expression
        self.quoted: dict[str, str] = {}

    def result(self) -> Any:
        """The value of the expression: a column, or a constant."""

        def word(match: re.Match[str]) -> str:
            token = match.group()
            if token[0] == "`":
                name = f"quoted_{len(self.quoted)}_"
                self.quoted[name] = token[1:-1]
                return name
            return WORDS.get(token, token)

        try:
            tree = ast.parse(TOKENS.sub(word, self.expression).strip(), mode="eval")
            with np.errstate(all="ignore"):
                return self.value(tree.body)
        except (SyntaxError, RecursionError, MemoryError, ValueError, ArithmeticError) as error:
            raise self.refusal() from error

    def refusal(self) -> UserError:
        return UserError(self.field, self.given, self.remedy)

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | str() as constant):
                return constant
            case ast.Constant(value=int() | float() as constant):
                return float(constant)
            case ast.Name(id=name):
                return self.column(self.quoted.get(name, name))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.number(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.truth(operand)
            case ast.BoolOp(op=op, values=values):
                masks = [self.truth(value) for value in values]
                result = masks[0]
                for mask in masks[1:]:
                    result = result & mask if isinstance(op, ast.And) else result | mask
                return result
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                return ARITHMETIC[type(op)](self.number(left), self.number(right))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                result, here = None, left
                for op, there in zip(ops, comparators, strict=True):
                    part = self.compare(here, op, there)
                    result, here = part if result is None else result & part, there
                return result
        raise self.refusal()

    def column(self, name: str) -> Any:
        names = [str(c) for c in self.table.columns]
        matches = [c for c in names if c == name] or [c for c in names if c.lower() == name.lower()]
        if len(matches) != 1:
            raise UserError(self.field, name, f"is no column of this table; {choose(name, names)}", Code.UNKNOWN)
        return self.table[matches[0]]

    def truth(self, node: ast.expr) -> pd.Series:
        mask = self.value(node)
        if isinstance(mask, pd.Series) and mask.dtype.kind in "biuf" and mask.isin((0, 1)).all():
            mask = mask.astype(bool)
        if not isinstance(mask, pd.Series) or mask.dtype != bool:
            raise self.refusal()
        return mask

    def number(self, node: ast.expr) -> Any:
        value = self.value(node)
        if isinstance(value, str) or (isinstance(value, pd.Series) and value.dtype.kind not in "biuf"):
            raise UserError(self.field, ast.unparse(node), "is text; arithmetic needs numbers")
        return value

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.List | ast.Tuple) and right.elts:
            parts = [self.compare(left, ast.Eq(), item) for item in right.elts]
            mask = parts[0]
            for part in parts[1:]:
                mask = mask | part
            return ~mask if isinstance(op, ast.NotIn) else mask
        if type(op) not in COMPARISONS:
            raise self.refusal()
        one, two = self.value(left), self.value(right)
        if self.is_text(one) != self.is_text(two):
            remedy = "compares text with a number; quote text, and leave numbers unquoted"
            raise UserError(self.field, self.given, remedy)
        return COMPARISONS[type(op)](one, two)

    @staticmethod
    def is_text(value: Any) -> bool:
        return isinstance(value, str) or (isinstance(value, pd.Series) and value.dtype.kind not in "biuf")
