"""Configurations with parts: frozen dataclasses whose fields may be dataclasses, seen as one flat set of options."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

Config = TypeVar("Config")


def flatten(config: Any) -> dict[str, Any]:
    """All options of a configuration and its parts: {name: value}.

    Raises ValueError if two of them have the same name.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inside = flatten(value) if dataclasses.is_dataclass(value) else {field.name: value}
        if twice := found.keys() & inside.keys():
            raise ValueError(f"{type(config).__name__} has the options {sorted(twice)} twice")
        found |= inside
    return found


def replace(config: Config, **values: Any) -> Config:
    """`config` with new values of some options. The `__post_init__` of every changed part checks them.

    Raises ValueError for an option that `config` does not have.
    """
    if unknown := values.keys() - flatten(config).keys():
        raise ValueError(f"{type(config).__name__} has no options {sorted(unknown)}")
    return dataclasses.replace(config, **_changes(config, values, replace))  # type: ignore[type-var]


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """`replace` without checks, so that values may be tracers."""
    other = copy.copy(config)
    for name, value in _changes(config, values, lambda part, **inside: with_values(part, inside)).items():
        object.__setattr__(other, name, value)
    return other


def _changes(config: Any, values: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """New values of the fields of `config`. For fields that are parts, `change(part, **values)` makes them."""
    changed = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            inside = {name: x for name, x in values.items() if name in flatten(value)}
            if inside:
                changed[field.name] = change(value, **inside)
        elif field.name in values:
            changed[field.name] = values[field.name]
    return changed


def hints(config: Any) -> dict[str, Any]:
    """The types of all options of a configuration and its parts: {name: type}."""
    found: dict[str, Any] = {}
    types = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        found |= hints(value) if dataclasses.is_dataclass(value) else {field.name: types[field.name]}
    return found
