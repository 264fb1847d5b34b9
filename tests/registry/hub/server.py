"""A local server that speaks the part of the Hub's HTTP interface that pushing and pulling need, with faults on request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGE = (".safetensors", ".bin")
TOKEN = "hf_canaryTokenThatMustNeverBeShown"


def git_sha1(content: bytes) -> str:
    """What `git hash-object` prints."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repo:
    """A model repo: `commits` hold all files by path, `refs` name commits."""

    name: str
    private: bool = False
    gated: bool = False
    tags: list[str] = field(default_factory=lambda: ["peft"])
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A commit with exactly these files."""
        text = f"{self.name}{self.refs.get(branch)}{sorted((path, sha256(data)) for path, data in files.items())}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.refs[branch] = oid
        return oid

    def at(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    @property
    def head(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


@dataclass
class Fault:
    """What happens instead of an answer, the next `times` times that a request's line matches `pattern`."""

    pattern: str
    action: Callable[[Handler], None]
    times: int = 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def do_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), parse_qs(parts.query)
        line = f"{self.command} {self.route}"
        with self.server.lock:
            self.server.seen.append((line, self.headers.get("Authorization")))
            fault = next((one for one in self.server.faults if one.times and re.search(one.pattern, line)), None)
            if fault:
                fault.times -= 1
        if fault:
            fault.action(self)
            return
        for method, pattern, work in ROUTES:
            match = re.fullmatch(pattern, parts.path)
            if method == self.command.replace("HEAD", "GET") and match:
                work(self, *(unquote(group or "") for group in match.groups()))
                return
        self.fail(404, "not found")

    do_GET = do_HEAD = do_POST = do_PUT = do_any  # noqa: N815 (http.server looks these names up)

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def say(self, document: Any, headers: dict[str, str] | None = None) -> None:
        self.answer(200, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})})

    def fail(self, status: int, message: str, code: str = "", **headers: str) -> None:
        known = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}
        self.answer(status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json", **known})

    def user(self) -> str | None:
        """Who asks; None for nobody. Answers 401 for a token that is not known."""
        given = self.headers.get("Authorization")
        return None if given is None else self.server.tokens.get(given.removeprefix("Bearer "), "?")

    def repo(self, name: str) -> Repo | None:
        """The repo if it may be seen; else the refusal is sent."""
        found, user = self.server.repos.get(name), self.user()
        if user == "?":
            self.fail(401, "Invalid credentials in Authorization header")
        elif found is None or (found.private and user != name.split("/", maxsplit=1)[0]):
            self.fail(401 if user is None else 404, "Repository not found", "RepoNotFound")
        else:
            return found
        return None

    def at(self, repo: Repo, revision: str) -> str | None:
        found = repo.at(revision)
        if found is None:
            self.fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found


def info(handler: Handler, name: str, revision: str) -> None:
    repo = handler.repo(name)
    if repo and (commit := handler.at(repo, revision or "main")):
        handler.say({**described(repo), "sha": commit})


def described(repo: Repo) -> dict[str, Any]:
    return {
        "id": repo.name,
        "modelId": repo.name,
        "sha": repo.refs["main"],
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "tags": repo.tags,
        "siblings": [{"rfilename": path} for path in sorted(repo.head)],
    }


def models(handler: Handler) -> None:
    owner = handler.query["author"][0]
    start, size = int(handler.query.get("cursor", ["0"])[0]), handler.server.page
    seen = [
        described(repo)
        for name, repo in sorted(handler.server.repos.items())
        if name.startswith(f"{owner}/") and (not repo.private or handler.user() == owner)
    ]
    more = f'<{handler.server.url}/api/models?author={owner}&cursor={start + size}>; rel="next"'
    handler.say(seen[start : start + size], {"Link": more} if start + size < len(seen) else {})


def tree(handler: Handler, name: str, revision: str, folder: str) -> None:
    repo = handler.repo(name)
    if not repo or not (commit := handler.at(repo, revision)):
        return
    files = {
        path: data for path, data in repo.commits[commit].items() if path.startswith(f"{folder}/" if folder else "")
    }
    if folder and not files:
        handler.fail(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        return
    listed = [entry(path, data) for path, data in sorted(files.items())]
    folders = {path.rpartition("/")[0] for path in files} - {""}
    listed += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in sorted(folders)]
    start, size = int(handler.query.get("cursor", ["0"])[0]), handler.server.page
    more = f'<{handler.server.url}{urlsplit(handler.path).path}?recursive=true&cursor={start + size}>; rel="next"'
    handler.say(listed[start : start + size], {"Link": more} if start + size < len(listed) else {})


def entry(path: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "oid": git_sha1(data), "size": len(data), "path": path}
    if path.endswith(LARGE):
        found["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return found


def resolve(handler: Handler, name: str, revision: str, path: str) -> None:
    repo = handler.repo(name)
    if not repo or not (commit := handler.at(repo, revision)):
        return
    if repo.gated and handler.user() is None:
        handler.fail(401, "Access to this model is restricted", "GatedRepo")
        return
    data = repo.commits[commit].get(path)
    if data is None:
        handler.fail(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit})
    elif path.endswith(LARGE):
        linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit}
        handler.answer(302, b"", {**linked, "Location": f"{handler.server.cdn}/cdn/{sha256(data)}?signature=s3cr3t"})
    else:
        handler.answer(200, data, {"ETag": f'"{git_sha1(data)}"', "X-Repo-Commit": commit})


def cdn(handler: Handler, oid: str) -> None:
    stored = [
        data for repo in handler.server.repos.values() for files in repo.commits.values() for data in files.values()
    ]
    data = next(one for one in stored if sha256(one) == oid)
    span = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
    if span:
        start = int(span[1])
        handler.answer(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
    else:
        handler.answer(200, data, {"ETag": f'"{oid}"'})


def create(handler: Handler) -> None:
    asked = json.loads(handler.body)
    name, user = f"{asked['organization']}/{asked['name']}", handler.user()
    if user in (None, "?"):
        handler.fail(401, "Invalid credentials in Authorization header")
    elif user != asked["organization"]:
        handler.fail(403, f"You don't have the rights to create a model under the namespace {asked['organization']}")
    elif name in handler.server.repos:
        handler.fail(409, "You already created this model repo")
    else:
        repo = handler.server.repos[name] = Repo(name, private=asked.get("visibility") == "private")
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        handler.say({"url": f"{handler.server.url}/{name}", "name": name})


def check_yaml(handler: Handler) -> None:
    handler.say({"errors": [], "warnings": []})


def preupload(handler: Handler, name: str, revision: str) -> None:
    repo = handler.repo(name)
    if repo and (commit := handler.at(repo, revision)):
        now = repo.commits[commit]
        asked = [one["path"] for one in json.loads(handler.body)["files"]]
        files = [
            {
                "path": path,
                "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": (sha256 if path.endswith(LARGE) else git_sha1)(now[path]) if path in now else None,
            }
            for path in asked
        ]
        handler.say({"files": files})


def batch(handler: Handler, _name: str) -> None:
    if handler.user() in (None, "?"):
        handler.fail(401, "Invalid credentials in Authorization header")
        return
    objects = [
        {**one, "actions": {"upload": {"href": f"{handler.server.url}/lfs/{one['oid']}?signature=s3cr3t"}}}
        for one in json.loads(handler.body)["objects"]
    ]
    body = json.dumps({"transfer": "basic", "objects": objects}).encode()
    handler.answer(200, body, {"Content-Type": "application/vnd.git-lfs+json"})


def upload(handler: Handler, oid: str) -> None:
    if sha256(handler.body) == oid:
        handler.server.uploads[oid] = handler.body
        handler.answer(200)
    else:
        handler.fail(400, "BadDigest")


def commit(handler: Handler, name: str, revision: str) -> None:
    repo = handler.repo(name)
    if not repo:
        return
    if handler.user() != name.split("/", maxsplit=1)[0]:
        handler.fail(403, "You don't have write access")
        return
    lines = [json.loads(line) for line in handler.body.splitlines()]
    header, operations = lines[0]["value"], lines[1:]
    if header.get("parentCommit", repo.refs.get(revision)) != repo.refs.get(revision):
        handler.fail(412, "A commit has happened since. Please refresh and try again.")
        return
    files = dict(repo.commits[repo.refs[revision]])
    for one in operations:
        value = one["value"]
        if one["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif one["key"] == "lfsFile":
            files[value["path"]] = handler.server.uploads[value["oid"]]
        elif one["key"] == "deletedFile":
            del files[value["path"]]
    handler.server.messages.append(header["summary"])
    handler.server.bodies.append(handler.body)
    oid = repo.commit(files, revision)
    handler.say({"commitUrl": f"{handler.server.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})


NAME = r"([^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/models", models),
    ("GET", rf"/api/models/{NAME}(?:/revision/([^/]+))?", info),
    ("GET", rf"/api/models/{NAME}/tree/([^/]+)(?:/(.+))?", tree),
    ("GET", rf"/{NAME}/resolve/([^/]+)/(.+)", resolve),
    ("GET", r"/cdn/([0-9a-f]{64})", cdn),
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", check_yaml),
    ("POST", rf"/api/models/{NAME}/preupload/([^/]+)", preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", batch),
    ("PUT", r"/lfs/([0-9a-f]{64})", upload),
    ("POST", rf"/api/models/{NAME}/commit/([^/]+)", commit),
]


class Hub(ThreadingHTTPServer):
    """The server. `seen` is every request with the Authorization it carried; `page` is how much one answer lists."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.repos: dict[str, Repo] = {}
        self.tokens = {TOKEN: "team"}
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str | None]] = []
        self.uploads: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.bodies: list[bytes] = []
        self.page = 1000
        self.release = threading.Event()
        # Another host by name: the library follows redirects within a host, and the Hub's lead to another one.
        self.cdn = self.url.replace("127.0.0.1", "localhost")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, files: dict[str, bytes], **facts: Any) -> Repo:
        """A repo with one commit on main."""
        repo = self.repos[name] = Repo(name, **facts)
        repo.commit(files)
        return repo

    def fault(self, pattern: str, action: Callable[[Handler], None], *, times: int = 1) -> None:
        self.faults.append(Fault(pattern, action, times))

    def asked(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(bool(re.search(pattern, line)) for line, _ in self.seen)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running server."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
