"""What comes from files is text: on the terminal, in JSON, in CSV and in Markdown."""

import csv
import io
import json
import logging
import math
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mmm4rec.printable import plain, visible
from pipelines.cli import answers, prompt
from pipelines.lineage import tree
from pipelines.reports.markdown import code
from pipelines.terminal import Terminal, escaped
from warehouse.artifacts.lineage import Lineage
from warehouse.artifacts.store import Store

HOSTILE = "\x1b[2J\x1b]0;t\x07 \x9b31m \u202egnp.exe\u2066 :x: [red]no[/red] \\[b] \r end"
SHOWN = r"\x1b[2J\x1b]0;t\x07 \x9b31m \u202egnp.exe\u2066 :x: [red]no[/red] \[b] \r end"


def _printed(show: Callable[[Terminal], None]) -> str:
    """What a terminal gets, without the colours of rich."""
    file = io.StringIO()
    show(Terminal(file=file, width=400, force_terminal=False))
    return file.getvalue()


def test_a_text_is_shown_as_it_is() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("a\tb\nц 玩具 👨\u200d👩 \xa0") == "a\tb\nц 玩具 👨\u200d👩 \xa0"
    assert visible(os.fsdecode(b"a\xff")) == r"a\udcff"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = visible(text)
    assert {unicodedata.category(c) for c in set(shown) - set("\n\t")}.isdisjoint({"Cc", "Cs"})
    assert {unicodedata.bidirectional(c) for c in shown}.isdisjoint({"LRE", "RLE", "LRO", "RLO", "LRI", "RLI", "FSI"})
    assert visible(shown) == shown


@pytest.mark.parametrize(
    "show",
    [
        lambda: answers.print_table(["item", HOSTILE], [["a", HOSTILE]], title=HOSTILE),
        lambda: answers.print_rows(["item", HOSTILE], [["a", HOSTILE]]),
        lambda: answers.print_text(HOSTILE),
        lambda: answers.print_error(HOSTILE),
    ],
)
def test_every_way_of_printing_shows_text(monkeypatch: pytest.MonkeyPatch, show: Callable[[], None]) -> None:
    def printed(terminal: Terminal) -> None:
        monkeypatch.setattr(answers, "out", terminal)
        monkeypatch.setattr(answers, "err", terminal)
        show()

    assert SHOWN in _printed(printed)


def test_what_was_forgotten_to_be_escaped_is_harmless_too() -> None:
    text = _printed(lambda terminal: terminal.print(HOSTILE.replace("[red]", ""), markup=False))
    assert "\x1b" not in text
    assert ":x:" in text


def test_colours_are_still_colours() -> None:
    file = io.StringIO()
    Terminal(file=file, force_terminal=True, color_system="standard").print(
        f"[red]{escaped(HOSTILE)}[/red]", highlight=False
    )
    assert file.getvalue().count("\x1b") == 2


def test_a_tree_and_bars_show_text(tmp_path: Path) -> None:
    lineage = Lineage.of(Store(tmp_path))
    shown = _printed(lambda terminal: terminal.print(tree(lineage, ("core/items", HOSTILE, "0"))))
    assert SHOWN in shown
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from pipelines import progress\n"
            "with progress.bars(), progress.show(sys.argv[1]) as done:\n"
            "    done(1, 2); time.sleep(1.1)\n",
            HOSTILE,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert r"\x1b[2J" in done.stderr
    assert ":x:" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_warning_that_nobody_catches_is_text() -> None:
    assert logging.lastResort
    record = logging.LogRecord("mmm4rec", logging.WARNING, "", 0, "%s", (HOSTILE,), None)
    assert logging.lastResort.format(record) == SHOWN


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_number_that_is_none(capsys: pytest.CaptureFixture[str], value: float) -> None:
    nested = {"a": value, "b": [value, 1.5], "c": {"d": (value,)}, "e": "NaN"}
    assert plain(nested) == {"a": None, "b": [None, 1.5], "c": {"d": [None]}, "e": "NaN"}
    answers.print_json(nested)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == plain(nested)


def test_an_answer_is_the_same_json_in_parts() -> None:
    table = pa.table({"a": [1.0, math.nan], "b": [["x"], []], "c": ["\x1b", "ü"]})
    file = io.StringIO()
    prompt.write(prompt.whole(table), "json", file)
    assert file.getvalue() == json.dumps(plain(table.to_pylist()), indent=1) + "\n"
    file = io.StringIO()
    prompt.write(prompt.whole(table.slice(0, 0)), "json", file)
    assert file.getvalue() == "[]\n"


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_text_of_a_csv_is_a_formula() -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "a=1", "", "\x1b[2J"]
    table = pa.table({"=text": texts, "number": [-1.5] * len(texts), "list": [["=1"]] * len(texts)})
    file = io.StringIO(newline="")
    prompt.write(prompt.whole(table), "csv", file)
    header, *rows = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert header == ["'=text", "number", "list"]
    assert [row[0] for row in rows] == [f"'{text}" if text[:1] in set("=+-@\t\r") else text for text in texts]
    assert {(row[1], row[2]) for row in rows} == {("-1.5", '["=1"]')}
    screen = _Screen()
    prompt.write(prompt.whole(table), "csv", screen)
    assert "\x1b" not in screen.getvalue()


MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MARKS = [
    "`",
    "``",
    "\n",
    "\n\n",
    " ",
    "![x](http://127.0.0.1:9/x.png)",
    "[a](b)",
    "<img src=x>",
    "\\",
    "# ",
    "|",
    "- ",
    "&#96;",
]


@given(st.lists(st.sampled_from(MARKS) | st.text(max_size=5)).map("".join))
def test_a_strangers_text_is_one_code_span(text: str) -> None:
    """As a real reader of Markdown sees it, alone on a line and within one."""
    shown = " ".join(visible(text).split()) or "–"
    for before, after in (("", ""), ("User ", " bought"), ("a\n\n", "\n\nb")):
        blocks = MARKDOWN.parse(f"{before}{code(text)}{after}")
        assert {block.type for block in blocks} == {"paragraph_open", "inline", "paragraph_close"}
        inline = [part for block in blocks for part in block.children or () if part.type != "text"]
        assert [(part.type, part.content) for part in inline] == [("code_inline", shown)]
