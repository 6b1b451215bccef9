"""`emo prep simulate`: serve simulated annotators for a store of the demo world, until interrupted."""

from __future__ import annotations

from data_prep.commands.console import add_config_argument, add_store_argument, new_parser
from data_prep.settings import CONFIGS
from emo_lightning.core.options import Whole


def main(argv: list[str]) -> int:
    """Serve simulated annotators for a store of the demo world, until interrupted."""
    parser = new_parser(
        "simulate",
        "Serve simulated annotators for a store of the drawn demo world, until interrupted: an endpoint on this machine that answers as "
        "the models of a pass would, and costs nothing.",
        "emo prep simulate store --config configs/prep/world.yaml --port 8377",
    )
    add_store_argument(parser)
    add_config_argument(parser, CONFIGS / "world.yaml", "YAML with the keys `world` and `simulation`")
    parser.add_argument(
        "--port", type=Whole(0, 65535), default=8377, help="port on 127.0.0.1; 0 takes a free one (default: 8377)"
    )
    args = parser.parse_args(argv)
    from data_prep.demo.config import DemoConfig
    from data_prep.demo.simulation.serve import run_server, store_truth

    config = DemoConfig.load(args.config)
    run_server(store_truth(args.store, config), config, port=args.port, child=False)
    return 0
