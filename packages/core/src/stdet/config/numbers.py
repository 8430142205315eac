"""Number expressions as the config dialect writes them: `1/127.5`, `5e-4`, `(0.5, 1.5)`. Parsed, never evaluated."""

from __future__ import annotations

import re

Number = int | float

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([-+*/(),]))")
MAX_LENGTH = 200
"""Longest text that is looked at; longer ones are not numbers."""


def parse_number(text: str) -> Number | tuple[Number, ...] | None:
    """The number or tuple of numbers that `text` spells, or None when it spells none.

    Grammar: numbers, unary + and -, the four operations, parentheses, and one level of `(a, b, …)`.
    """
    if len(text) > MAX_LENGTH:
        return None
    tokens = _tokens(text)
    if not tokens:
        return None
    parser = _Parser(tokens)
    try:
        value = parser.value()
    except (_NotANumber, ZeroDivisionError, OverflowError, RecursionError):
        return None
    return value if parser.at_end else None


class _NotANumber(Exception):
    pass


def _tokens(text: str) -> list[str]:
    tokens, position, text = [], 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            return []
        tokens.append(match.group(1) or match.group(2))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0

    @property
    def at_end(self) -> bool:
        return self._next == len(self._tokens)

    def _peek(self) -> str:
        return "" if self.at_end else self._tokens[self._next]

    def _take(self, wanted: str) -> bool:
        if self._peek() == wanted:
            self._next += 1
            return True
        return False

    def value(self) -> Number | tuple[Number, ...]:
        """A number, or a tuple when a comma follows inside the outer parentheses."""
        start = self._next
        if self._take("("):
            first = self._sum()
            if self._peek() == ",":
                return self._rest_of_tuple(first)
            self._next = start
        return self._sum()

    def _rest_of_tuple(self, first: Number) -> tuple[Number, ...]:
        items = [first]
        while self._take(","):
            if self._peek() == ")":
                break
            items.append(self._sum())
        if not self._take(")"):
            raise _NotANumber
        return tuple(items)

    def _sum(self) -> Number:
        total = self._product()
        while self._peek() in ("+", "-"):
            if self._take("+"):
                total += self._product()
            else:
                self._take("-")
                total -= self._product()
        return total

    def _product(self) -> Number:
        product = self._unary()
        while self._peek() in ("*", "/"):
            if self._take("*"):
                product *= self._unary()
            else:
                self._take("/")
                product /= self._unary()
        return product

    def _unary(self) -> Number:
        if self._take("-"):
            return -self._unary()
        if self._take("+"):
            return self._unary()
        if self._take("("):
            inside = self._sum()
            if not self._take(")"):
                raise _NotANumber
            return inside
        token = self._peek()
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise _NotANumber
        self._next += 1
        return int(token) if token.isdigit() else float(token)
