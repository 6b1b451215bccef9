from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import yaml

from data_prep.annotate.replies import CriticReply, FullAnnotation
from data_prep.config import PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.expand.config import ExpandConfig
from data_prep.provider.model_under_test import UnderTest
from data_prep.provider.prices import load_prices
from data_prep.provider.reply_schema import InvalidReplyError, parse_reply, strict_schema
from data_prep.review.study import StudyConfig
from data_prep.settings import ConfigError
from tests.data_prep.conftest import ROOT

CONFIGS = sorted(p for p in (ROOT / "configs/prep").glob("*.yaml") if p.name != "prices.yaml" and "expand" not in p.name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_configuration_loads_and_has_prices(path: Path) -> None:
    config = DemoConfig.load(path)
    prices = load_prices(config.prices)
    assert {e.model for e in config.endpoints} <= set(prices)
    assert sum(a.weight for a in config.annotators) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margins": 0.1}, "'margins'"),
        ({"preferred": "emovit"}, "preferred 'emovit'"),
        ({"margin": 0.9}, "'margin'"),
        ({"margin": "0.1"}, r"'margin': found '0\.1'; expected a number"),
        ({"margin": True}, r"'margin': found True; expected a number"),
        ({"margin": float("nan")}, r"'margin'"),
        ({"splits": {"train": True, "val": 0, "test": 0}}, r"'splits\.train': found True; expected a number"),
        ({"splits": {"train": float("nan"), "val": 0.5, "test": 0.5}}, r"'splits"),
        ({"critic": {"wieght": 1}}, r"'critic\.wieght'"),
        ({"splits": {"train": 0.5, "val": 0.1, "test": 0.1}}, "sum to 1"),
    ],
)
def test_a_wrong_key_is_one_clear_error(change: dict, message: str, write_config: Callable[..., Path]) -> None:
    path = write_config(lambda config: config.update(change))
    with pytest.raises(ConfigError, match=message) as error:
        DemoConfig.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), date(2026, 1, 1)])
def test_parameters_that_no_request_can_carry_are_refused(value: object, write_config: Callable[..., Path]) -> None:
    path = write_config(lambda config: config["critic"]["parameters"].update(temperature=value))
    with pytest.raises(ConfigError, match=r"'critic\.parameters'.*cannot be sent as JSON"):
        DemoConfig.load(path)


def test_our_own_files_are_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the README names them; a file of that name beside the user comes first."""
    monkeypatch.chdir(tmp_path)
    found = PrepConfig.load("configs/prep/api_only.yaml")
    assert found == PrepConfig.load(ROOT / "configs/prep/api_only.yaml")
    assert load_prices(found.prices)
    assert StudyConfig.load("configs/prep/study/table4.yaml").name == "table4"
    with pytest.raises(ConfigError, match=r"^configs/prep/mine\.yaml: no such file"):
        PrepConfig.load("configs/prep/mine.yaml")
    own = tmp_path / "configs/prep/api_only.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("margins: 1\n")
    with pytest.raises(ConfigError, match="margins"):
        PrepConfig.load("configs/prep/api_only.yaml")


def test_a_copy_elsewhere_has_our_prices_until_it_brings_its_own(tmp_path: Path) -> None:
    for name, kind in (("api_only", PrepConfig), ("expand", ExpandConfig)):
        copy = tmp_path / f"{name}.yaml"
        copy.write_bytes((ROOT / f"configs/prep/{name}.yaml").read_bytes())
        assert load_prices(kind.load(copy).prices) == load_prices(ROOT / "configs/prep/prices.yaml")
    endpoint = tmp_path / "endpoint.yaml"
    endpoint.write_text("{model: m, base_url: http://127.0.0.1:1/v1, api_key_env: KEY, prices: prices.yaml}")
    assert UnderTest.load(endpoint).price_table() == load_prices(ROOT / "configs/prep/prices.yaml")
    own = tmp_path / "prices.yaml"
    own.write_text("models: {m: {input: 1, output: 2}}")
    assert PrepConfig.load(tmp_path / "api_only.yaml").prices == own
    assert set(UnderTest.load(endpoint).price_table()) == {"m"}


def test_all_keys_that_are_missing_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PrepConfig.load(ROOT / "configs/prep/default.yaml")
    for endpoint in config.endpoints:
        monkeypatch.delenv(endpoint.api_key_env, raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", "x")
    with pytest.raises(ConfigError, match=r"not set: OPENAI_API_KEY \(gpt-4o, critic\), EMOVIT_API_KEY \(emovit\)$"):
        config.check_keys()
    monkeypatch.setenv("GEMINI_API_KEY", "two words")
    with pytest.raises(ConfigError, match="GEMINI_API_KEY holds white space") as error:
        config.check_keys()
    assert "two words" not in str(error.value)


def test_prices_are_whole_nano_dollars(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(yaml.safe_dump({"models": {"m": {"input": 0.075, "cached_input": 0.03, "output": 10}}}))
    assert load_prices(path)["m"].cost(1000, 400, 7) == 600 * 75 + 400 * 30 + 7 * 10_000
    path.write_text("models: {m: {input: -0.0001, output: 1}}")
    with pytest.raises(ConfigError, match=r"models\.m\.input"):
        load_prices(path)


def test_schemas_keep_to_the_strict_subset() -> None:
    def check(node: dict) -> None:
        assert set(node) <= {"type", "enum", "properties", "required", "additionalProperties", "items"}
        if node["type"] == "object":
            assert node["required"] == list(node["properties"])
            assert node["additionalProperties"] is False
            for child in node["properties"].values():
                check(child)

    for model in (FullAnnotation, CriticReply):
        check(strict_schema(model))


GOOD = '{"emotion":"Awe","confidence":0.5,"description":"d","background":"b","attribute":"a","subject":"s","intensity":3}'


def test_replies_are_checked_here_too() -> None:
    assert parse_reply(FullAnnotation, f"```json\n{GOOD}\n```").emotion == "awe"
    for bad in (None, "", "{", GOOD.replace("Awe", "joy"), GOOD.replace("3}", "11}"), GOOD.replace('"d"', '""')):
        with pytest.raises(InvalidReplyError):
            parse_reply(FullAnnotation, bad)
