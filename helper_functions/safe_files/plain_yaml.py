"""YAML of plain values: no tags, no aliases, and numbers that are what they look like."""

import contextlib
import re

import yaml

from helper_functions.errors import UserError

# What PyYAML raises while it builds values, beside its own errors.
BUILDING = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
_INTEGER = "tag:yaml.org,2002:int"


def load_plain(text: str) -> object:
    """The one document in a text.

    Raises:
        ValueError: it is no YAML, or has a tag, an alias or a key that stands twice; the message is the reason.
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, *BUILDING) as error:
        raise ValueError(" ".join(str(error).split())) from error


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML in which a text stays as short as it is, and means what it would on a command line.

    Aliases of aliases unfold a few lines into gigabytes, in what PyYAML merges and whoever prints. Of two same keys
    the last one would win in silence.
    """

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(f"the alias *{event.anchor}; write the value out", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"the tag {event.tag}; write a plain value", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refusal(what: str, event: yaml.Event) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, what, event.start_mark)


# YAML 1.1 takes 010 for 8, 1:30 for 90 and 1_000 for 1000, which a prefix or a request may be called as well.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _INTEGER]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(_INTEGER, re.compile(r"-?(?:0|[1-9][0-9]*)\Z"), list("-0123456789"))


def refuse_aliases(value: object) -> None:
    """Refuse text with YAML aliases: jsonargparse reads flags as YAML, anew for each type that a flag can have.

    Raises:
        UserError: a text in the value, which may be a list or a dict of others, has an alias of an anchor.
    """
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            refuse_aliases(item)
    elif isinstance(value, str) and "&" in value and "*" in value and _has_alias(value):
        raise UserError(f"{value[:80]!r} has a YAML alias; write the value out")


def _has_alias(text: str) -> bool:
    with contextlib.suppress(yaml.YAMLError, *BUILDING):
        return any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
    return False
