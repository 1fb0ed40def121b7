"""Files from strangers: refused in words before they are read without end or unpacked to gigabytes."""

import io
import os
import zipfile
from pathlib import Path

import pytest
import torch

from mmm4rec.__main__ import main
from mmm4rec.checkpoint import load
from mmm4rec.config import ModelConfig, read_config
from mmm4rec.errors import ConfigError, ModelError
from mmm4rec.files import stored
from mmm4rec.published.exchange import import_checkpoint

NAME = "text_adapter.0.weight"


def repacked(file: Path, compression: int = zipfile.ZIP_STORED, pickled: bytes | None = None) -> Path:
    """What torch.save wrote into `file`, packed, or with another pickle."""
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled if pickled and name.endswith("data.pkl") else old.read(name))
    return file


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    torch.save({"model": {NAME: torch.zeros(1000, 1000)}}, file)
    assert stored(file) == file
    with pytest.raises(ModelError, match="unpacks to more bytes than it has"):
        import_checkpoint(repacked(file, zipfile.ZIP_DEFLATED), tmp_path / "out")


def test_a_pickle_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    torch.save({"model": {NAME: torch.zeros(2)}}, file)
    with pytest.raises(ModelError, match="memory that belongs to no tensor"):
        import_checkpoint(repacked(file, pickled=b"\x80\x02cbuiltins\nbytearray\nK\x07\x85R."), tmp_path / "out")


@pytest.mark.parametrize(
    "tensors",
    [
        {NAME: torch.zeros(1).expand(30_000, 30_000)},
        {f"encoder_ssd_layers.{n}.ssd.A_log": torch.zeros(1).expand(1 << 30) for n in range(50)},
    ],
)
def test_views_that_repeat_a_few_bytes_are_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model": tensors}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match=r"its parameters are [\d,]+ bytes in a file of [\d,]+: they repeat"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")


@pytest.mark.parametrize("tensor", [torch.zeros(2, device="meta"), torch.zeros(10**9, 0), torch.eye(2).to_sparse()])
def test_what_holds_no_plain_values_is_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"model": {NAME: tensor}}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match="is not a plain tensor with values"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")


def test_fifos_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="not a regular file"):
        load(tmp_path)
    (tmp_path / "a.ckpt").symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="not a regular file"):
        import_checkpoint(tmp_path / "a.ckpt", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"model": {"hidden": 8, "hidden": 16}}', "the key 'hidden' occurs twice"),
        ('{"model": {"temperature": NaN}}', "NaN is not a JSON number"),
        ('{"model": ' + "[" * 100_000, "nested too deeply"),
        ('{"model": {"hidden": ' + "9" * 5000 + "}}", "not JSON"),
        (" " * (2 << 20), "too large"),
    ],
    ids=["key twice", "NaN", "deep", "digits", "large"],
)
def test_settings_in_json_are_strict(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    assert main(["import-checkpoint", "a.ckpt", str(tmp_path / "out"), "--config", str(config)]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"hidden": 10**30}, "is out of range"),
        ({"temperature": 10**400}, "is not a finite number"),
        ({"fusion": "x" * 100_000}, "is unknown"),
        ({"hidden": [["x" * 1000] * 100] * 9}, "expected int"),
        ({"x" * 100_000: 1}, "unknown setting"),
    ],
    ids=["integer", "number", "text", "list", "key"],
)
def test_settings_of_any_size_are_quoted_short(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as error:
        read_config(ModelConfig, settings, "model")
    assert len(str(error.value)) < 1000
