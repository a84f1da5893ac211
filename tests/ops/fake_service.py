"""A stand-in service: `fake_service.py DATA_DIR PORT NAME [stubborn]`, standard library only.

It answers every GET with 200. On SIGTERM it writes its name to DATA_DIR/ended and ends, unless it
is stubborn.
"""

from __future__ import annotations

import http.server
import signal
import sys
import threading
from pathlib import Path


class Answer(http.server.BaseHTTPRequestHandler):
    """200 to everything, and nothing in the log."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(data_dir: Path, port: int, name: str, *, ends: bool) -> None:
    """Serve until SIGTERM."""
    # Waited for, not handled: a handler that sets an event can run while `wait` holds its lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.sigwait({signal.SIGTERM})
    while not ends:
        signal.sigwait({signal.SIGTERM})
    with (data_dir / "ended").open("a") as file:
        file.write(f"{name}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], ends="stubborn" not in sys.argv)
