"""A store in memory that speaks the few S3 calls of the benchmark: moto takes longer over a part than a transfer.

It checks no signature and keeps everything in memory; ETags are MD5s, as S3's are. Like S3 it refuses a body that has
not the sha256 which its request tells: obstore's puts sign one, a large push sends one as its checksum.
"""

import base64
import hashlib
import re
import socket
import sys
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

OBJECTS = {}
PARTS = {}
SUMS = {}
COMPOSITES = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rbufsize = 1 << 20

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_PUT(self):
        key, query = self.place()
        content = self.body()
        found = self.told() and hashlib.sha256(content).digest()
        if found and self.told() != {found}:
            return self.answer(400, b"<Error><Code>BadDigest</Code></Error>")
        if "partNumber" in query:
            PARTS[query["uploadId"], int(query["partNumber"])] = content, md5(content), found
            return self.answer(200, e_tag=PARTS[query["uploadId"], int(query["partNumber"])][1].hex())
        if self.headers.get("if-none-match") == "*" and key in OBJECTS:
            return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        OBJECTS[key], SUMS[key] = content, md5(content).hex()
        return self.answer(200, e_tag=SUMS[key])

    def do_POST(self):
        key, query = self.place()
        content = self.body()
        if "delete" in query:
            gone = re.findall(rb"<Key>([^<]+)</Key>", content)
            for name in gone:
                OBJECTS.pop(f"{key}/{name.decode()}", None)
            told = b"".join(b"<Deleted><Key>%b</Key></Deleted>" % name for name in gone)
            return self.answer(200, b"<DeleteResult>%b</DeleteResult>" % told)
        if "uploads" in query:
            upload = f"u{len(PARTS)}-{len(OBJECTS)}-{threading.get_ident()}"
            return self.answer(
                200,
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        parts = [PARTS.pop(name) for name in sorted(name for name in PARTS if name[0] == query["uploadId"])]
        OBJECTS[key] = b"".join(part for part, _, _ in parts)
        SUMS[key] = f"{md5(b''.join(known for _, known, _ in parts)).hex()}-{len(parts)}"
        if all(found for _, _, found in parts):
            whole = base64.b64encode(hashlib.sha256(b"".join(found for _, _, found in parts)).digest())
            COMPOSITES[key] = f"{whole.decode()}-{len(parts)}"
        return self.answer(
            200, f'<CompleteMultipartUploadResult><ETag>"{SUMS[key]}"</ETag></CompleteMultipartUploadResult>'.encode()
        )

    def do_DELETE(self):
        key, query = self.place()
        if "uploadId" in query:
            for name in [name for name in PARTS if name[0] == query["uploadId"]]:
                PARTS.pop(name)
        else:
            OBJECTS.pop(key, None)
        self.answer(204)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        key, _ = self.place()
        if key not in OBJECTS:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        content, extra, status = memoryview(OBJECTS[key]), {}, 200
        if self.headers.get("x-amz-checksum-mode") and key in COMPOSITES:
            extra = {"x-amz-checksum-sha256": COMPOSITES[key]}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", "")):
            start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(content))
            extra, status = {"content-range": f"bytes {start}-{end - 1}/{len(content)}"}, 206
            content = content[start:end]
        return self.answer(status, content, e_tag=SUMS[key], **extra)

    def place(self):
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return unquote(parts.path), query

    def told(self):
        """The sha256 of the body, as the request tells it."""
        signed, checksum = self.headers.get("x-amz-content-sha256", ""), self.headers.get("x-amz-checksum-sha256")
        sums = {bytes.fromhex(signed)} if len(signed) == 64 else set()
        return sums | ({base64.b64decode(checksum)} if checksum else set())

    def body(self):
        content = bytearray(int(self.headers.get("content-length") or 0))
        view = memoryview(content)
        while view and (count := self.rfile.readinto(view)):
            view = view[count:]
        return bytes(content)

    def answer(self, status, content=b"", *, e_tag=None, **headers):
        self.send_response_only(status)
        self.send_header("content-length", str(len(content)))
        self.send_header("last-modified", formatdate(usegmt=True))
        if e_tag:
            self.send_header("etag", f'"{e_tag}"')
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *words):
        pass


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).digest()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
