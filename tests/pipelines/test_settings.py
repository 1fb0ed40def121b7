"""Settings: layered, complete, documented; domains found in the raw folder."""

import dataclasses
import re
from pathlib import Path

import pytest

from features.settings import EncoderSettings, Fetching
from mmm4rec.baselines.config import BASELINES, BaselineSettings
from mmm4rec.config import PRETRAINING, ModelConfig, TrainConfig
from mmm4rec.errors import ConfigError
from pipelines.data_folder.folder import DataFolder
from pipelines.data_folder.settings import DomainSettings, Settings, Statistics
from pipelines.errors import SettingsError
from tests.conftest import REPOSITORY


def _data_folder(data: Path, settings: str = "", *categories: str) -> DataFolder:
    raw = data / "raw_files"
    raw.mkdir(parents=True, exist_ok=True)
    for category in categories:
        (raw / f"{category}.csv").touch()
        (raw / f"meta_{category}.json.gz").touch()
    (data / "domains.yaml").write_text(settings)
    return DataFolder(data)


def test_the_shipped_settings_are_the_published_ones(tmp_path: Path) -> None:
    settings = _data_folder(tmp_path).settings
    assert settings.model == ModelConfig()
    assert settings.pretraining == PRETRAINING
    assert settings.finetuning == TrainConfig()
    assert settings.domains == {}


def test_published_domains_are_known_by_their_files(tmp_path: Path) -> None:
    data_folder = _data_folder(tmp_path, "", "Industrial_and_Scientific", "Kindle_Store")
    assert data_folder.present() == ["Kindle", "Scientific"]
    assert data_folder.sources() == ["Kindle"]
    assert data_folder.settings.domain("Scientific").published == Statistics(8442, 4385, 59427)


def test_an_unknown_category_is_a_target_with_defaults(tmp_path: Path) -> None:
    data_folder = _data_folder(tmp_path, "defaults: {k: 7}", "Garden_Gnomes")
    assert data_folder.settings.domain("Garden_Gnomes").role == "target"
    assert data_folder.settings.domain("Garden_Gnomes").k == 7


def test_a_ratings_file_alone_is_no_domain(tmp_path: Path) -> None:
    data_folder = _data_folder(tmp_path)
    (data_folder.raw_folder / "Half.csv").touch()
    assert DataFolder(tmp_path).present() == []


def test_reviews_stand_in_for_ratings_that_are_absent(tmp_path: Path) -> None:
    data_folder = _data_folder(tmp_path)
    (data_folder.raw_folder / "meta_Mugs.json").touch()
    for name in ("Mugs_5.json.gz", "Mugs_5.json", "Mugs.csv.gz", "Mugs.csv"):
        (data_folder.raw_folder / name).touch()
        assert DataFolder(tmp_path).present() == ["Mugs"]
        assert DataFolder(tmp_path).raw_file("Mugs", "ratings") == name


def test_a_category_may_itself_end_in_5(tmp_path: Path) -> None:
    data_folder = _data_folder(tmp_path)
    for name in ("meta_Mugs.json.gz", "Mugs_5.json.gz", "meta_Mugs_5.json.gz"):
        (data_folder.raw_folder / name).touch()
    assert DataFolder(tmp_path).present() == ["Mugs"]  # the reviews are those of Mugs; Mugs_5 has none
    (data_folder.raw_folder / "Mugs_5_5.json.gz").touch()
    assert DataFolder(tmp_path).raw_file("Mugs_5", "ratings") == "Mugs_5_5.json.gz"
    assert DataFolder(tmp_path).raw_file("Mugs", "ratings") == "Mugs_5.json.gz"


def test_settings_under_a_name_that_is_not_read_are_an_error(tmp_path: Path) -> None:
    data_folder = _data_folder(tmp_path)
    (tmp_path / "domains.yml").touch()
    with pytest.raises(SettingsError, match=r"domains\.yml is not read, only domains\.yaml is: rename it"):
        _ = data_folder.settings


def test_what_the_user_says_lies_on_top(tmp_path: Path) -> None:
    data_folder = _data_folder(
        tmp_path, "domains: {Scientific: {k: 3}}\nfinetuning: {epochs: 2}", "Industrial_and_Scientific"
    )
    assert data_folder.settings.domain("Scientific").k == 3
    assert data_folder.settings.domain("Scientific").category == "Industrial_and_Scientific"
    assert data_folder.settings.finetuning == dataclasses.replace(TrainConfig(), epochs=2)


def test_the_data_folder_is_given_or_named_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMM4REC_DATA", raising=False)
    assert DataFolder.find().path == tmp_path / "data"
    monkeypatch.setenv("MMM4REC_DATA", str(tmp_path / "named"))
    assert DataFolder.find().path == tmp_path / "named"
    assert DataFolder.find(tmp_path / "given").path == tmp_path / "given"


BASELINE_KINDS = [type(baseline.config) for baseline in BASELINES.values()]


@pytest.mark.parametrize(
    "kind",
    [Settings, DomainSettings, Fetching, EncoderSettings, ModelConfig, TrainConfig, BaselineSettings, *BASELINE_KINDS],
)
def test_every_setting_is_documented(kind: type) -> None:
    documented = set(
        re.findall(r"`([a-z_]+)`|^([a-z_]+):", (REPOSITORY / "docs/settings.md").read_text(), re.MULTILINE)
    )
    names = {name for pair in documented for name in pair}
    assert {field.name for field in dataclasses.fields(kind)} <= names


def test_every_baseline_is_documented() -> None:
    page = (REPOSITORY / "docs/settings.md").read_text()
    assert [name for name in BASELINES if f"`{name}`" not in page] == []


def test_a_baseline_is_asked_for_by_its_name(tmp_path: Path) -> None:
    assert _data_folder(tmp_path).settings.asked.trained == {}
    settings = _data_folder(tmp_path, "baselines: {sasrec, gru4rec: {model: {hidden: 8}}}\nmodel: {length: 9}").settings
    assert [model.length for model, _ in settings.asked.trained.values()] == [9, 9]
    assert settings.asked.trained["gru4rec"][0].hidden == 8
    with pytest.raises(ConfigError, match=r"domains\.yaml: baselines: unknown baseline 'sas'"):
        _ = _data_folder(tmp_path, "baselines: {sas}").settings


@pytest.mark.parametrize(
    ("settings", "ignored"),
    [
        ("{defaults: {text_encoder: {kind: none}}, domains: {Toys: {text_encoder: {model: m}}}}", "Toys: text_encoder"),
        ("{domains: {Toys: {image_encoder: {kind: vectors, path: p, column: c, precision: float16}}}}", "precision"),
        ("{domains: {Toys: {image_encoder: {path: p, column: c}}}}", "Toys: image_encoder: path"),
        ("{domains: {Toys: {image_encoder: {text: published}}}}", "Toys: image_encoder: text"),
        ("{domains: {Toys: {text_encoder: {kind: none, model: m}}}}", "Toys: text_encoder: model"),
        ("{defaults: {text_encoder: {kind: none, storage: float16}}}", "defaults: text_encoder: storage"),
    ],
)  # fmt: skip
def test_what_an_encoder_would_ignore_is_an_error(tmp_path: Path, settings: str, ignored: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"{ignored}.* would be ignored, because .* of kind .*; also set the `kind`"
    ):
        _ = _data_folder(tmp_path, settings, "Toys").settings


@pytest.mark.parametrize(
    "settings",
    [
        "{defaults: {text_encoder: {model: m}}, domains: {Toys: {text_encoder: {kind: none}}}}",
        "{defaults: {text_encoder: {kind: none, model: m}}, domains: {Toys: {text_encoder: {kind: transformers}}}}",
        "{defaults: {text_encoder: {kind: vectors, path: p, column: c}}, domains: {Toys: {text_encoder: {column: d}}}}",
        "{domains: {Toys: {text_encoder: {model: m, precision: bfloat16, text: published, storage: float16}}}}",
        "{domains: {Toys: {image_encoder: {kind: published, path: p, column: image, zeros: missing}}}}",
    ],
)
def test_what_some_encoder_reads_is_none(tmp_path: Path, settings: str) -> None:
    assert _data_folder(tmp_path, settings, "Toys").settings.domains.keys() == {"Toys"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("default: {k: 3}", "unknown setting 'default' (did you mean 'defaults'?); known: store, "),
        ("model: {hiden: 3}", "model: unknown setting 'hiden' (did you mean 'hidden'?)"),
        ("domains: {Toys: {since: soon}}", "since: 'soon' is not a date"),
        ("domains: {Toys: {colour: red}}", "domains.Toys: unknown setting 'colour'"),
        ("domains: {Toys: 3}", "domains: Toys must be a mapping"),
        ("baselines: {sas}", "baselines: unknown baseline 'sas'"),
    ],
)
def test_an_error_in_the_settings_names_the_file_once_and_the_place(tmp_path: Path, settings: str, said: str) -> None:
    with pytest.raises((ConfigError, SettingsError)) as error:
        _ = _data_folder(tmp_path, settings).settings
    assert str(error.value).startswith(f"{tmp_path}/domains.yaml: {said}")
    assert str(error.value).count("domains.yaml") == 1
