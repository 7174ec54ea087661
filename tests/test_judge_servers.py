"""Judge servers that are busy, slow, hang or die."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hydratune.evaluation.judge import client
from judge_server import KEY, Judge, judge_command, judge_result, judgements, score_reply

Hydratune = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_requests_to_busy_servers_are_retried(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge], status: int
) -> None:
    judge = serve(lambda messages, n: (status, {"Retry-After": "0"}) if n == 1 else score_reply(4))
    code, _ = hydratune(*judge_command(judge, "rows=2", "concurrency=1"))
    assert code == 0 and judge_result(judged_run)["judged"] == 2 and len(judge.requests) == 3


@pytest.mark.parametrize("status", [429, 500])
def test_servers_that_stay_busy_give_no_score(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge], status: int
) -> None:
    judge = serve(lambda messages, n: (status, {"Retry-After": "0"}))
    code, out = hydratune(*judge_command(judge, "retries=0", "concurrency=1"))
    assert code == 1 and "none of 12 rows was judged" in out
    assert {row["score"] for row in judgements(judged_run)} == {None}
    assert len(judge.requests) == 8  # after these the server is considered down
    assert any("the server is away" in row["why"] for row in judgements(judged_run))


def test_slow_and_dead_servers_are_reported(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    slow = serve(lambda messages, n: time.sleep(1) or score_reply(4))
    code, out = hydratune(*judge_command(slow, "rows=2", "timeout=0.2", "retries=0"))
    assert code == 1 and "Timeout" in out
    slow.close()
    code, out = hydratune(*judge_command(slow, "rows=2", "retries=0"))
    assert code == 1 and "Connection" in out
    slow.close = lambda: None  # type: ignore[method-assign]


def test_replies_are_kept_when_the_server_dies(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    dying = serve(lambda messages, n: score_reply(4) if n <= 5 else (500, {}))
    code, _ = hydratune(*judge_command(dying, "retries=0", "concurrency=1"))
    assert code == 0 and judge_result(judged_run)["judged"] == 5
    before = len(dying.requests)
    code, _ = hydratune(*judge_command(dying, "retries=0", "concurrency=1"))
    assert judge_result(judged_run)["judged"] == 5 and len(dying.requests) == before + 7


def test_a_rejected_key_is_reported_and_not_shown(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(lambda messages, n: (401, {}))
    code, out = hydratune(*judge_command(judge))
    assert code == 1 and "refuses" in out and "key_env" in out and KEY not in out


def test_a_server_without_structured_output_is_used_without_it(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(
        lambda messages, n: (400, {}) if "response_format" in judge.requests[-1] else score_reply(5)
    )
    code, _ = hydratune(*judge_command(judge, "concurrency=1"))
    assert code == 0 and judge_result(judged_run)["mean"] == 5 and len(judge.requests) == 13


def test_a_judge_that_hangs_is_abandoned_in_bounded_time_with_a_message(
    hydratune: Hydratune,
    judged_run: Path,
    serve: Callable[..., Judge],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server never replies: one timeout for each concurrent request is enough, whatever
    ``retries`` is, because a request that hung is not sent again.
    """
    monkeypatch.setattr(client, "_SILENCE", 0.3)
    hung = threading.Event()
    judge = serve(lambda messages, n: hung.wait(60) and score_reply(4))
    start = time.monotonic()
    code, out = hydratune(*judge_command(judge, "timeout=1", "retries=4", "concurrency=3"))
    hung.set()
    flat = " ".join(out.split())
    assert code == 1 and time.monotonic() - start < 20 and len(judge.requests) <= 6, out
    assert (
        "each at most 1 s (timeout); all of them at most 3600 s (time_limit)" in flat
        and "judge: no answer for" in flat
    ), out
    assert "none of 12 rows was judged" in flat and "time" in flat
    assert any("the server is away" in row["why"] for row in judgements(judged_run))


def test_replies_before_the_time_limit_count_and_are_kept(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    hung = threading.Event()
    judge = serve(
        lambda messages, n: score_reply(4) if n <= 5 else hung.wait(60) and score_reply(2)
    )
    start = time.monotonic()
    code, out = hydratune(*judge_command(judge, "timeout=50", "time_limit=3", "concurrency=2"))
    hung.set()
    flat = " ".join(out.split())
    assert code == 0 and time.monotonic() - start < 20, out
    assert judge_result(judged_run)["judged"] == 5 and judge_result(judged_run)["mean"] == 4
    assert (
        "7 rows have no judgement and are not counted: not answered: time_limit = 3 s for all"
        " requests is over" in flat
    ), out
    assert "the same command asks only for the others" in flat
    before = len(judge.requests)
    code, out = hydratune(*judge_command(judge, "timeout=50", "time_limit=50", "concurrency=2"))
    assert (
        code == 0
        and judge_result(judged_run)["judged"] == 12
        and judge_result(judged_run)["from_cache"] == 5
        and len(judge.requests) == before + 7
    ), out


def test_a_reply_that_arrives_too_slowly_times_out(hydratune: Hydratune, judged_run: Path) -> None:
    """Single bytes keep the connection alive and every read within its timeout."""
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def trickle(connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:"
                    b" 100000\r\n\r\n"
                )
                while not ended.wait(0.2):
                    connection.sendall(b" ")
            except OSError:
                return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=trickle, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    start = time.monotonic()
    command = (
        "judge",
        "run=run",
        f"base_url=http://127.0.0.1:{server.getsockname()[1]}/v1",
        "judge=scripted",
        "timeout=1",
        "concurrency=2",
    )
    code, out = hydratune(*command)
    ended.set()
    server.close()
    assert (
        code == 1
        and "no answer within 1 s (timeout)" in " ".join(out.split())
        and time.monotonic() - start < 20
    ), out


def test_an_invalid_time_limit_is_refused(hydratune: Hydratune, judged_run: Path) -> None:
    code, out = hydratune("judge", "run=run", "judge=x", "time_limit=0")
    assert code == 2 and "time_limit = 0" in out and "null for no limit" in out


def test_a_late_reply_is_ignored_and_the_others_count(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(lambda messages, n: time.sleep(2.5 if n == 2 else 0) or score_reply(3))
    code, out = hydratune(*judge_command(judge, "timeout=1", "concurrency=2"))
    assert code == 0 and judge_result(judged_run)["judged"] == 11 and len(judge.requests) == 12, out
