"""Explanations a second: `EmotionModel.explain` against the way that asks one image at a time, one question after the other.

The peer makes three calls for each image, and each of them reads it anew: two answers (`Backbone.generate`) and the embedding
(`EmotionModel.embed`). Ours reads each image once, together with others, and writes all answers side by side. Both are held to the same
words and, to the fifth digit, the same embeddings. `ratio` is ours over the peer's; `alone` is ours, given one image at a time.

Rounds alternate; images per second of processor time on one thread, medians. Without --model: a tiny random Qwen2.5-VL, whose answers never
end before --max-new-tokens, and images of the drawn world.

    python benchmarks/explain.py [--quick] [--model FOLDER --images FOLDER] [--device cpu] [--batch-size 16] [--json FILE]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from PIL import Image

from benchmarks.command import command_line, write_json
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Question
from emo_lightning.inference.bundle import Bundle, write_bundle
from emo_lightning.inference.inputs import entries
from emo_lightning.inference.model import EmotionModel

Said = list[tuple[list[object], torch.Tensor]]
"""Of each image: the replies, and the embedding."""


def made(folder: Path, hidden: int) -> Path:
    """A random model: the words of the drawn world, a DES head and no probe."""
    from data_prep.demo.world import World
    from data_prep.export import write_shards
    from emo_lightning.models import DESHead
    from emo_lightning.models.tiny import TinyQwen, build_qwen, words_of

    torch.manual_seed(0)
    samples = World(seed=0).samples("train", 24)
    write_shards(((s.truth, s.image, s.extension) for s in samples), folder / "tars", "world", 24)
    words = words_of([str(folder / "tars")])
    words = [*words, *(f" {word}" for word in words)]
    sizes = TinyQwen(hidden_size=hidden, layers=4, heads=4, vision_hidden=hidden // 2, vision_layers=4, vocabulary=4000)
    backbone = build_qwen(folder / "backbone", words, sizes, max_pixels=112 * 112, seed=0)
    DESHead(hidden).save_pretrained(folder / "head")
    bundle = Bundle(str(backbone), str(folder / "head"), None, "emotion", ["attributes", "emotion"])
    write_bundle(folder / "model", bundle)
    return folder / "model"


def drawn(count: int) -> list[Image.Image]:
    """Images of the world."""
    import io

    from data_prep.demo.world import World

    return [Image.open(io.BytesIO(sample.image)).convert("RGB") for sample in World(seed=1).samples("test", count)]


def ours(model: EmotionModel, images: Sequence[Image.Image], tokens: int, batch_size: int) -> Said:
    found = model.explain(list(images), max_new_tokens=tokens, batch_size=batch_size)
    return [([reply["reply"] for reply in one.prediction.provenance["replies"]], torch.from_numpy(one.des)) for one in found]


def one_by_one(model: EmotionModel, images: Sequence[Image.Image], tokens: int) -> Said:
    found: Said = []
    for image in images:
        replies: list[object] = []
        for name in model.bundle.questions:
            batch = model.collate([Question("0", image, objective(name).keys)])
            moved = {key: value.to(model.device) if hasattr(value, "to") else value for key, value in batch.items()}
            replies += model.backbone.generate(moved, tokens)
        found.append((replies, model.embed([image])[0]))
    return found


def check(one: Said, other: Said) -> None:
    for n, ((words, des), (same, near)) in enumerate(zip(one, other, strict=True)):
        assert words == same, f"image {n}: {words} and {same}"
        assert torch.allclose(des, near, atol=1e-4, rtol=1e-4), f"image {n}: the embeddings differ"


def rates(ways: dict[str, Callable[[], Said]], rounds: int, images: int) -> dict[str, float]:
    """Images per second of processor time, medians of rounds that alternate; on a GPU, of the clock."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = clock()
            way()
            seconds[name].append(clock() - start)
    return {name: images / statistics.median(took) for name, took in seconds.items()}


def main() -> None:
    parser = command_line(__doc__, "few images and words, one round: does it run?")
    parser.add_argument("--model", type=Path, help="folder of a model")
    parser.add_argument("--images", nargs="+", help="for --model: files, folders, tars")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--hidden", type=int, default=128, help="width of the random model")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.quick:
        args.count, args.max_new_tokens, args.rounds, args.hidden = 6, 6, 1, 64
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        model = EmotionModel(args.model or made(Path(temporary), args.hidden), args.device)
        given = [entry.open() for entry in entries(args.images)[: args.count]] if args.images else drawn(args.count)
        tokens, batch = args.max_new_tokens, args.batch_size
        ways = {
            "ours": lambda: ours(model, given, tokens, batch),
            "alone": lambda: ours(model, given, tokens, 1),
            "peer": lambda: one_by_one(model, given, tokens),
        }
        expected = ways["peer"]()
        for name in ("ours", "alone"):
            check(ways[name](), expected)
        found = rates(ways, args.rounds, len(given))
    for name, rate in found.items():
        print(f"{name:<6} {rate:10.2f} images/s")
    ratio = found["ours"] / found["peer"]
    print(f"ratio  {ratio:10.2f}")
    result = {"images": len(given), "batch_size": batch, "max_new_tokens": tokens}
    write_json(args.json, "one image and one question at a time", ratio, {**found, **result})


if __name__ == "__main__":
    main()
