"""YAML of plain values, for configurations and for the values of flags.

Attack that yaml.safe_load lets pass: a few lines of aliases of aliases unfold to gigabytes in merged keys, or where the
value is printed or compared. It also keeps the last of two equal keys without a message.
"""

import collections
import re

import yaml

from helper_functions.errors import UserError

# What PyYAML raises while it reads a text and builds its values.
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
_INTEGER = "tag:yaml.org,2002:int"


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases, tags and double keys, in which only decimal integers are numbers."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem=f"the alias *{event.anchor}; write the value out")
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem=f"the tag {event.tag}; write a plain value")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if double := [key for key, count in collections.Counter(keys).items() if count > 1]:
            raise yaml.MarkedYAMLError(problem=f"the key {double[0]} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 010 as 8, 1:30 as 90 and 1_000 as 1000, each of which may be the name of a run or a class.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _INTEGER]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(_INTEGER, re.compile(r"-?(?:0|[1-9][0-9]*)\Z"), list("-0123456789"))


def load_plain(text: str) -> object:
    """The value of a YAML document; a ValueError says why there is none, such as a tag, an alias or a key twice."""
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except YAML_ERRORS as error:
        raise ValueError(" ".join(str(error).split())) from error


def refuse_aliases(value: object) -> None:
    """Refuse texts with YAML aliases, in lists and dicts too: jsonargparse reads the value of a flag as YAML."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            refuse_aliases(item)
    elif isinstance(value, str) and "&" in value and "*" in value:
        try:
            load_plain(value)
        except ValueError as error:
            if str(error).startswith("the alias"):
                raise UserError(f"{value[:80]!r}: {error}") from None
