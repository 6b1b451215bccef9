"""`emo predict`: what a model says of images, as a predictions file that `emo eval` scores."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TypedDict

from emo_lightning.commands.arguments import ANSWERS_STORE, new_parser
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import ALWAYS, Parser, Whole, output_path
from emo_lightning.core.terminal import on_a_terminal, say

USAGE = """\
emo predict MODEL TARS… --out predictions.jsonl
       emo predict --endpoint CONFIG.yaml TARS… --out predictions.jsonl
       emo predict --base-url URL --model NAME --api-key-env VARIABLE TARS… --out predictions.jsonl"""

ABOUT = """\
Ask a model about images and write its answers to a predictions file, which `emo eval` scores. MODEL is an adapter folder, a folder of
Qwen2.5-VL, Qwen3-VL or Qwen3.5, the folder of an emotion model (of `emo export`, or of an experiment's `model` stage), or the hub id of any of
them. A model may also stand behind an OpenAI-compatible endpoint.

What is answered is not asked again: after an interrupt run the same command. Answers of an endpoint are kept in a ledger, so each is
paid once. Exit status: 0 done, 1 a bug of ours, 2 something that you can mend, 3 the budget was reached, 4 questions are left
for another run (an endpoint gave up, or the outcome of a call is unknown), 130 interrupted."""

EXAMPLES = """\
examples:
  emo predict runs/demo/model runs/demo/world/reference --out demo.jsonl
  emo predict Qwen/Qwen2.5-VL-3B-Instruct 'data/*-test-*.tar' --out base.jsonl --max-pixels 200704
  torchrun --nproc-per-node 8 -m emo_lightning predict runs/emoverse/round2/adapter 'data/*-test-*.tar' --out ours.jsonl
  emo predict --base-url https://api.openai.com/v1 --model gpt-4o-2024-11-20 --api-key-env OPENAI_API_KEY 'data/*-test-*.tar' \\
      --out gpt-4o.jsonl --budget 5
  emo predict --base-url http://127.0.0.1:8000/v1 --model ours --api-key-env VLLM_API_KEY --price 0 0 --boxes resized \\
      'data/*-test-*.tar' --out vllm.jsonl

keys of CONFIG.yaml: model, base_url, api_key_env; parameters (sent with every request), revision, prices or price {input, output},
boxes (pixels, resized, thousandths), order (xyxy, yxyx), min_pixels, max_pixels, concurrency, timeout, max_attempts, allow_http"""

PREDICTED_OBJECTIVES = ("attributes", "emotion")
_LOCAL = "a model on this machine"
_REMOTE = "a model behind an endpoint (--endpoint, or --base-url, --model and --api-key-env)"
_NAMED = "a model behind an endpoint that options name (--base-url, --model and --api-key-env)"
_FILED = "a model behind an endpoint of a file (--endpoint)"
_MODES = {
    ALWAYS: ("out", "objectives", "limit", "blind", "min_pixels", "max_pixels"),
    _LOCAL: (
        "batch_size",
        "max_new_tokens",
        "dtype",
        "qlora",
        "emotion_scores",
        "label_scoring",
        "accelerator",
        "devices",
        "num_workers",
    ),
    _REMOTE: ("allow_http", "boxes", "store", "budget", "estimate", "resend_unknown"),
    _NAMED: ("base_url", "model", "api_key_env", "price"),
    _FILED: ("endpoint",),
}


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser("predict", ABOUT, EXAMPLES, USAGE)
    parser.add_argument("inputs", nargs="+", metavar="MODEL TARS", help="the model, then tars, folders of tars, globs")
    parser.add_argument("--out", type=output_path, required=True, help="predictions file, .jsonl")
    parser.add_argument(
        "--objectives", nargs="+", help=f"what is asked (default: {' '.join(PREDICTED_OBJECTIVES)}, or the bundle's)"
    )
    parser.add_argument("--limit", type=Whole(1), help="only the first so many images")
    parser.add_argument(
        "--blind", action="store_true", help="show grey instead of the images, to see what the model says without looking"
    )
    local = parser.add_argument_group("a model on this machine")
    local.add_argument("--batch-size", type=Whole(1), default=16, help="images at a time on each device (default: 16)")
    local.add_argument("--max-new-tokens", type=Whole(1), default=256, help="tokens that one answer may have (default: 256)")
    local.add_argument(
        "--min-pixels",
        type=Whole(1),
        help="an image with fewer is enlarged (default: the processor's); also of an endpoint, with --boxes resized",
    )
    local.add_argument(
        "--max-pixels",
        type=Whole(1),
        help="an image with more is reduced (default: the processor's); also of an endpoint, with --boxes resized",
    )
    local.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the weights (default: auto)"
    )
    local.add_argument("--qlora", action="store_true", help="load the language model in 4 bits")
    local.add_argument("--emotion-scores", action="store_true", help="also write the distribution over the eight emotions")
    local.add_argument(
        "--label-scoring",
        choices=("plain", "gated"),
        default="plain",
        help="gated: ask for the polarity besides, and take the emotion that is most probable given it (default: plain, the word said)",
    )
    local.add_argument("--accelerator", default="auto", help="cpu, gpu, … (default: auto)")
    local.add_argument("--devices", default="auto", help="how many (default: all GPUs, or one CPU process)")
    local.add_argument(
        "--num-workers",
        type=Whole(0, 1024),
        help="processes that read images ahead (default: by the number of cores and images)",
    )
    remote = parser.add_argument_group("a model behind an OpenAI-compatible endpoint")
    remote.add_argument("--endpoint", type=Path, metavar="CONFIG.yaml", help="the endpoint, instead of the next three")
    remote.add_argument("--base-url", help="e.g. https://api.openai.com/v1")
    remote.add_argument("--model", help="name of the model at the endpoint")
    remote.add_argument("--api-key-env", metavar="VARIABLE", help="environment variable that holds the key")
    remote.add_argument(
        "--price", nargs=2, metavar=("IN", "OUT"), help="USD per million tokens, for a model without a row in prices.yaml"
    )
    remote.add_argument(
        "--boxes", choices=("pixels", "resized", "thousandths"), help="coordinates of the model's boxes (default: pixels)"
    )
    remote.add_argument(
        "--allow-http",
        action="store_true",
        help="send key and images unencrypted to an http:// address that is not this machine",
    )
    remote.add_argument(
        "--store", type=output_path, default=ANSWERS_STORE, help=f"folder of the ledger (default: {ANSWERS_STORE})"
    )
    remote.add_argument("--budget", metavar="USD", help="stop before more than this is spent, all runs on the store together")
    remote.add_argument("--estimate", action="store_true", help="print the most that it can cost, and stop")
    remote.add_argument(
        "--resend-unknown", action="store_true", help="send again what may have been answered (and paid) before"
    )
    parser.modes(_MODES)
    return parser


def main(argv: list[str]) -> int:
    """Run `emo predict`."""
    args = (options := parser()).parse_args(argv)
    if args.out.suffix != ".jsonl":
        msg = f"--out {args.out}: a predictions file ends in .jsonl"
        raise InputError(msg)
    three = {"--base-url": args.base_url, "--model": args.model, "--api-key-env": args.api_key_env}
    if args.endpoint or any(three.values()):
        options.refuse_unused(argv, _REMOTE, _FILED if args.endpoint else _NAMED)
        if not args.endpoint and (missing := [k for k, v in three.items() if not v]):
            msg = f"an endpoint needs --base-url, --model and --api-key-env; {missing[0]} is missing"
            raise InputError(msg)
        from emo_lightning.commands.endpoint import predict_at_endpoint

        return predict_at_endpoint(args, args.objectives or list(PREDICTED_OBJECTIVES))
    options.refuse_unused(argv, _LOCAL)
    if len(args.inputs) < 2:
        msg = f"expected MODEL and TARS, found {args.inputs[0]!r} alone (see: emo predict --help)"
        raise InputError(msg)
    return _local(args)


def _local(args: argparse.Namespace) -> int:
    from lightning.pytorch import Trainer

    from emo_lightning.data.questions import QuestionDataModule
    from emo_lightning.data.workers import Workers
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.models.backbone_config import BackboneConfig
    from emo_lightning.tasks.predict import PredictTask

    silence_advice()
    path, objectives, head = _asked(args.inputs[0], args.objectives)
    if head is not None and (args.min_pixels is not None or args.max_pixels is not None or args.qlora):
        say(
            f"{args.inputs[0]}: no valence, arousal and dominance: its DES head knows neither pictures of another size nor 4-bit weights"
        )
        head = None
    config = BackboneConfig(
        path,
        tuning="qlora" if args.qlora else "frozen",
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
        dtype=args.dtype,
    )
    task = PredictTask(
        config,
        args.max_new_tokens,
        out=str(args.out.parent),
        file=args.out.name,
        emotion_scores=args.emotion_scores,
        label_scoring=args.label_scoring,
        des_head=head,
    )
    workers: Workers = "auto" if args.num_workers is None else args.num_workers
    data = QuestionDataModule(
        {"images": args.inputs[1:]}, objectives, args.batch_size, workers, limit=args.limit, blind=args.blind
    )
    trainer = Trainer(
        **_launched(args),
        default_root_dir=str(args.out.parent),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        enable_progress_bar=on_a_terminal(sys.stderr),
    )
    trainer.test(task, datamodule=data, verbose=False)
    return 0


def _asked(model: str, objectives: list[str] | None) -> tuple[str, list[str], str | None]:
    """Path or id of the backbone, what is asked of it, and the DES head that gives valence, arousal and dominance, where there is one."""
    from emo_lightning.inference.bundle import find_bundle

    bundle = find_bundle(model)
    if bundle is None:
        return model, objectives or list(PREDICTED_OBJECTIVES), None
    return bundle.backbone, objectives or bundle.questions, bundle.head if bundle.affect is not None else None


class _Launch(TypedDict, total=False):
    """Arguments of the Trainer."""

    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str


def _launched(args: argparse.Namespace) -> _Launch:
    """Devices and strategy: what torchrun or SLURM has started, or what was asked for."""
    from emo_lightning.core.ranks import forget_job_variables, slurm_tasks, started_by_srun
    from emo_lightning.experiment.processes import check_cpu_processes

    forget_job_variables()
    env = os.environ
    if "LOCAL_WORLD_SIZE" in env and "RANK" in env:
        here = int(env["LOCAL_WORLD_SIZE"])
        nodes = int(env["WORLD_SIZE"]) // here
    elif started_by_srun():
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")))
        here = slurm_tasks() // nodes
    else:
        if args.devices != "auto" and not args.devices.isdigit():
            msg = f"--devices {args.devices}: expected auto or a number"
            raise InputError(msg)
        devices = args.devices if args.devices == "auto" else int(args.devices)
        check_cpu_processes(args.devices, args.accelerator, "--devices")
        return {
            "accelerator": args.accelerator,
            "devices": devices,
            "strategy": "ddp" if devices not in ("auto", 1) else "auto",
        }
    if args.devices != "auto":
        msg = f"--devices {args.devices}: torchrun or srun has started the processes, and says how many; leave it out"
        raise InputError(msg)
    strategy = "ddp" if here * nodes > 1 else "auto"
    return {"accelerator": args.accelerator, "devices": here, "num_nodes": nodes, "strategy": strategy}
