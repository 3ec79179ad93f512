"""Whether the model hub can be reached. Its client retries for a minute before it says that there is no network."""

import os
import socket
import threading
import urllib.request
from functools import cache
from urllib.parse import urlsplit

SECONDS = 5.0  # A connection that takes longer counts as none.


@cache
def is_reachable() -> bool:
    """Return whether the hub answers. The answer is kept for the life of the process.

    It is also True where this cannot be told: behind a proxy, or if the client itself was told to stay offline.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or set(urllib.request.getproxies()) & {"http", "https", "all"}:
        return True
    place = urlsplit(constants.ENDPOINT)
    return _connects(place.hostname or "", place.port or (80 if place.scheme == "http" else 443))


def cached_file(repository: str, names: tuple[str, ...]) -> str | None:
    """Return the path of the first of these files that the hub's client has downloaded before, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name) for name in names)
    return next((path for path in found if isinstance(path, str) and os.path.isfile(path)), None)


def _connects(host: str, port: int) -> bool:
    """Return whether a connection opens. Looking up a name has no time limit of its own, so a thread does it."""
    is_open = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=SECONDS).close()
        except OSError:
            return
        is_open.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return is_open.is_set()
