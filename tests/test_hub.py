"""A hub that does not answer, or that is not there: a line after seconds, and the cache is used."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from huggingface_hub import constants

from hydratune import hub

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is asked, as it is not in other tests."""
    import datasets

    monkeypatch.setattr(hub, "_asked", set())
    monkeypatch.setattr(hub, "_SECONDS", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield address


@pytest.mark.fault(
    "the hub does not answer, for data or a model",
    seen="a line after 10 s; what is in its cache is used",
    kept="all that was downloaded",
)
@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("prepare", "data=hub", "data.id=a/b", "model=tiny"), "data.id = a/b"),
        (("plan", "debug=smoke", "model=hub", "model.id=a/b"), "model.id = a/b"),
    ],
)
@pytest.mark.usefixtures("online")
def test_a_silent_hub_is_not_waited_for(
    hydratune: Command, silent: str, words: tuple[str, ...], key: str
) -> None:
    started = time.monotonic()
    code, text = hydratune(*words)
    assert code == 2 and text.count(f"hub at {silent} does not answer (within 0 s)") == 1, text
    assert key in text and "Retrying" not in text and time.monotonic() - started < 20
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # for the processes of packs


@pytest.mark.usefixtures("online")
def test_a_hub_that_is_not_there_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://me:s3cr3t@127.0.0.1:{port}")
    hub.use_cache_if_silent()
    hub.use_cache_if_silent()
    text = capsys.readouterr().out
    assert text.count("does not answer") == 1 and "Connection refused" in text
    assert f"http://me:***@127.0.0.1:{port}" in text.replace("\n", "") and "s3cr3t" not in text
    assert constants.HF_HUB_OFFLINE


@pytest.mark.usefixtures("online")
def test_any_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        hub.use_cache_if_silent()
        thread.join()
    assert not constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "0"
