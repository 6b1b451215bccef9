"""What many tests share: tars of the drawn world and a tiny Qwen2.5-VL in the true architecture, made once a session."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import CHROMIUM, chromium
from tests.made import clip_folder, finished_run, make_qwen, make_tar, stir_adapters, write_world

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["clip_folder", "finished_run", "make_tar"]


def pytest_configure(config: pytest.Config) -> None:
    """Two cores and small tensors: more threads only wait for each other, here and in every process that a test starts."""
    import signal
    import tempfile

    # Before NumPy is imported, which reads them once.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

    import torch

    # Nothing of this session is found by the next one.
    own = tempfile.TemporaryDirectory(prefix="emo-cache-")
    config.add_cleanup(own.cleanup)
    os.environ["EMO_CACHE"] = own.name
    torch.set_num_threads(1)
    # A run of every stage costs a second each; the tests of what W&B is told ask for it.
    os.environ["WANDB_MODE"] = "disabled"
    # In the user's own cache.
    os.environ["EMO_SHARD_CACHE"] = "off"
    # A shell starts what runs in the background, or under nohup, deaf to Ctrl-C and to the end of its terminal; the processes that
    # tests start and interrupt would inherit that.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need a GPU or a hub are skipped where there is none."""
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("network") and not os.environ.get("EMO_TEST_NETWORK"):
            item.add_marker(pytest.mark.skip(reason="needs a model hub; set EMO_TEST_NETWORK=1"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: garbage is not looked for in it, neither meanwhile nor later."""
    import gc

    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """At the end everything may go: of what stays, libraries say that it leaks. Last, so that pytest itself does not search it for garbage."""
    import gc

    gc.unfreeze()


@pytest.fixture(scope="session")
def world_tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `train`, `val` and `test` tars of the drawn world, labelled with the truth: 24, 8 and 8 images."""
    return write_world(tmp_path_factory.mktemp("world"), train=24, val=8, test=8)


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory, world_tars: Path) -> Path:
    """Model folder of a random Qwen2.5-VL: 4 layers of width 64, vision 32 wide and 2 deep."""
    return make_qwen(tmp_path_factory.mktemp("tiny") / "model", world_tars)


@pytest.fixture(scope="session")
def adapter(tiny_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes what the model says: its B matrices are random instead of zero."""
    import torch

    from emo_lightning.models.backbone_config import BackboneConfig, LoRA
    from emo_lightning.models.loading import load_backbone

    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="lora", lora=LoRA(rank=4)))
    torch.manual_seed(3)
    stir_adapters(backbone, 0.05)
    return backbone.save(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="session")
def bundle(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbone, DES head and probe, all random."""
    import torch

    from emo_lightning.inference.bundle import Bundle, write_bundle
    from emo_lightning.models import DESHead, LinearProbes

    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(4)
    DESHead(64).save_pretrained(folder / "head")
    probe = LinearProbes(32, 8, [(1e-3, 0.0)])
    probe.fit_statistics([torch.randn(40, 32)])
    with torch.no_grad():
        for parameter in probe.probes.parameters():
            parameter.normal_()
    probe.save_pretrained(folder / "probe")
    (folder / "model").mkdir()
    write_bundle(
        folder / "model",
        Bundle(str(adapter), str(folder / "head"), str(folder / "probe"), "emotion", ["attributes", "emotion"]),
    )
    return folder / "model"


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `runs/demo`, the whole demo with few images and steps. It takes a minute, so all processes of the tests share one."""
    from filelock import FileLock

    from tests.test_unchanged import demo

    own = tmp_path_factory.getbasetemp()
    # Of a process that xdist has started, the one above is the session's.
    shared = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "demo"
    with FileLock(f"{shared}.lock"):
        demo(shared)
    return shared


@pytest.fixture(scope="module")
def browser() -> Generator[Browser, None, None]:
    """Not of the session: while playwright runs, no other test of the process can run an event loop of its own."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the path (apt install chromium): a page was not tested")
    with chromium() as running:
        yield running
