"""Stands for the owners in the demo: takes the controller's signed notices and keeps them, until SIGTERM.

`python -m bench.demo_inbox --secret FILE --address FILE --to FILE`
"""

from __future__ import annotations

import argparse
import http.server
import json
import time
from pathlib import Path

from reports.deliver.webhook import verify

_MAX_BODY_BYTES = 1 << 20


def make_handler(secret: str, to: Path) -> type[http.server.BaseHTTPRequestHandler]:
    """Answers 204 to what is signed with `secret`, and appends it to `to` as one line."""

    class Inbox(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            body = self.rfile.read(int(length)) if length.isdigit() and int(length) <= _MAX_BODY_BYTES else b""
            if not verify(secret, dict(self.headers), body, time.time()):
                self.send_error(401)
                return
            with to.open("a", encoding="utf-8") as file:
                file.write(json.dumps(json.loads(body)) + "\n")
            self.send_response(204)
            self.end_headers()

    return Inbox


def main() -> None:
    """Writes where it listens into `--address` once it does."""
    parser = argparse.ArgumentParser(prog="python -m bench.demo_inbox", description=__doc__)
    for name in ("--secret", "--address", "--to"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    secret = options.secret.read_text(encoding="utf-8").strip()
    with http.server.HTTPServer(("127.0.0.1", 0), make_handler(secret, options.to)) as server:
        host, port = server.server_address[:2]
        options.address.write_text(f"{host!s}:{port}\n", encoding="utf-8")
        server.serve_forever()


if __name__ == "__main__":
    main()
