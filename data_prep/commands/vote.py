"""`emo prep vote`: let the local annotators (EmoViT) vote on all images, e.g. on a machine with a GPU and no API keys."""

from __future__ import annotations

from data_prep.commands.console import add_config_argument, add_engine_arguments, add_store_argument, new_parser
from data_prep.settings import CONFIGS
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.terminal import say


def main(argv: list[str]) -> int:
    """Let the local annotators vote on all images."""
    parser = new_parser(
        "vote",
        "Let the local annotators of the configuration (`backend: local`, e.g. EmoViT) vote on the emotion of all images. No API is asked, "
        "so this runs on a machine with a GPU and no keys. Each vote is computed once; `emo prep annotate` then counts it.",
        "emo prep vote store --config my-pass.yaml",
    )
    add_store_argument(parser)
    add_config_argument(parser, CONFIGS / "default.yaml")
    add_engine_arguments(parser)
    args = parser.parse_args(argv)
    from data_prep.demo.config import DemoConfig
    from data_prep.emovit.votes import run_local_votes
    from data_prep.engine import chosen_engine
    from data_prep.settings import ConfigError
    from data_prep.store.store import Store

    config = DemoConfig.load(args.config)
    if not config.local:
        msg = f"{args.config}: no annotator has `backend: local`, so there is nobody to vote here"
        raise ConfigError(msg)
    with Store(args.store, write=True, create=False) as store, chosen_engine(args) as engine, progress_bars() as progress:
        task = progress.add_task("vote", total=None)
        counts = run_local_votes(store, config, lambda n: progress.update(task, advance=n), engine)
    say("votes: " + ", ".join(f"{voter.name} {counts[voter.name]} new" for voter in config.local))
    return 0
