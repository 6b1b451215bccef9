"""Where the ranks of a stage meet, where a launcher (torchrun, srun) has started them: each stage at an address of its own.

A store that has served one stage still holds the addresses of its processes, which the next one must not take for its own.
"""

from __future__ import annotations

import os
import socket

_ADDRESS, _PORT = "MASTER_ADDR", "MASTER_PORT"
_FIRST_OF_SLURM = 15_000


def set_rendezvous(number: int) -> None:
    """Set the address of this process's rendezvous for the stage of that number.

    Under torchrun the first rank takes a free port, and tells it to the others through the store of torchrun's agent. Where there is no such
    store, all ranks count from one port (`MASTER_PORT`, else the one that Lightning derives from the job of SLURM): it has to be free.

    Args:
        number: of the stage in its experiment, from 1.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
        os.environ[_ADDRESS], os.environ[_PORT] = _told_by_the_first_rank(number)
        # The address is not the agent's any more.
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(False)
        return
    port = os.environ.get(_PORT) or int(os.environ.get("SLURM_JOB_ID", "0")[-4:]) + _FIRST_OF_SLURM
    os.environ[_PORT] = str(int(port) + number)


def _told_by_the_first_rank(number: int) -> tuple[str, str]:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, though not in their __all__

    store = TCPStore(os.environ[_ADDRESS], int(os.environ[_PORT]), is_master=False)
    # Workers that torchrun has started again meet anew.
    key = f"emo-lightning/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{number}"
    if os.environ["RANK"] == "0":
        store.set(key, " ".join(_free_address(os.environ[_ADDRESS])))
    address, port = store.get(key).decode().split()
    return address, port


def _free_address(agent: str) -> tuple[str, str]:
    """Address and port on this machine; the agent's store may be on another one."""
    with socket.socket() as own:
        try:
            own.bind((agent, 0))
            return agent, str(own.getsockname()[1])
        except OSError:
            own.bind(("", 0))
            return socket.getfqdn(), str(own.getsockname()[1])
