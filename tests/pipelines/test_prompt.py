"""`mmm4rec sql` without a statement: a script from a pipe, and the prompt on a terminal of its own."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.tables import TABLES as FEATURE_TABLES
from mmm4rec.tables import TABLES as MODEL_TABLES
from tests.conftest import REPOSITORY, Cli
from warehouse.artifacts.store import Store
from warehouse.catalogue.build import build_catalogue
from warehouse.tables import TABLES as CORE_TABLES

pytestmark = pytest.mark.long

PROMPT, MORE = "mmm4rec> ", "    ...> "
SLOW = (
    "SELECT count(*) FROM core.sequences_interactions a, core.sequences_interactions b, core.sequences_interactions c, "
    "core.sequences_interactions d WHERE a.rating * b.rating + c.rating * d.time > b.time;"
)


class Terminal:
    """A person at `mmm4rec sql`: types, and reads what appears."""

    def __init__(self, data: Path, home: Path) -> None:
        self._read = ""
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where tests run in the background
            environment = {**os.environ, "MMM4REC_DATA": str(data), "HOME": str(home), "TERM": "dumb", "COLUMNS": "150"}
            os.execve(REPOSITORY / ".venv/bin/mmm4rec", ["mmm4rec", "sql"], environment)
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 150, 0, 0))
        self.greeting = self.until(PROMPT)

    def type(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def until(self, text: str, seconds: float = 300) -> str:
        """What appears up to `text`, without colours and line editing."""
        end = time.monotonic() + seconds
        while text not in self._read:
            assert time.monotonic() < end, f"no {text!r} in {self._read!r}"
            if select.select([self._file], [], [], 0.1)[0]:
                self._read += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\x07", "", self._bytes())
        seen, _, self._read = self._read.partition(text)
        return seen

    def ask(self, line: str, then: str = PROMPT) -> str:
        """Type a line; what appears before the next prompt."""
        self.type(line + "\n")
        return self.until(then)

    def end(self) -> int:
        """Wait for it to end; its exit code."""
        while self._bytes():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _bytes(self) -> str:
        try:
            return os.read(self._file, 1 << 16).decode()
        except OSError:  # How Linux says that nobody is at the other end.
            return ""


@pytest.fixture(scope="module")
def shown(tiny: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the tiny sample's artifacts, hard links of them, and a catalogue to swap at will."""
    data = tmp_path_factory.mktemp("shown")
    for layer in ("raw", "core", "features", "models", "reports"):
        shutil.copytree(tiny.data / layer, data / layer, copy_function=os.link)
    comments = {**CORE_TABLES, **FEATURE_TABLES, **MODEL_TABLES}
    build_catalogue(Store(data).all_current(), data / "warehouse.duckdb", comments)
    return data


@pytest.fixture
def terminal(shown: Path, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(shown, tmp_path)
    yield terminal
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_question_ends_with_its_semicolon(terminal: Terminal) -> None:
    assert "read-only" in terminal.greeting
    terminal.ask("SELECT count(*) AS", MORE)
    terminal.ask("  domains, ';' AS semicolon -- not here;", MORE)
    assert "3        ;" in terminal.ask("FROM domains;")
    assert terminal.ask("SELECT 1 AS one; SELECT 2 AS two;").count("─") >= 2


def test_an_error_ends_nothing(terminal: Terminal) -> None:
    for wrong, said in (
        ("SELEC 1;", "syntax error"),
        ("FROM nowhere;", "nowhere does not exist"),
        ("DROP VIEW core.items;", "read-only"),
        ("COPY (SELECT 1) TO 'x.csv';", "read-only"),
        ("SET threads = 1;", "read-only"),
        ("FROM read_text('/etc/passwd');", "disabled by configuration"),
        (".describe nowhere", "there is no nowhere"),
        (".describe", "other arguments"),
        (".tabels", "did you mean .tables"),
        (".example nothing", "no example"),
        (".example popular_items top=many", "must be a number"),
    ):
        answer = terminal.ask(wrong)
        assert said in answer
        assert "Traceback" not in answer
    assert "42" in terminal.ask("SELECT 6 * 7 AS answer;")


def test_it_shows_what_there_is(terminal: Terminal) -> None:
    tables = terminal.ask(".tables")
    for name in ("sequences_interactions", "length_distribution", "upstream(key, domain)", "artifacts"):
        assert name in tables
    described = terminal.ask(".describe core.sequences")
    assert "user_index" in described
    assert "Users" not in described
    assert "INTEGER" in terminal.ask("DESCRIBE core.sequences;")
    assert "strictly" in terminal.ask(".describe history")
    assert "best_models" in terminal.ask(".examples")
    example = terminal.ask(".example popular_items domain=Sample_Toys top=1")
    assert "SELECT" in example
    assert "brand" in example
    assert ".refresh" in terminal.ask(".help")


def test_a_long_answer_is_cut_and_says_so(terminal: Terminal) -> None:
    answer = terminal.ask("FROM range(100000);")
    assert re.search(r"^ 99 *$", answer, re.MULTILINE)
    assert not re.search(r"^ 100 *$", answer, re.MULTILINE)
    assert "only the first 100 rows" in answer


def test_ctrl_c_stops_a_query_or_drops_a_line(terminal: Terminal) -> None:
    terminal.type(SLOW + "\n")
    terminal.until("b.time;")
    time.sleep(1)
    terminal.type("\x03")
    terminal.until(PROMPT)
    terminal.ask("SELECT 'half", MORE)
    time.sleep(1)  # No person is quicker: between showing the prompt and waiting for keys, Python misses a Ctrl-C.
    terminal.type("\x03")
    terminal.until(PROMPT)
    assert "42" in terminal.ask("SELECT 42;")


def test_tab_completes_names(terminal: Terminal) -> None:
    terminal.type("SELECT DISTINCT 'seen' FROM length_distr\t;\n")
    assert "seen" in terminal.until(PROMPT)


def test_history_outlives_the_prompt(shown: Path, tmp_path: Path) -> None:
    first = Terminal(shown, tmp_path)
    first.ask("SELECT 40 + 2 AS answer;")
    first.type(".quit\n")
    assert first.end() == 0
    again = Terminal(shown, tmp_path)
    again.type("\x10")  # Ctrl-P: the line before, .quit
    again.type("\x10\n")
    assert "42" in again.until(PROMPT)
    again.type("\x04")
    assert again.end() == 0


def test_a_newer_catalogue_is_announced_and_waits_for_refresh(terminal: Terminal, shown: Path, tmp_path: Path) -> None:
    catalogue = shown / "warehouse.duckdb"
    shutil.copy(catalogue, tmp_path / "kept")
    build_catalogue([], tmp_path / "new")
    (tmp_path / "new").replace(catalogue)
    answer = terminal.ask("SELECT count(*) AS n FROM domains;")
    assert "3" in answer
    assert "newer catalogue" in answer
    assert "newer catalogue" not in terminal.ask("SELECT count(*) AS n FROM domains;")
    terminal.ask(".refresh")
    assert "domains does not exist" in terminal.ask("SELECT count(*) AS n FROM domains;")
    (tmp_path / "kept").replace(catalogue)
    terminal.ask(".refresh")
    assert "3" in terminal.ask("SELECT count(*) AS n FROM domains;")


def _pipe(shown: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / ".venv/bin/mmm4rec", "sql", *options],
        input=script,
        env={**os.environ, "MMM4REC_DATA": str(shown)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_pipe_is_a_script(shown: Path) -> None:
    done = _pipe(shown, "SELECT 1 AS a; -- one\nSELECT [1, 2] AS l, 'x,y' AS s, NULL AS n, 3 AS s;", "--csv")
    assert (done.returncode, done.stdout) == (0, 'a\n1\nl,s,n,s\n"[1, 2]","x,y",,3\n')
    assert _pipe(shown, "").stdout == ""


def test_a_script_ends_at_its_first_error(shown: Path) -> None:
    done = _pipe(shown, "SELECT 1 AS a; DROP VIEW core.items; SELECT 2 AS b", "--csv")
    assert (done.returncode, done.stdout) == (1, "a\n1\n")
    assert "read-only" in done.stderr


def test_values_are_bound(shown: Path) -> None:
    done = _pipe(shown, "SELECT $domain AS d, $n::INT + 1 AS n;", "--csv", "--param", "domain=it's", "--param", "n=4")
    assert done.stdout == "d,n\nit's,5\n", done.stderr


def test_one_thing_at_a_time(shown: Path) -> None:
    assert _pipe(shown, "", "SELECT 1", "--examples").returncode == 2
