"""Conditions that people write, such as `motion_mean >= 0.5 and not (caption contains "text")`, as SQL with parameters.

    condition  and, or, not, ( )
    COLUMN >= NUMBER    also <=, >, <, =, !=; text in quotes for columns of text
    COLUMN contains "TEXT"    regardless of case
    COLUMN is null, COLUMN is not null

Nothing of the text reaches the database but names of columns that it has; values are parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepvideo.errors import StepVideoError

TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<name>\w+)|(?P<sign>>=|<=|!=|==|[<>=()])"""
    r"""|"(?P<double>[^"]*)"|'(?P<single>[^']*)')"""
)
SIGNS = {">=": ">=", "<=": "<=", ">": ">", "<": "<", "=": "=", "==": "=", "!=": "<>"}
MAX_DEPTH = 50


@dataclass(frozen=True)
class Condition:
    """SQL text with `?` and what stands for them."""

    sql: str
    values: tuple[Any, ...] = ()

    def joined(self, word: str, other: Condition) -> Condition:
        return Condition(f"({self.sql} {word} {other.sql})", self.values + other.values)


def condition(text: str, columns: Mapping[str, type]) -> Condition:
    """The condition that `text` says.

    Args:
        columns: name → float or str.

    Raises:
        StepVideoError: it cannot be read, or names a column that is not there; says where and what could stand there.
    """
    return _Reader(text, columns).whole()


class _Reader:
    """Recursive descent over the tokens, each (kind, text)."""

    def __init__(self, text: str, columns: Mapping[str, type]) -> None:
        self.text, self.columns = text, columns
        self.tokens: list[tuple[str, str]] = []
        self.at = self.depth = 0
        position = 0
        while text[position:].strip():
            found = TOKEN.match(text, position)
            if not found or not found.lastgroup:
                raise self._error(f"{text[position:].strip()[:20]!r} cannot stand there")
            kind = {"double": "text", "single": "text"}.get(found.lastgroup, found.lastgroup)
            self.tokens.append((kind, found[found.lastgroup]))
            position = found.end()

    def whole(self) -> Condition:
        result = self._or()
        if self.at < len(self.tokens):
            raise self._error(f"{self.tokens[self.at][1]!r} is too much; join conditions with and, or")
        return result

    def _or(self) -> Condition:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} brackets in each other")
        result = self._and()
        while self._word("or"):
            result = result.joined("OR", self._and())
        self.depth -= 1
        return result

    def _and(self) -> Condition:
        result = self._not()
        while self._word("and"):
            result = result.joined("AND", self._not())
        return result

    def _not(self) -> Condition:
        negated = False
        while self._word("not"):
            negated = not negated
        inner = self._one()
        return Condition(f"(NOT {inner.sql})", inner.values) if negated else inner

    def _one(self) -> Condition:
        if self._sign("("):
            inner = self._or()
            if not self._sign(")"):
                raise self._error("a ) is missing")
            return inner
        kind, name = self._next("a column")
        if kind != "name" or name not in self.columns:
            raise self._error(f"no column {name!r}; there are {', '.join(self.columns)}")
        column, of = f'"{name}"', self.columns[name]
        if self._word("is"):
            negated = self._word("not")
            if not self._word("null"):
                raise self._error("after is comes null, or not null")
            return Condition(f"({column} IS {'NOT ' if negated else ''}NULL)")
        if self._word("contains"):
            kind, value = self._next("a text in quotes")
            if kind != "text" or of is not str:
                raise self._error(f"contains is for a column of text and a text in quotes, not {name} and {value!r}")
            return Condition(f"contains(lower({column}), lower(?))", (value,))
        kind, sign = self._next("a comparison")
        if sign not in SIGNS:
            raise self._error(f"{sign!r} is no comparison; there are {', '.join(SIGNS)}, contains, is null")
        kind, value = self._next("a value")
        if kind != ("text" if of is str else "number"):
            raise self._error(f"{name} is compared with {'text in quotes' if of is str else 'a number'}, not {value!r}")
        return Condition(f"({column} {SIGNS[sign]} ?)", (value if of is str else float(value),))

    def _word(self, word: str) -> bool:
        return self._take("name", word)

    def _sign(self, sign: str) -> bool:
        return self._take("sign", sign)

    def _take(self, kind: str, text: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at][0] == kind and self.tokens[self.at][1].lower() == text:
            self.at += 1
            return True
        return False

    def _next(self, wanted: str) -> tuple[str, str]:
        if self.at == len(self.tokens):
            raise self._error(f"{wanted} is missing at the end")
        self.at += 1
        return self.tokens[self.at - 1]

    def _error(self, what: str) -> StepVideoError:
        return StepVideoError(f"{self.text!r}: {what}")
