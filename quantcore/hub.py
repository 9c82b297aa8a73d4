"""The hub is asked once, in seconds, whether it is there, instead of through minutes of retries."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlparse

from quantcore.versions import installed

_TIMEOUT_S = 3.0


@functools.cache
def unreachable() -> str | None:
    """Say why the hub cannot be reached; None if it can (or lies behind a proxy that may know)."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return None
    address = urlparse(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=_TIMEOUT_S):
            return None
    except OSError as error:
        return f"{address.hostname} cannot be reached ({error})"


def use_cache_if_unreachable() -> str | None:
    """Put the hub's libraries into their offline mode where the hub cannot be reached.

    What they have cached is still found; what they have not fails at once.

    Returns:
        why the hub cannot be reached, or None.
    """
    reason = unreachable()
    if reason is not None:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True
        if installed("datasets") is not None:
            import datasets.config

            datasets.config.HF_HUB_OFFLINE = True
    return reason
