"""What a server may be asked, and how much at a time."""

from __future__ import annotations

from dataclasses import dataclass

from emo_lightning.core.errors import InputError

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """How much a server takes.

    Raises:
        InputError: a batch, or a request, that the queue has no room for.
    """

    batch_size: int = 16
    """Pictures of one call of the model."""
    wait: float = 0.005
    """Seconds that the first picture of a batch waits for others."""
    queue: int = 256
    """Pictures that may be on their way; more are answered by 503."""
    pixels: int = 256_000_000
    """Of all of them together, decoded: three bytes each."""
    images: int = 32
    """Pictures of one request."""
    body: int = 32 * MEBIBYTE
    """Bytes of one request."""
    bodies: int = 256 * MEBIBYTE
    """Bytes of all requests that are being read or answered."""
    silence: float = 30.0
    """Seconds without a byte, while a request is read."""
    max_new_tokens: int = 256
    """Tokens that one answer of the model may have, at most."""
    grace: float = 30.0
    """Seconds that requests have to be answered in, once the server is asked to end."""

    def __post_init__(self) -> None:
        if self.queue < max(self.batch_size, self.images):
            msg = f"--queue {self.queue}: expected at least {max(self.batch_size, self.images)}, the pictures of a batch and of a request"
            raise InputError(msg)
