"""`emo prep simulate`: serve simulated annotators for a store of the demo world, until interrupted."""

from __future__ import annotations

from data_prep.commands.console import new_parser
from data_prep.settings import CONFIGS


def main(argv: list[str]) -> int:
    """Serve simulated annotators for a store of the demo world, until interrupted."""
    parser = new_parser(
        "simulate",
        "Serve simulated annotators for a store of the demo world, until interrupted.",
        "emo prep simulate store --config configs/prep/world.yaml --port 8377",
    )
    parser.add_argument("store")
    parser.add_argument(
        "--config",
        default=CONFIGS / "world.yaml",
        help="YAML with `world` and `simulation` (default: our configs/prep/world.yaml)",
    )
    parser.add_argument("--port", type=int, default=8377, help="on 127.0.0.1; 0 takes a free one (default: 8377)")
    args = parser.parse_args(argv)
    from data_prep.demo.config import DemoConfig
    from data_prep.demo.simulation.serve import run_server, store_truth

    config = DemoConfig.load(args.config)
    run_server(store_truth(args.store, config), config, port=args.port, child=False)
    return 0
