"""What the launcher (torchrun, SLURM, or none) says about this process."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """This process among those that a launcher has started (torchrun or SLURM); alone without one."""

    rank: int
    world_size: int

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read torchrun's variables, then SLURM's."""
        env = os.environ
        if "RANK" in env and "WORLD_SIZE" in env:
            return cls(int(env["RANK"]), int(env["WORLD_SIZE"]))
        if "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", "1")) > 1:
            return cls(int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]))
        return cls(0, 1)
