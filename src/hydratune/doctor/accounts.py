"""W&B and the Hugging Face hub: is there a login? No key is ever read into a message.

The network is only asked if that is wanted.
"""

import netrc
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from hydratune.doctor.finding import Finding, Level

_SECONDS = 5.0  # for an answer of a server
_OFFLINE = ("1", "true", "yes", "on")


def weights_and_biases() -> Iterator[Finding]:
    """Say whether there is a login of W&B, and which mode the environment asks for."""
    mode = os.environ.get("WANDB_MODE")
    where = _wandb_login()
    modes = ("online", "offline", "disabled", "shared", "dryrun", "run")
    facts = {"mode": mode, "login": where or None}
    if mode is not None and mode not in modes:
        remedy = "unset WANDB_MODE"
        yield Finding("W&B", f"WANDB_MODE={mode} is no mode", Level.warning, remedy, facts)
        return
    said = f"; WANDB_MODE={mode}" if mode else "; tracking.mode of each run decides"
    if where:
        yield Finding("W&B", f"logged in ({where}){said}", facts=facts)
    elif mode == "online":
        remedy = "wandb login"
        yield Finding("W&B", f"not logged in{said}", Level.warning, remedy, facts)
    else:
        text = f"not logged in{said}: runs are kept offline, in their own folders"
        yield Finding("W&B", text, Level.note, "wandb login", facts)


def _wandb_login() -> str:
    """Return where the key of W&B is from; nothing if there is none."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    given = os.environ.get("NETRC")
    names = [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname
    for file in names:
        try:
            hosts = netrc.netrc(str(file)).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        if host in hosts if host else any("wandb" in name for name in hosts):
            return str(file)
    return ""


def hub() -> Iterator[Finding]:
    """Say whether there is a token of the hub, and whether the hub is switched off."""
    from huggingface_hub import constants

    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    where = next((name for name in names if os.environ.get(name)), "")
    file = Path(constants.HF_TOKEN_PATH)
    where = where or (str(file) if file.is_file() else "")
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _OFFLINE
    text = (
        f"token from {where}"
        if where
        else "no token: only public models and data sets, none that need a licence to be accepted"
    )
    text += "; HF_HUB_OFFLINE is set, so nothing is downloaded" if offline else ""
    facts = {"token": where or None, "offline": offline, "home": str(constants.HF_HOME)}
    level = Level.ok if where else Level.note
    remedy = "" if where else "hf auth login"
    yield Finding("Hugging Face", text, level, remedy, facts)


def network() -> Iterator[Finding]:
    """Ask the hub and W&B whether they answer; the addresses are those of their libraries."""
    from huggingface_hub import constants

    yield _answer("hub", constants.ENDPOINT, "hydratune train model=local model.path=DIR")
    try:
        from wandb.sdk.wandb_settings import Settings

        address = str(Settings().base_url)
    except ImportError as error:
        yield Finding("W&B server", f"wandb cannot be imported: {error}", Level.warning)
        return
    yield _answer("W&B server", address, "hydratune train tracking=offline")


def _answer(name: str, address: str, remedy: str) -> Finding:
    """Return whether a server answers at all; any status is an answer."""
    request = urllib.request.Request(address, method="HEAD")
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        text = f"{address} does not answer ({reason})"
        return Finding(name, text, Level.warning, remedy, {"address": address})
    seconds = time.monotonic() - started
    return Finding(name, f"{address} answers, {seconds:.1f} s", facts={"address": address})
