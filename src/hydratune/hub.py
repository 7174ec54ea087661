"""Whether the Hugging Face hub answers, asked once before anything is loaded from it.

Its libraries wait minutes for a server that does not answer, and say nothing meanwhile.
"""

import errno
import os
import socket
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import urlsplit

from rich.markup import escape

from hydratune.console import console
from hydratune.settings.secrets import mask

_SECONDS = 10.0  # in which it has to answer
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
_asked: set[str] = set()  # addresses


def use_cache_if_silent() -> None:
    """Load only what was downloaded before, as with ``HF_HUB_OFFLINE=1``, if no hub answers.

    Processes that are started later do so as well. Any answer counts, also an error.
    """
    from huggingface_hub import constants

    address = constants.ENDPOINT
    if constants.is_offline_mode() or address in _asked:
        return
    _asked.add(address)
    why = _why_silent(address)
    if not why:
        return
    console.print(
        f"[yellow]the Hugging Face hub at {escape(mask(address))} does not answer ({escape(why)});"
        " only what was downloaded before is used",
        soft_wrap=True,
    )
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def _why_silent(address: str) -> str:
    """Return why a server cannot be reached; "" if it answers, or if that cannot be told."""
    parts = urlsplit(address)
    try:  # urllib takes a password in an address for a part of the host's name
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        request = urllib.request.Request(place, method="HEAD")
        urllib.request.urlopen(request, timeout=_SECONDS).close()
    except TimeoutError:
        return f"within {_SECONDS:.0f} s"
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError):
            return f"within {_SECONDS:.0f} s"
        is_known = isinstance(reason, ConnectionRefusedError | socket.gaierror)
        if is_known or (isinstance(reason, OSError) and reason.errno in _UNREACHABLE):
            return str(reason)
    except (OSError, ValueError, HTTPException):
        pass  # the library says what is wrong
    return ""
