"""A server on this machine whose answers are as bad as those of the world."""

import hashlib
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 8192 + b"the end"  # two chunks and a bit
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PAGE = b"<!DOCTYPE html><html><body>Please log in.</body></html>"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        """Answer by the first folder of the path; `begin` is where the client wants to begin."""
        self.server.requests.append(self.path)
        wanted = re.fullmatch("bytes=([0-9]+)-", self.headers.get("Range", "bytes=0-"))
        self.wanted = int(wanted[1])
        self.server.ranges.append(self.wanted)
        getattr(self, f"answer_{self.path.strip('/').split('/')[0]}")()

    @property
    def file(self):
        """The content at the path below the first folder."""
        return self.server.files.get(self.path.strip("/").partition("/")[2], CONTENT)

    def send(self, content, begin=0, **headers):
        """Send a file from a byte on, by 206 if that is not the first."""
        if begin:
            headers["Content_Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self.begin(206 if begin else 200, Content_Length=len(content) - begin, **headers)
        self.wfile.write(content[begin:])

    def answer_ranged(self):
        """The whole file, or from where the client wants it."""
        if self.wanted >= len(self.file):
            self.send_error(416)
        else:
            self.send(self.file, self.wanted)

    def answer_halves(self):
        """Half of what is left; then the connection breaks."""
        content, begin = self.file, self.wanted
        half = (begin + len(content)) // 2
        headers = {"Content_Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
        self.begin(206 if begin else 200, Content_Length=len(content) - begin, **headers)
        self.wfile.write(content[begin:half])

    def answer_whole(self):
        """A server that knows no ranges."""
        self.send(self.file)

    def answer_elsewhere(self):
        """Another part than the one asked for."""
        self.send(self.file, 7 if self.wanted else 0)

    def answer_stalled(self):
        """The first chunk at once, and the rest not before the test is over."""
        self.begin(Content_Length=len(self.file))
        self.wfile.write(self.file[: 2**20])
        self.wfile.flush()
        self.server.over.wait(60)

    def answer_page(self):
        self.send(PAGE, Content_Type="text/html")

    def begin(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def answer_good(self):
        self.begin(Content_Length=len(CONTENT))
        self.wfile.write(CONTENT)

    def answer_lengthless(self):
        self.begin()
        self.wfile.write(CONTENT)

    def answer_redirected(self):
        self.begin(302, Location="/good", Content_Length=0)

    def answer_outside(self):
        self.begin(302, Location="ftp://127.0.0.1/file", Content_Length=0)

    def answer_local(self):
        self.begin(302, Location="file:///etc/hostname", Content_Length=0)

    def answer_bracket(self):
        self.begin(302, Location="http://[::1/file", Content_Length=0)

    def answer_port(self):
        self.begin(302, Location="http://127.0.0.1:port/file", Content_Length=0)

    def answer_accent(self):
        self.begin(302, Location="http://caf\xe9.invalid/\xb2", Content_Length=0)

    def answer_label(self):
        self.begin(302, Location=f"http://{'a' * 70}.invalid/", Content_Length=0)

    def answer_power(self):
        self.begin(Content_Length="\xb2")
        self.wfile.write(CONTENT)

    def answer_lost(self):
        self.send_error(404)

    def answer_broken(self):
        self.send_error(500)

    def answer_other(self):
        self.begin(Content_Length=5)
        self.wfile.write(b"other")

    def answer_truncated(self):
        self.begin(Content_Length=len(CONTENT))
        self.wfile.write(CONTENT[:-1])

    def answer_chunked(self):
        self.begin(Transfer_Encoding="chunked")
        self.wfile.write(b"ff\r\nonly these")

    def answer_slow(self):
        self.begin(Content_Length=len(CONTENT))
        self.wfile.flush()
        time.sleep(0.6)

    def log_message(self, *arguments):
        del arguments


class Server(ThreadingHTTPServer):
    """One that is silent about clients who hang up."""

    def handle_error(self, *arguments):
        del arguments


@contextmanager
def serving():
    """A running server; `requests` are the paths that were asked for, `ranges` the first bytes."""
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requests, running.ranges, running.files = [], [], {}
        running.over = threading.Event()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.over.set()
            running.shutdown()
            thread.join()


def address(server, path):
    return f"http://127.0.0.1:{server.server_port}/{path}"
