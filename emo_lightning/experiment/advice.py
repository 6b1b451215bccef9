"""Warnings of the training libraries that do not apply here, and one line of ours that silences them."""

from __future__ import annotations

import logging
import re
import warnings


def silence_advice() -> None:
    """Silence advice that does not apply here, so that what is printed is worth reading."""
    for advice in (
        "does not have many workers",
        "Checkpoint directory .* exists and is not empty",
        "LightningCLI's args parameter is intended",
        "You have overridden `on_before_batch_transfer`",
        "Precision .* is not supported by the model summary",
        # They are sums over all ranks, divided once (tasks/base.py, tasks/tallies.py).
        "It is recommended to use `self.log\\('(?:val/loss|[^']*/(?:accuracy|gain|zero_shot_gain|over_constant|labels))'",
        # A pass that finds everything answered has no loader.
        "Total length of `list` across ranks is zero",
        # Notices of renamed things between transformers, peft, Lightning and torch, which are theirs to settle.
        "`is_gradient_checkpointing` is deprecated",
        "`gradient_checkpointing_enable` is deprecated",
        "`isinstance\\(treespec, LeafSpec",
    ):
        warnings.filterwarnings("ignore", f".*{advice}")
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(logger).addFilter(
            lambda record: not re.search("litlogger|litmodels|Tip:|PU available|^Seed set to", record.getMessage())
        )
    # Of 4-bit layers, at every import of peft on a CPU: a faster kernel could be installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "kernels-community" not in record.getMessage())
    from transformers.utils.logging import disable_progress_bar

    # A bar for every shard of weights, under the bar of the training itself.
    disable_progress_bar()
