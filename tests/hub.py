"""A hub on loopback that speaks what huggingface_hub asks of it to download one file."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Server of `files`, contents by (repository, path), each under revision "main" and its commit.

    `requests` collects "METHOD path". A GET may resume. Each takes the first of `faults`, if any: "cut"
    breaks the connection half way, "short" sends half as if it were all, "busy" answers 503.
    """

    def __init__(self, files: dict[tuple[str, str], bytes]) -> None:
        self.files = files
        self.requests: list[str] = []
        self.faults: list[Literal["cut", "short", "busy"]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            repo, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, file = (unquote(part) for part in rest.partition("/"))
            if repo not in {known for known, _ in hub.files}:
                return self._refuse(404, "RepoNotFound")
            if revision not in ("main", COMMIT):
                return self._refuse(404, "RevisionNotFound")
            if (repo, file) not in hub.files:
                return self._refuse(404, "EntryNotFound")
            content = hub.files[repo, file]
            fault = hub.faults.pop(0) if body and hub.faults else None
            if fault == "busy":
                return self._refuse(503, "Busy")
            # A client that resumes asks for "bytes=START-".
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            part = content[start:]
            sent = part[: len(part) // 2] if fault else part
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(part if fault == "cut" else sent)))
            self.end_headers()
            if body:
                self.wfile.write(sent)
            self.close_connection = fault == "cut"
            return None

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
