"""Headers of any size, one image that is declined, prices of any fineness, and a key where a name belongs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from data_prep.annotate.item import pass_digest
from data_prep.cli import main
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.expand.config import ExpandConfig, image_price
from data_prep.expand.fetch import ImageFetchError, fetch_image
from data_prep.provider.budget import budget_nano
from data_prep.provider.config import EndpointConfig
from data_prep.provider.failures import CallError, PassStoppedError, StopSignal
from data_prep.provider.interrupt import unless_stopped
from data_prep.provider.model_under_test import OwnPrice, UnderTest
from data_prep.provider.openai import OpenAIProvider
from data_prep.provider.prices import load_prices
from data_prep.provider.rate import RateLimit
from data_prep.settings import CONFIGS, ConfigError
from data_prep.sources.base import RefusedError
from emo_lightning.core.web.hosts import Host
from emo_lightning.core.web.waiting import MAX_WAIT_SECONDS, retry_after
from tests.data_prep.provider.test_transport import answering, bomb, dripping, reply
from tests.data_prep.serving import good, import_toys, run_pass, send, server

NUMBERS = (
    "9" * 400,
    "1e308",
    "1e309",
    "nan",
    "inf",
    "-inf",
    "-1",
    "",
    " ",
    "9" * 5000,
    "\u0663",
    "1_000",
    "0x10",
    "1" + "0" * 30,
    "1e-320",
)
DATES = (
    *("Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 1 00:00:00 GMT", "Mon"),
    *(f"Mon, 01 Jan {'9' * 400} 00:00:00 GMT", "Sun, 06 Nov 1994 08:49:37 +999999999", "Sun, 06 Nov 1994 99:99:99 GMT", ","),
)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a-key")


def test_headers_of_any_size_are_numbers_that_can_be_waited_for() -> None:
    provider = OpenAIProvider()
    for text in (*NUMBERS, *DATES):
        for headers in ({"retry-after": text}, {"retry-after-ms": text}, {"retry-after": DATES[1], "date": text}):
            found = retry_after(headers)
            assert found is None or 0 <= found <= MAX_WAIT_SECONDS
        for part in ("limit", "remaining", "reset"):
            headers = {f"x-ratelimit-{name}-requests": "10" for name in ("limit", "remaining")} | {
                "x-ratelimit-reset-requests": "1s"
            }
            headers[f"x-ratelimit-{part}-requests"] = text + "s" if part == "reset" else text
            buckets = provider.reported_buckets(headers)
            limit = RateLimit(clock=lambda: 100.0)
            limit.update(limit.take(99.0), buckets)
            assert 0 <= max(0.0, limit.delay(100.0)) <= MAX_WAIT_SECONDS
            assert limit.rate > 0


@pytest.mark.parametrize(
    "rate", [f"{'9' * 400}/1", f"1/{'9' * 400}", f"1/{'9' * 5000}s", "0/0", f"{'9' * 300}/{'9' * 310}", "1/100000"]
)
def test_rates_of_a_robots_txt_of_any_size(rate: str) -> None:
    host = Host(0.5)
    host.obey(f"User-agent: *\nRequest-rate: {rate}\nCrawl-delay: {'9' * 400}\n")
    with suppress(RefusedError):
        host.check("http://x/y")
    assert 0.5 <= host.interval <= 120


def test_prices_are_as_fine_as_providers_make_them(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "models:\n  nano: {input: 0.0375, cached_input: 0.01875, output: 0.15}\n  usual: {input: 2.5, output: 10}\n"
        "images:\n  im: {most: 0.25, input: 0.0375, output: 0.0001}\n"
    )
    prices = load_prices(path)
    assert prices["nano"].cost(1_000_000, 0, 0) == 37_500_000
    assert prices["nano"].cost(3, 1, 1) == 244, "75 + 18.75 + 150, rounded up"
    assert prices["nano"].bound(1, None) is None
    assert prices["nano"].bound(1, 1) == 188
    assert isinstance(prices["usual"].cost(1, 0, 1), int)
    assert image_price(path, "im").charge(1, (1_000_000, 10)) == 37_500_001
    assert OwnPrice(input=Decimal("0.0375"), output=Decimal(0)).price().cost(2, 0, 0) == 75
    for wrong in ("-1", "true", ".nan", ".inf", "1e400", "1e7", "cheap", "[1]"):
        path.write_text(f"models:\n  m: {{input: {wrong}, output: 1}}\nimages:\n  m: {wrong}\n")
        with pytest.raises(ConfigError, match=r"models\.m\.input"):
            load_prices(path)
        with pytest.raises(ConfigError, match=r"images\.m"):
            image_price(path, "m")
    for wrong in ("1e999999999", "nan", "-1", "0"):
        with pytest.raises(ConfigError, match="--budget"):
            budget_nano(wrong)


KEYS = (
    "sk-proj-0123456789abcdefABCDEF",
    "AIzaSyD0123456789abcdefghijklmnopqrstu",
    "0123456789abcdef0123456789abcdef",
    "hf_abcdefghij0123456789",
)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_where_a_name_belongs_is_not_shown(
    key: str, monkeypatch: pytest.MonkeyPatch, write_config: Callable[..., Path]
) -> None:
    row = {"model": "m", "base_url": "https://x/v1", "api_key_env": key}
    with pytest.raises(ConfigError) as found:
        UnderTest.of(row, "here").api_key()
    assert key not in str(found.value)
    with pytest.raises(ConfigError) as found:
        UnderTest.of({**row, "api_key_env": "K", "api_key": key}, "here")
    assert key not in str(found.value)
    for place in ("annotators", "critic"):

        def paste(config: dict, place: str = place) -> None:
            (config["critic"] if place == "critic" else config["annotators"][0])["api_key_env"] = key

        with pytest.raises(ConfigError) as found:
            DemoConfig.load(write_config(paste)).check_keys()
        assert key not in str(found.value)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        UnderTest.of({**row, "api_key_env": "OPENAI_API_KEY"}, "here").api_key()


def test_keys_go_encrypted_or_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "secret-key")

    def endpoint(url: str, **more: object) -> EndpointConfig:
        return EndpointConfig.model_validate({"name": "e", "model": "m", "base_url": url, "api_key_env": "K", **more})

    for url in ("https://x/v1", "http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:80/v1", "http://127.9.9.9/v1"):
        assert endpoint(url).api_key() == "secret-key"
    for url in ("http://x/v1", "http://10.0.0.5:8000/v1", "http://127.0.0.1.example/v1", "http://localhost.example/v1"):
        with pytest.raises(ConfigError, match="unencrypted"):
            endpoint(url).api_key()
        assert endpoint(url, allow_http=True).api_key() == "secret-key"
    for url in (
        "https://me:secret-key@x/v1",
        "https://x/v1?key=secret-key",
        "https://x/v1#secret-key",
        "http://[::1/?secret-key",
    ):
        with pytest.raises(ConfigError) as found:
            UnderTest.of({"model": "m", "base_url": url, "api_key_env": "K"}, "here")
        assert "secret-key" not in str(found.value)


@pytest.mark.parametrize("status", [400, 403, 413, 422])
@pytest.mark.parametrize("declined", ["human", "left_out"])
def test_one_image_that_is_declined_does_not_end_the_pass(
    status: int, declined: str, tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    def alone(config: dict) -> None:
        config["annotators"] = [{**config["annotators"][0], "role": "full", "weight": 1.0}]
        config["declined"] = declined

    config = DemoConfig.load(write_config(alone))
    import_toys(tmp_path / "s", toys[:4])
    images: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
        image = body["messages"][0]["content"][1]["image_url"]["url"]
        if image not in images:
            images.append(image)
        if image == images[0]:
            send(handler, status, {"error": {"message": "declined by moderation", "code": "content_policy_violation"}})
        else:
            send(handler, 200, good(body))

    with server(answer) as (url, _):
        report = run_pass(tmp_path / "s", config, url)
    assert dict(report.outcomes) == {"valid": 3, "human" if declined == "human" else "discarded": 1}


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_status_for_all_images_ends_the_pass(
    status: int, tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    import_toys(tmp_path / "s", toys)
    with (
        server(lambda handler, body: send(handler, status, {"error": {"message": "no"}})) as (url, seen),
        pytest.raises(CallError, match="without a valid answer"),
    ):
        run_pass(tmp_path / "s", DemoConfig.load(write_config()), url)
    assert len(seen) <= 3 * 24


def test_what_ends_a_pass_at_once() -> None:
    provider = OpenAIProvider()
    assert all(provider.is_fatal(status, b"") for status in (301, 302, 307, 308, 401, 402, 404))
    assert provider.is_fatal(403, b'{"error": {"code": "unsupported_country_region_territory"}}')
    assert not any(provider.is_fatal(status, b'{"error": {"code": "x"}}') for status in (400, 403, 413, 422, 429, 500))


def test_a_pass_that_says_nothing_of_declined_images_keeps_its_digest(write_config: Callable[..., Path]) -> None:
    config = DemoConfig.load(write_config())
    assert pass_digest(config) == pass_digest(config.model_copy(update={"declined": "human"}))
    assert pass_digest(config) != pass_digest(config.model_copy(update={"declined": "left_out"}))


def test_downloads_of_images_are_bounded_in_bytes_and_time_and_end_when_the_pass_stops() -> None:
    def fetch(url: str, timeout: float) -> str:
        with pytest.raises(ImageFetchError) as found:
            asyncio.run(fetch_image(f"{url}/x.png?signature=secret", base_url=url, timeout=timeout))
        assert "secret" not in str(found.value)
        return str(found.value)

    with answering(dripping) as (url, _):
        assert "not complete after 0.3 s" in fetch(url, 0.3)
    with answering(reply(200, bomb(24, 31), Content_Encoding="gzip")) as (url, _):
        assert "expands to more" in fetch(url, 20)
    for url in ("http://[:1]:8@/", "http://[::1", "ftp://x/", "http://", f"http://{'a' * 70}.example"):
        fetch(url, 1)

    async def stopped(url: str) -> None:
        stop = StopSignal()
        asyncio.get_running_loop().call_later(0.1, stop.request)
        with pytest.raises(PassStoppedError):
            await unless_stopped(stop, fetch_image(f"{url}/x.png", base_url=url, timeout=60))

    with answering(dripping) as (url, _):
        asyncio.run(stopped(url))


@pytest.mark.parametrize(
    "command",
    [
        ["annotate", "store", "--yes", "--no-ground"],
        ["expand", "queries", "store", "--count", "1", "--out", "q.jsonl"],
    ],
)
def test_plain_http_is_allowed_by_a_flag_of_the_command(
    tmp_path: Path,
    command: list[str],
    toys: list,
    write_config: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A server of the network, by the look of its address. What it says to the one question that gets through is of no matter."""
    for variable in (KEY_VARIABLE, "OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(variable, "secret-key")
    monkeypatch.setattr("data_prep.provider.config.is_loopback", lambda url: False)
    monkeypatch.chdir(tmp_path)
    import_toys(tmp_path / "store", toys[:2])
    config = ["--config", str(write_config())]

    def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
        send(handler, *((200, good(body)) if "response_format" in body else (401, {})))

    with server(answer) as (url, seen):
        if command[0] != "annotate":
            assert main(["annotate", "store", *config, "--base-url", url, "--yes", "--no-ground", "--allow-http"]) == 0
            seen.clear()
        arguments = [*command, "--base-url", url, *(config if command[0] != "expand" else [])]
        assert main(arguments) == 2
        assert "unencrypted over a network" in capsys.readouterr().err
        assert seen == []
        main([*arguments, "--allow-http"])
        assert seen
    assert "unencrypted" not in capsys.readouterr().err


def test_the_flag_holds_for_every_endpoint(
    write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in (KEY_VARIABLE, "OPENAI_API_KEY", "ARK_API_KEY"):
        monkeypatch.setenv(variable, "secret-key")
    passes = DemoConfig.load(write_config()).at("http://10.0.0.5/v1", KEY_VARIABLE)
    grown = ExpandConfig.load(CONFIGS / "expand.yaml").at("http://10.0.0.5/v1")
    for config in (passes.endpoints, [grown.images, grown.queries]):
        for endpoint in config:
            assert endpoint is not None
            with pytest.raises(ConfigError, match="unencrypted"):
                endpoint.api_key()
    allowed = grown.allowing_http()
    for endpoint in (*passes.allowing_http().endpoints, allowed.images, allowed.queries):
        assert endpoint is not None
        assert endpoint.api_key() == "secret-key"
    assert pass_digest(passes.allowing_http()) == pass_digest(passes)
    for command in (["annotate"], ["table3"], ["expand", "queries"], ["expand", "images"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        assert "--allow-http" in capsys.readouterr().out
