"""The part of a source's URI behind its scheme: a place, and options behind a question mark."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

from sattn_edge.errors import UsageError, did_you_mean


def split_options(rest: str, known: Mapping[str, str], subject: str) -> tuple[str, dict[str, str]]:
    """`PLACE?a=1&b=2` as the place and every known option, those not given at their default.

    Raises:
        UsageError: an option nobody knows, one without a value, or one that stands twice.
    """
    place, _, query = rest.partition("?")
    return place, parse_options(query, known, subject)


def parse_options(query: str, known: Mapping[str, str], subject: str) -> dict[str, str]:
    """`a=1&b=2`; raises as `split_options` does."""
    given: dict[str, str] = {}
    try:
        # "+" is no space here: topics and names may have one.
        pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise UsageError(subject, f"'{unquote(query)}' is no list of options", "NAME=VALUE&NAME=VALUE") from error
    for name, value in pairs:
        if name not in known:
            raise UsageError(subject, f"unknown option '{name}'", did_you_mean(name, known))
        if name in given:
            raise UsageError(subject, f"option '{name}' stands twice", "once")
        if not value:
            raise UsageError(subject, f"option '{name}' has no value", f"{name}=VALUE")
        given[name] = value
    return {**known, **given}


def whole_number(text: str, name: str, subject: str, least: int, most: int) -> int:
    """An option that is a whole number between two.

    Raises:
        UsageError: it is something else.
    """
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise UsageError(subject, f"{name} is '{text}'", f"a whole number from {least} to {most}")
    return int(text)


def one_of(text: str, name: str, subject: str, allowed: tuple[str, ...]) -> str:
    """An option that is one of a few words.

    Raises:
        UsageError: it is something else.
    """
    if text not in allowed:
        raise UsageError(subject, f"{name} is '{text}'", " or ".join(allowed))
    return text
