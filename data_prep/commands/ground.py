"""`emo prep ground`: boxes and masks for the subjects of all valid records, e.g. on a machine with a GPU and no API keys."""

from __future__ import annotations

from data_prep.commands.console import add_config_argument, add_engine_arguments, add_store_argument, new_parser
from data_prep.settings import CONFIGS
from emo_lightning.core.devices import check_device_name
from emo_lightning.core.options import Whole
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.terminal import say


def main(argv: list[str]) -> int:
    """Boxes and masks for the subjects of all valid records."""
    parser = new_parser(
        "ground",
        "Find boxes and masks for the subjects of all valid records, by the models of the configuration's key `grounding`. No API is "
        "asked, so this runs on a machine with a GPU and no keys. What was found before is not computed again.",
        "emo prep ground store --config configs/prep/default.yaml --device cuda --batch-size 32",
    )
    add_store_argument(parser)
    add_config_argument(parser, CONFIGS / "default.yaml")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: the configured one)")
    parser.add_argument("--batch-size", type=Whole(1), metavar="N", help="images at a time (default: the configured one)")
    add_engine_arguments(parser)
    args = parser.parse_args(argv)
    from data_prep.demo.config import DemoConfig
    from data_prep.engine import chosen_engine
    from data_prep.grounding import ground
    from data_prep.settings import ConfigError
    from data_prep.store.store import Store

    config = DemoConfig.load(args.config).grounding
    if args.device is not None:
        check_device_name(args.device)
        if config.backend not in ("transformers", "original"):
            msg = f"--device is for models; grounding.backend {config.backend} of {args.config} asks none"
            raise ConfigError(msg)
    given = {"device": args.device, "batch_size": args.batch_size}
    config = config.model_copy(update={key: value for key, value in given.items() if value is not None})
    with Store(args.store, write=True, create=False) as store, chosen_engine(args) as engine, progress_bars() as progress:
        task = progress.add_task("ground", total=store.ledger.outcome_counts().get("valid", 0))
        counts = ground(store, config, lambda: progress.update(task, advance=1), engine)
    say("grounding: " + (", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "nothing to do"))
    return 0
