"""A scripted judge on a local server, and a run with answers for it to judge."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conftest import write_rows

KEY = "sk-loopback-very-secret-1234567890"


def completion(answer: Any, finish_reason: str) -> dict[str, Any]:
    """Return the body of a chat completion."""
    message = {"role": "assistant", "content": answer}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


class Judge:
    """A server whose replies a script decides.

    ``script(messages, number of the request)`` returns a text, or (status, headers).
    """

    def __init__(self, script: Callable[[list[dict[str, str]], int], Any]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.finish_reason = "stop"
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.requests.append({**body, "key": self.headers["Authorization"]})
                answer = script(body["messages"], len(judge.requests))
                status, headers = (200, {}) if isinstance(answer, str) else answer
                content = completion(answer, judge.finish_reason)
                data = json.dumps(
                    content if status == 200 else {"error": {"message": f"scripted {status}"}}
                ).encode()
                self.send_response(status)
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(data)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                """Ignore clients that gave up, which are part of the tests."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def verdict_reply(value: str) -> str:
    return json.dumps({"feedback": "because", "verdict": value})


def score_reply(value: int) -> str:
    return json.dumps({"feedback": "because", "score": value})


def judge_command(judge: Judge, *more: str) -> list[str]:
    return ["judge", "run=run", f"base_url={judge.url}", "judge=scripted", "retries=1", *more]


def judge_result(judged_run: Path) -> dict[str, Any]:
    return json.loads((judged_run / "judge" / "judge.json").read_text())


def judgements(judged_run: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (judged_run / "judge" / "judgements.jsonl").read_text().splitlines()
    ]


def write_answers(folder: Path) -> Path:
    """Write a run directory with answers of two systems to 12 rows; those of base are longer."""
    folder.mkdir()
    (folder / "config.yaml").write_text("{}")
    for name, text in (
        ("predictions.jsonl", "short {}"),
        ("predictions_base.jsonl", "a much longer answer {} with more words"),
    ):
        prompt = [{"role": "user", "content": "What is asked?"}]
        rows = [
            {
                "id": f"r{n}",
                "group": None,
                "prompt": prompt,
                "prediction": text.format(n),
                "reference": f"right {n}",
            }
            for n in range(12)
        ]
        write_rows(folder / name, rows)
    return folder
