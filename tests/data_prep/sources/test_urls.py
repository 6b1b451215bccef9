from __future__ import annotations

import asyncio
import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from data_prep.cli import main
from data_prep.sources import Refusal, SourceError, SourceItem
from data_prep.sources.addresses import ListedUrl, read_list
from data_prep.sources.base import RefusedError, Repeat
from data_prep.sources.urls import UrlSource
from data_prep.store.rows import Item
from data_prep.store.store import Store
from emo_lightning.core.web.addresses import is_public, normal_url
from emo_lightning.core.web.download import DownloadLimits
from tests.data_prep.conftest import picture
from tests.patience import PATIENCE


class Site:
    """A web server on loopback that misbehaves on demand and counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.robots: tuple[int, str] = (404, "")
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path_qs
        self.asked[path] += 1
        if path == "/robots.txt":
            return web.Response(status=self.robots[0], text=self.robots[1])
        self.times.append(time.monotonic())
        match path.split("/")[1:]:
            case ["image", number]:
                return web.Response(body=picture(int(number)), content_type="text/plain")
            case ["page.jpg"]:
                return web.Response(body=b"<html>" + b" " * 250_000, content_type="image/jpeg")
            case ["broken.png"]:
                return web.Response(body=picture(1)[:60])
            case ["to", *rest]:
                raise web.HTTPFound("/".join(rest))
            case ["loop"]:
                raise web.HTTPFound("/loop")
            case ["private"]:
                raise web.HTTPFound(self.url("/image/1", "127.0.0.2"))
            case ["file"]:
                raise web.HTTPFound("file:///etc/passwd")
            case ["busy"] if self.asked[path] == 1:
                return web.Response(status=429, headers={"Retry-After": "1"})
            case ["failing"]:
                return web.Response(status=503)
            case ["later"]:
                return web.Response(status=429, headers={"Retry-After": "86400"})
            case ["busy"]:
                return web.Response(body=picture(7))
            case ["cut"]:
                return await self.cut(request)
            case ["held"]:
                # As slow as whatever else is asked for: it is answered after it.
                while not self.asked["/image/1"]:
                    await asyncio.sleep(0.01)
                return web.Response(body=picture(2))
            case ["slow"]:
                return await self.drip(request, pause=0.2)
            case ["endless"]:
                return await self.drip(request, pause=0)
        return web.Response(status=404)

    async def drip(self, request: web.Request, pause: float) -> web.StreamResponse:
        """A PNG without an end and without Content-Length."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(picture(1)[:40])
        for _ in range(2000):
            try:
                await response.write(b"x" * 10_000)
            except ConnectionError:
                break
            await asyncio.sleep(pause)
        return response

    async def cut(self, request: web.Request) -> web.StreamResponse:
        """Promises more than it sends, the first time."""
        if self.asked["/cut"] > 1:
            return web.Response(body=picture(8))
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(picture(8))
        assert request.transport
        request.transport.close()
        return response


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", site.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        server = web.TCPSite(runner, "127.0.0.1", 0)
        await server.start()
        site.port = runner.addresses[0][1]
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    yield site
    loop.call_soon_threadsafe(stop.set)
    thread.join(5)
    loop.close()


def only_127_0_0_1(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Stands for "public" where the server has to be on loopback."""
    return str(address) == "127.0.0.1"


FAST = {"per_host_rate": 1000.0, "timeout": PATIENCE}


def download(tmp_path: Path, *urls: str, **options: object) -> tuple[dict[str, SourceItem], dict[str, str]]:
    """Items and reasons of refusal, by address."""
    path = tmp_path / "list.txt"
    path.write_text("# a comment\n\n" + "\n".join(urls) + "\n")
    limits = DownloadLimits(**{**FAST, **options})  # type: ignore[arg-type]
    items, refused = {}, {}
    for found in UrlSource(limits=limits, public=only_127_0_0_1).read(path):
        if isinstance(found, SourceItem):
            items[found.key] = found
        else:
            assert found.line
            refused[path.read_text().splitlines()[found.line - 1]] = found.reason
    return items, refused


def test_images_are_told_by_content_and_the_rest_is_refused_with_reason(tmp_path: Path, site: Site) -> None:
    good = [site.url(f"/image/{i}") for i in range(5)]
    bad = {
        "/page.jpg": "no JPEG or PNG or WebP: it begins with b'<html>",
        "/broken.png": "does not decode",
        "/nothing": "HTTP 404",
        "/endless": "too large: more than 300000 bytes",
    }
    items, refused = download(tmp_path, *good, *map(site.url, bad), max_bytes=300_000)
    assert set(items) == set(good)
    assert items[good[3]].image == picture(3)
    assert items[good[3]].origin == good[3]
    assert set(refused) == set(map(site.url, bad))
    for path, reason in bad.items():
        assert refused[site.url(path)].startswith(reason)


def test_a_slow_server_is_left(tmp_path: Path, site: Site) -> None:
    items, refused = download(tmp_path, site.url("/slow"), timeout=0.7)
    assert items == {}
    assert refused[site.url("/slow")].startswith("timeout: not complete after 0.7 s")


def test_a_slow_server_holds_nobody_up(tmp_path: Path, site: Site) -> None:
    """Neither would ever come if one were asked for after the other."""
    items, refused = download(tmp_path, site.url("/held"), site.url("/image/1"))
    assert set(items) == {site.url("/held"), site.url("/image/1")}
    assert refused == {}


def test_redirects_are_followed_checked_and_limited(tmp_path: Path, site: Site) -> None:
    follow = site.url("/to//image/4")
    items, refused = download(tmp_path, follow, *map(site.url, ("/private", "/file", "/loop")))
    assert items[follow].labels["attributes"] == {"redirected_to": site.url("/image/4")}
    assert refused[site.url("/private")].startswith("address not public")
    assert refused[site.url("/file")].startswith("redirect refused: scheme not allowed: 'file'")
    assert refused[site.url("/loop")].startswith("too many redirects")
    assert site.asked["/loop"] == 6


def test_private_addresses_are_refused_whatever_they_are_called(tmp_path: Path, site: Site) -> None:
    hosts = ("127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0")
    path = tmp_path / "list.txt"
    path.write_text("\n".join(site.url("/image/1", host) for host in hosts))
    found = list(UrlSource(limits=DownloadLimits(**FAST)).read(path))  # type: ignore[arg-type]
    assert len(found) == len(hosts)
    for refusal in found:
        assert isinstance(refusal, Refusal)
        # The odd spellings may not get as far as an address.
        assert refusal.reason.startswith(
            (
                "address not public",
                "robots.txt cannot be had: host not found",
                "robots.txt cannot be had: broken answer: InvalidUrl",
            )
        ), refusal
    assert not site.asked


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((a, True) for a in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")),
        *(
            (a, False)
            for a in ("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0")
        ),
        *(
            (a, False)
            for a in ("224.0.0.1", "255.255.255.255", "::1", "fe80::1", "fc00::1", "ff02::1", "::", "::ffff:10.0.0.1")
        ),
        *((a, False) for a in ("64:ff9b::a00:1", "2002:a00:1::", "240.0.0.1", "192.0.2.1")),
        # Some versions of Python call these global; 192.0.0.192 gives metadata in one cloud.
        *((a, False) for a in ("192.0.0.192", "::ffff:192.0.0.192", "fec0::1", "3fff::1", "5f00::1", "64:ff9b:1::a00:1")),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


def test_errors_that_pass_are_tried_again_and_retry_after_is_obeyed(tmp_path: Path, site: Site) -> None:
    start = time.monotonic()
    items, refused = download(tmp_path, *map(site.url, ("/busy", "/cut")))
    assert set(items) == {site.url("/busy"), site.url("/cut")}
    assert not refused
    assert time.monotonic() - start >= 1, "Retry-After: 1"
    assert (site.asked["/busy"], site.asked["/cut"]) == (2, 2)


def test_errors_that_last_are_refused_in_the_end(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_lightning.core.web.download._BACK_OFF", 0.01)
    _, refused = download(tmp_path, *map(site.url, ("/failing", "/later")), "http://127.0.0.1:1/x.png")
    assert refused[site.url("/failing")].startswith("HTTP 503, 4 attempts")
    assert site.asked["/failing"] == 4
    assert refused[site.url("/later")].startswith("HTTP 429, to be asked again in 86400 s")
    assert site.asked["/later"] == 1
    assert refused["http://127.0.0.1:1/x.png"].startswith("robots.txt cannot be had: no connection")


def test_robots_txt_is_obeyed(tmp_path: Path, site: Site) -> None:
    site.robots = (200, "User-agent: *\nDisallow: /\n\nUser-agent: emo-lightning\nDisallow: /image/1\nDisallow: /*.jpg$\n")
    items, refused = download(tmp_path, *map(site.url, ("/image/1", "/image/2", "/page.jpg", "/to//image/1")))
    assert set(items) == {site.url("/image/2")}
    assert all(reason.startswith("forbidden by robots.txt") for reason in refused.values())
    assert len(refused) == 3
    assert (site.asked["/robots.txt"], site.asked["/image/1"], site.asked["/page.jpg"]) == (1, 0, 0)


def test_a_robots_txt_in_trouble_forbids_everything(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_lightning.core.web.download._BACK_OFF", 0.01)
    site.robots = (500, "")
    items, refused = download(tmp_path, site.url("/image/1"))
    assert not items
    assert refused[site.url("/image/1")].startswith("robots.txt cannot be had: HTTP 500")


def test_a_host_is_asked_at_its_rate(tmp_path: Path, site: Site) -> None:
    site.robots = (200, "User-agent: *\nCrawl-delay: 0.2\n")
    items, _ = download(tmp_path, *(site.url(f"/image/{i}") for i in range(5)))
    assert len(items) == 5
    gaps = [b - a for a, b in zip(site.times, site.times[1:], strict=False)]
    assert min(gaps) > 0.15


def test_lists_say_licence_labels_and_where_they_are_wrong(tmp_path: Path) -> None:
    rows = tmp_path / "list.csv"
    rows.write_text(
        "url,licence,query,emotion,lineage\nhttps://a.org/1.jpg#top,CC0-1.0,happy dog,amusement,\nhttps://a.org/2.jpg,,,Awe,\n"
        "https://a.org/1.jpg,,,,\nftp://a.org/1,,,,\nhttps://a.org/3,,,joy,\nhttps://me:pw@a.org/4,,,,\nhttps:///5,,,,\n"
    )
    found = list(read_list(rows))
    assert found[0] == ListedUrl(
        "https://a.org/1.jpg", str(rows), 2, "CC0-1.0", {"attributes": {"query": "happy dog", "intended_emotion": "amusement"}}
    )
    assert isinstance(found[1], ListedUrl)
    assert found[1].labels == {"emotion": "awe", "emotion_raw": "awe"}
    assert isinstance(found[2], Repeat)
    reasons = [(r.line, r.reason.split(":")[0]) for r in found[3:] if isinstance(r, Refusal)]
    assert [line for line, _ in reasons] == [5, 6, 7, 8]
    assert "pw" not in str(found[5])
    lines = tmp_path / "list.jsonl"
    lines.write_text('{"url": "http://a.org/x", "lineage": {"parents": ["a"]}}\n{"link": "http://a.org"}\n[]\n')
    first, second, third = read_list(lines)
    assert isinstance(first, ListedUrl)
    assert first.labels == {"attributes": {"lineage": {"parents": ["a"]}}}
    assert isinstance(second, Refusal)
    assert "key 'url' is missing" in second.reason
    assert isinstance(third, Refusal)
    (tmp_path / "x.csv").write_text("link\nhttp://a.org\n")
    with pytest.raises(SourceError, match=r"column url is missing; found: link"):
        list(read_list(tmp_path / "x.csv"))
    with pytest.raises(SourceError, match="no such file"):
        list(UrlSource().read(tmp_path / "none.txt"))
    with pytest.raises(RefusedError, match="too long"):
        normal_url("http://a.org/" + "x" * 5000)


def test_the_command_goes_on_where_it_stopped(tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "url,licence\n" + "".join(f"{site.url(f'/image/{i}')},CC0-1.0\n" for i in range(6)) + f"{site.url('/no')},\n"
    )
    command = ["import", "urls", str(path), "--into", str(tmp_path / "store"), "--licence", "unknown"]
    assert main([*command, "--concurrency", "0"]) == 2
    assert "--concurrency 0: expected at least 1, at most 1000" in capsys.readouterr().err
    assert main([*command, "--per-host-rate", "1000"]) == 2
    assert "7 × address not public" in capsys.readouterr().out
    command += ["--allow-private", "--per-host-rate", "1000", "--concurrency", "3"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "added 6, known already 0" in out
    assert "1 × HTTP 404" in out
    with Store(tmp_path / "store", write=False) as store:
        items: list[Item] = list(store.ledger.items())
    assert {(i.source, i.licence, i.key == i.origin) for i in items} == {("urls", "CC0-1.0", True)}
    before = Counter(site.asked)
    assert main(command) == 0
    assert "added 0, known already 6" in capsys.readouterr().out
    assert site.asked - before == Counter({"/no": 1, "/robots.txt": 1})


def test_who_stops_reading_stops_the_downloads(tmp_path: Path, site: Site) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(site.url(f"/image/{i}") for i in range(200)))
    limits = DownloadLimits(concurrency=2, **FAST)  # type: ignore[arg-type]
    reading = UrlSource(limits=limits, public=only_127_0_0_1).read(path)
    next(reading)
    time.sleep(0.3)
    # What nobody takes is not fetched: 1 taken, 2 in the queue, 2 that wait for a place in it.
    assert sum(site.asked.values()) - site.asked["/robots.txt"] <= 6
    reading.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "downloads"]
