"""Whether a model can come from the hub: asked once, instead of waiting for every file of it."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.core.errors import UserError

_TIMEOUT = 5.0
"""Seconds for the hub to answer one request."""


class HubError(UserError, ValueError):
    """A model is neither on disk, nor in the local cache, nor can the hub be asked for it."""


def cache_only(path: str) -> bool:
    """Whether to load this id from the local cache alone, as the hub cannot be reached; False for a folder.

    Without this answer the hub's client retries each file of a model for half a minute before it turns to its cache.

    Raises:
        HubError: the hub cannot be reached and the model is not in the cache.
    """
    if Path(path).exists():
        return False
    import ssl
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if constants.is_offline_mode():
        reason = "HF_HUB_OFFLINE is set"
    else:
        try:
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=_TIMEOUT).close()
            return False
        except HTTPError:
            return False  # It answered.
        except URLError as error:
            if isinstance(error.reason, ssl.SSLError):
                return False  # It answered; the hub's client brings certificates of its own.
            reason = f"{constants.ENDPOINT} does not answer ({error.reason})"
        except TimeoutError:
            reason = f"{constants.ENDPOINT} does not answer within {_TIMEOUT:g} s"
        except (OSError, HTTPException) as error:
            reason = f"{constants.ENDPOINT} does not answer ({error})"
    try:
        cached = isinstance(try_to_load_from_cache(path, "config.json"), str)
    except HFValidationError:
        cached = False
    if not cached:
        msg = f"{path!r} is neither a model folder nor in the local cache, and {reason}"
        raise HubError(msg)
    return True
