"""Where the ranks of a stage meet, where a launcher (torchrun, srun) has started them: each stage at an address of its own.

A store that has served one stage still holds the addresses of its processes, which the next one must not take for its own. So the first rank
takes a free port for each, and tells it to the others: under torchrun through the store of torchrun's agent, elsewhere through the run's folder.
"""

from __future__ import annotations

import os
import socket

from emo_lightning.experiment.peers import Peers

_ADDRESS, _PORT = "MASTER_ADDR", "MASTER_PORT"


def port_through_folder(number: int, peers: Peers) -> str | None:
    """The port for a stage, where the ranks have no store of torchrun's agent; to be called by each rank's command.

    Under srun the address is the one that Lightning finds in SLURM's variables, of the node of the first rank. By itself it derives the port
    from the number of the job, so that two jobs on one node take the same one.

    Args:
        number: of the stage in its experiment, from 1.
        peers: the other ranks' commands.

    Raises:
        PeerLostError: the first rank has ended.
    """
    if _has_agent():
        return None
    return peers.said_by_first(f"port-{number}", lambda: _free_address("")[1])


def set_rendezvous(number: int, port: str | None) -> None:
    """Set the address of this process's rendezvous for the stage of that number.

    Args:
        number: of the stage in its experiment, from 1.
        port: of `port_through_folder`; None asks torchrun's agent.
    """
    if port is not None:
        os.environ[_PORT] = port
        return
    os.environ[_ADDRESS], os.environ[_PORT] = _told_by_the_agent(number)
    # The address is not the agent's any more.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(False)


def _has_agent() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def _told_by_the_agent(number: int) -> tuple[str, str]:
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
