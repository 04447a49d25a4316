"""Reads the dashboard with Grafana's own types, and finds fields and values that Grafana does not know.

The types of the Grafana Foundation SDK are generated from Grafana's schemas. They pass over fields that
they do not know, so what is lost between reading and writing is misspelt or in the wrong place.
"""

import collections.abc
import enum
import json
import sys
import types
import typing
import warnings

warnings.simplefilter("ignore", DeprecationWarning)

from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402
from grafana_foundation_sdk.cog.plugins import register_default_plugins  # noqa: E402
from grafana_foundation_sdk.models import dashboard  # noqa: E402


def written(value):
    """What the SDK writes for a value."""
    return json.loads(json.dumps(value, cls=JSONEncoder))


def lost(before, after, path):
    """The places of `before` that `after` lacks or has with another value."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{path}.{key}: no such field"
            else:
                yield from lost(value, after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after)):
            yield from lost(old, new, f"{path}[{index}]")
    elif before != after:
        yield f"{path}: {before!r} is read as {after!r}"


def fits(value, kind):
    """Whether a value is of the type that the SDK gives its field."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (typing.Any, object) or isinstance(kind, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin in (list, collections.abc.Sequence):
        return isinstance(value, list) and all(fits(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, arguments[1]) for one in value.values())
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return isinstance(value, kind) or value in [member.value for member in kind]
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, dict) and hasattr(kind, "from_json"):
        # The SDK leaves the elements of some lists as they are.
        read = kind.from_json(value)
        return not [*lost(value, written(read), ""), *misfits(read, "", set())]
    return isinstance(value, kind)


def misfits(node, path, seen):
    """The fields below a node of the dashboard whose values are not of their types."""
    if isinstance(node, list):
        for index, one in enumerate(node):
            yield from misfits(one, f"{path}[{index}]", seen)
    elif isinstance(node, dict):
        for key, one in node.items():
            yield from misfits(one, f"{path}.{key}", seen)
    elif type(node).__module__.startswith("grafana_foundation_sdk.models") and not isinstance(node, enum.Enum):
        seen.add(type(node).__name__)
        kinds = typing.get_type_hints(type(node))
        for name, value in vars(node).items():
            if not fits(value, kinds[name]):
                yield f"{path}.{name}: {value!r} is not {kinds[name]}"
            yield from misfits(value, f"{path}.{name}", seen)


def main(path):
    with open(path, encoding="utf-8") as file:
        before = json.load(file)
    register_default_plugins()
    read = dashboard.Dashboard.from_json(before)
    seen = set()
    problems = [*lost(before, written(read), "dashboard"), *misfits(read, "dashboard", seen)]
    # Options that are still a dictionary belong to no kind of panel that Grafana has.
    for panel in read.panels:
        if isinstance(panel, dashboard.Panel) and isinstance(panel.options, dict):
            problems.append(f"there is no panel of the type {panel.type_val!r}")
    for problem in problems:
        print(problem)
    panels = sum(panel["type"] != "row" for panel in before["panels"])
    print(f"{path}: {panels} panels, {len(seen)} types of Grafana, {len(problems)} problems")
    return 1 if problems or not panels else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
