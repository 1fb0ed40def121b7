"""Read a YAML file of settings that may come from a stranger: safely, strictly, with limits checked before building.

The meaning of the settings is elsewhere: `pipelines.data_folder.settings`.
"""

from pathlib import Path
from typing import Any, Final

import yaml

from pipelines.errors import SettingsError
from warehouse.artifacts.files import regular

LARGEST: Final = 4 << 20
"""Most bytes of a file, and of its content with every alias written out (a few letters can stand for gigabytes)."""
DEEPEST: Final = 32
"""Deepest nesting of collections; settings need about five levels. A few thousand overflow the stack in libyaml."""
LONGEST: Final = 4096
"""Most characters of a key or value: the longest path. This also limits the length of messages that quote one."""
_LONGEST_NUMBER: Final = 64
_NODE: Final = 16
"""Bytes counted for each key, value or collection, besides its characters."""
_NUMBERS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file; empty if the file is absent or empty. Dates are not converted: they stay text.

    Raises:
        SettingsError: it is no regular file, not YAML, not a mapping, exceeds a limit, or repeats a key in a mapping.
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
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {_in_one_line(error)}") from error
    if content is not None and not isinstance(content, dict):
        raise SettingsError(f"{path} must hold a mapping at its top, not a {type(content).__name__}")
    return content or {}


def _check_size(text: str) -> None:
    """Refuse text that is too deep, too long, or too large with its aliases written out. No object is built here."""
    size = 0
    sizes: dict[str, int] = {}  # by anchor
    opened: list[tuple[str | None, int]] = []  # anchor of each open collection, and the size before it
    for event in yaml.parse(text, Loader=_Yaml):
        match event:
            case yaml.AliasEvent():
                if any(event.anchor == anchor for anchor, _ in opened):
                    raise _refusal(event, f"the alias *{event.anchor} is inside the value that it stands for")
                size += sizes.get(event.anchor or "", 0)  # the composer refuses an unknown anchor later
            case yaml.ScalarEvent():
                if len(event.value) > LONGEST:
                    raise _refusal(event, f"a text of {len(event.value):,} characters; at most {LONGEST:,} are allowed")
                size += _NODE + len(event.value)
                sizes[event.anchor or ""] = _NODE + len(event.value)
            case yaml.CollectionStartEvent():
                opened.append((event.anchor, size))
                if len(opened) > DEEPEST:
                    raise _refusal(event, f"nested more than {DEEPEST} levels deep")
                size += _NODE
            case yaml.CollectionEndEvent():
                anchor, before = opened.pop()
                sizes[anchor or ""] = size - before
        if size > LARGEST:
            raise _refusal(event, f"too large: more than {LARGEST >> 20} MiB with every alias written out")


class _Yaml(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A YAML loader without dates that refuses repeated keys. It uses libyaml where PyYAML has it."""

    def get_single_node(self) -> yaml.Node | None:
        """The document, checked for repeated keys before objects are built: PyYAML would silently keep the last."""
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
                            raise _refusal(key, f"the key {key.value!r} is already in line {lines[name]}")
                        lines[name] = line
                    nodes += [key, value]
            elif isinstance(node, yaml.SequenceNode):
                nodes += node.value
        return top

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does it. A value that does not fit its tag is reported as an error of the file, with its line."""
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise _refusal(node, f"a number of {len(node.value):,} characters is too long")
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # raised by int(), float() and other conversions
            raise _refusal(node, f"{node.value!r} is not a valid {node.tag.rpartition(':')[2]}") from error


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _in_one_line(error: yaml.YAMLError) -> str:
    """PyYAML's message with its place once. PyYAML repeats the place, and calls the file a <unicode string>."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is #x{error.character:04x}: {error.reason}"
    if not isinstance(error, yaml.MarkedYAMLError) or not error.problem_mark:
        return str(error)
    mark, context = error.problem_mark, f" ({error.context})" if error.context else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}{context}"


def _refusal(where: yaml.Event | yaml.Node, reason: str) -> yaml.YAMLError:
    mark = where.start_mark
    return yaml.YAMLError(f"line {mark.line + 1}: {reason}" if mark else reason)
