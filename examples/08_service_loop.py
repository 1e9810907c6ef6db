"""Serve a model over HTTP: `python examples/08_service_loop.py PORT`, to be asked with
`curl --data-binary @photo.jpg http://localhost:PORT/`.  Requests that come together share a run.
SIGINT and SIGTERM end it after those it has begun.  Without a port it asks itself eight times.
"""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import urlopen

from hp_sdk import HpError, InputError, Parser, QueueFull
from hp_sdk.files import write_bytes

LIMIT_BYTES, STATUS = 32 * 2**20, {InputError: 400, QueueFull: 503}


class Handler(BaseHTTPRequestHandler):
    timeout = 30  # seconds a client may be silent

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        try:
            if not length.isdecimal() or int(length) > LIMIT_BYTES:
                raise InputError(f"send a photo of at most {LIMIT_BYTES} bytes")
            result = queue.submit(self.rfile.read(int(length)), timeout_s=1).result()
        except HpError as exc:
            return self.send_error(STATUS.get(type(exc), 500), explain=str(exc))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(result.to_json().encode())
        return None


def ask_eight_times(url: str) -> None:
    photos = [Path(__file__).with_name("astronaut.jpg").read_bytes()] * 8
    with ThreadPoolExecutor(8) as clients:
        answers = [each.read() for each in clients.map(urlopen, [url] * 8, photos)]
    out = write_bytes(Path("out/08_service_loop/answers.json"), b"[%s]" % b",".join(answers))
    print(f"{len(answers)} requests at once are answered; the answers are in {out}")


with (
    Parser.load("cihp") as parser,
    parser.queue(max_batch=4, max_wait_ms=20) as queue,
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 0), Handler) as server,
):
    server.daemon_threads = False  # closing waits for the requests under way
    serving = Thread(target=server.serve_forever)
    serving.start()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: server.shutdown())
    print(url := f"http://127.0.0.1:{server.server_port}/", flush=True)
    try:
        serving.join() if sys.argv[1:] else ask_eight_times(url)
    finally:
        server.shutdown()
