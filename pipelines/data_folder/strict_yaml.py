"""Reading a YAML file of settings that may come from a stranger: safe, strict, and bounded before anything is built.

What lives elsewhere: what the settings mean (`pipelines.data_folder.settings`).
"""

from pathlib import Path
from typing import Any, Final

import yaml

from pipelines.errors import SettingsError
from warehouse.artifacts.files import regular

LARGEST: Final = 4 << 20
"""Bytes of a file, and of its content with every alias written out: a few letters can stand for gigabytes."""
DEEPEST: Final = 32
"""Nested collections; settings have some five. A few thousand overflow the stack of libyaml's binding."""
LONGEST: Final = 4096
"""Characters of a key or value: the longest path. It bounds whatever message quotes one."""
_LONGEST_NUMBER: Final = 64
_NODE: Final = 16
"""Bytes that a key, value or collection counts besides its characters."""
_NUMBERS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file; an absent or empty file is an empty one. A date stays the text that it is.

    Raises:
        SettingsError: it is no regular file, no YAML, no mapping, beyond a limit, or has a key twice in one mapping.
    """
    if not path.exists():
        return {}
    try:
        with regular(path).open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise SettingsError(f"{path} is too large: settings have {LARGEST >> 20} MiB at most")
        text = data.decode("utf-8-sig")
        _check_size(text)
        content = yaml.load(text, Loader=_Yaml)  # noqa: S506 - a safe loader
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): put a YAML file there, or remove it") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise SettingsError(f"{path} must hold a mapping at its top, not a {type(content).__name__}")
    return content or {}


def _check_size(text: str) -> None:
    """Refuse what is too deep, too long, or too much with its aliases written out. Nothing is built here."""
    size = 0
    sizes: dict[str, int] = {}  # by anchor
    opened: list[tuple[str | None, int]] = []  # anchor of each open collection, and the size before it
    for event in yaml.parse(text, Loader=_Yaml):
        match event:
            case yaml.AliasEvent():
                if any(event.anchor == anchor for anchor, _ in opened):
                    raise _refusal(event, f"the alias *{event.anchor} lies within what it stands for")
                size += sizes.get(event.anchor or "", 0)  # that of an unknown anchor is the composer's to refuse
            case yaml.ScalarEvent():
                if len(event.value) > LONGEST:
                    raise _refusal(event, f"a text of {len(event.value):,} characters, at most {LONGEST:,}")
                size += _NODE + len(event.value)
                sizes[event.anchor or ""] = _NODE + len(event.value)
            case yaml.CollectionStartEvent():
                opened.append((event.anchor, size))
                if len(opened) > DEEPEST:
                    raise _refusal(event, f"nested more than {DEEPEST} deep")
                size += _NODE
            case yaml.CollectionEndEvent():
                anchor, before = opened.pop()
                sizes[anchor or ""] = size - before
        if size > LARGEST:
            raise _refusal(event, f"too much: with every alias written out, more than {LARGEST >> 20} MiB")


class _Yaml(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without dates and without a key twice in one mapping; read by libyaml, where PyYAML has it."""

    def get_single_node(self) -> yaml.Node | None:
        """The document, checked before it becomes Python's objects, where of equal keys the last would win."""
        top: yaml.Node | None = super().get_single_node()
        nodes, seen = [top] if top else [], set()
        while nodes:
            node = nodes.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                lines: dict[tuple[str, str], int] = {}
                for key, value in node.value:
                    if isinstance(key, yaml.ScalarNode):
                        name, line = (key.tag, key.value), key.start_mark.line + 1
                        if name in lines:
                            raise _refusal(key, f"the key {key.value!r} is there already, in line {lines[name]}")
                        lines[name] = line
                    nodes += [key, value]
            elif isinstance(node, yaml.SequenceNode):
                nodes += node.value
        return top

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does it, but a value that does not fit its tag is an error of the file, with its line."""
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise _refusal(node, f"a number of {len(node.value):,} characters")
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # what int() and the like make of it
            raise _refusal(node, f"{node.value!r} is no {node.tag.rpartition(':')[2]}") from error


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refusal(where: yaml.Event | yaml.Node, reason: str) -> yaml.YAMLError:
    mark = where.start_mark
    return yaml.YAMLError(f"line {mark.line + 1}: {reason}" if mark else reason)
