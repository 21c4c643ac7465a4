"""An admin door that says what a test tells it to, over a real socket."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aggregator.node_proof import Question, Said, answer_text, fits, hash_body, parse_proof, proof_key

TOKEN = "0123456789abcdef"


def token_file(folder: Path, text: str = TOKEN) -> Path:
    """A file that only its owner may read, with a token in it."""
    path = folder / "admin.token"
    path.touch(mode=0o600)
    path.write_text(f"{text}\n", encoding="utf-8")
    return path


@dataclass
class Door:
    """Answers in the order of `answers`, the last for ever; `asked` has the targets and tokens that came.

    `whom` has what questions with a proof say whom they are for. They are answered with one, made with `token`,
    unless `proves` is not set. `length` lies about the length of the bodies. While `held` is not set, nothing is
    answered. `deleted` has the targets that were to be deleted, with what they had to match. `proved_instead`: what
    the proof of an answer says of it that is not so.
    """

    answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    deleted: list[tuple[str, str]] = field(default_factory=list)
    etag: str | None = None
    length: int | None = None
    whom: list[str] = field(default_factory=list)
    proves: bool = True
    token: str = TOKEN
    proved_instead: dict[str, Any] = field(default_factory=dict)
    held: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def say(self, status: int, document: object) -> None:
        """Adds an answer in JSON."""
        self.answers.append((status, json.dumps(document).encode()))


@contextmanager
def open_door(tls: ssl.SSLContext | None = None) -> Iterator[Door]:
    """A door on a free port of loopback, closed at the end."""
    door = Door()
    door.held.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            door.asked.append((self.path, self.headers.get("Authorization", "")))
            door.held.wait()
            status, body = door.answers[0] if len(door.answers) == 1 else door.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if door.length is None else door.length))
            if door.etag is not None:
                self.send_header("ETag", door.etag)
            if proof := self.headers.get("Authorization", "").partition("Fallow-Proof ")[2]:
                self.prove(proof, Said(status, door.etag or "", hash_body(body)))
            # A client that has had enough, or waited long enough, is gone by now.
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(body)

        def prove(self, proof: str, said: Said) -> None:
            door.whom.append(self.headers["Fallow-Node"])
            node, _, url = door.whom[-1].partition(" ")
            if_match = self.headers.get("If-Match", "")
            asked, found = Question(node, url, self.command, self.path, if_match), parse_proof(proof)
            assert found is not None
            key = proof_key(door.token)
            assert fits(key, asked, found)
            if door.proves:
                self.send_header("Fallow-Proof", answer_text(key, found, said._replace(**door.proved_instead)))

        def do_DELETE(self) -> None:
            door.deleted.append((self.path, self.headers.get("If-Match", "")))
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    door.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield door
    finally:
        door.held.set()
        server.shutdown()
        thread.join()
        server.server_close()
