"""Settings from strangers: what is twice, endless, or far too much is an error in words."""

import os
from pathlib import Path

import pytest

from pipelines.data_folder.strict_yaml import read_yaml
from pipelines.errors import SettingsError

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)

REFUSED = {
    "key twice": ("k: 1\ndomains:\n  Toys: {k: 3}\n  Books: {}\n  Toys: {k: 5}\n", "line 5: the key 'Toys' .* line 3"),
    "top key twice": ("defaults: {k: 3}\ndefaults: {k: 5}\n", "line 2: the key 'defaults' .* line 1"),
    "quoted key twice": ("{a: 1, 'a': 2}", "line 1: the key 'a'"),
    "5,000 digits": ("k: " + "9" * 5000, "line 1: a text of 5,000 characters"),
    "long number": ("a: 1\nk: " + "9" * 100, "line 2: a number of 100 characters"),
    "long hexadecimal": ("k: 0x" + "f" * 4000, "a number of 4,002 characters"),
    "not what its tag says": ("k: !!int abc", "line 1: 'abc' is not a valid int"),
    "no truth value": ("k: !!bool maybe", "'maybe' is not a valid bool"),
    "aliases of aliases": (LAUGHS, "too large: more than 4 MiB with every alias written out"),
    "one long text, often": (f"a: &a {'x' * 4000}\nb: [{', '.join(['*a'] * 2000)}]", "too large: more than 4 MiB with"),
    "alias within itself": ("a: &a [*a]", r"the alias \*a is inside"),
    "deep": ("a: " + "[" * 100_000, "nested more than 32 levels deep"),
    "deep without brackets": ("\n".join(" " * n + "a:" for n in range(100)), "nested more than 32 levels deep"),
    "large": ("a: 1\n#" + "x" * (4 << 20), "too large: settings have 4 MiB"),
    "large in many parts": ("a: [" + "1," * 300_000 + "]", "too large: more than 4 MiB with"),
    "no value": ("a: 1\nb: c: d\n", "is not YAML: line 2, column 5: mapping values are not allowed in this context$"),
    "no end": ("k: 'x\n", r"is not YAML: line 2, column 1: .*end of stream \(while scanning a quoted scalar\)$"),
    "control character": ("k: \x01", "is not YAML: character 4 is #x0001: "),
    "a list": ("[1, 2]", "must hold a mapping"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_refused_says_why_and_where(case: str, tmp_path: Path) -> None:
    text, reason = REFUSED[case]
    path = tmp_path / "domains.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=reason) as error:
        read_yaml(path)
    assert str(error.value).count(str(path)) == 1
    assert "unicode string" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_aliases_and_merges_of_a_sane_size_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "domains.yaml"
    path.write_text("x: {y: &more {<<: &base {k: 2, date: 2014-01-01}, k: 1}}\nz: {<<: *more, k: 3}\nlast: *base\n")
    assert read_yaml(path) == {
        "x": {"y": {"k": 1, "date": "2014-01-01"}},
        "z": {"k": 3, "date": "2014-01-01"},
        "last": {"k": 2, "date": "2014-01-01"},
    }


def test_no_file_and_an_empty_one_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    assert read_yaml(tmp_path / "absent.yaml") == read_yaml(tmp_path / "empty.yaml") == {}


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for path in (tmp_path / "fifo.yaml", tmp_path / "folder.yaml", Path("/dev/zero")):
        with pytest.raises(SettingsError, match=f"{path} cannot be read .not a regular file"):
            read_yaml(path)
