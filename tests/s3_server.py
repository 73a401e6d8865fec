"""A small S3 server on this machine, which may fail some calls and be slow with others.

It knows what pyarrow's client sends: buckets by path, objects, multipart uploads, lists and deletions.
Nothing is signed or checked.
"""

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_DATE = "Mon, 01 Jan 2026 00:00:00 GMT"


class S3Server:
    """The server and what it holds.

    Attributes:
        url: Host and port.
        objects: Content by ``BUCKET/KEY``.
        num_calls: Calls until now.
        num_failed: Of them, those that were answered with 503.
    """

    def __init__(self, fail_every: int = 0, slow_every: int = 0, delay_s: float = 0.0):
        """Start the server.

        Args:
            fail_every: Each call of this number is answered with 503; 0: none.
            slow_every: Each call of this number waits; 0: none.
            delay_s: How long it waits.
        """
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.num_calls = 0
        self.num_failed = 0
        self._fail_every = fail_every
        self._slow_every = slow_every
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.store = self  # pyright: ignore[reportAttributeAccessIssue]
        self.url = f"127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._http.server_close()

    def is_failing(self) -> bool:
        """Count a call, wait if it is a slow one, and say whether it fails."""
        with self._lock:
            self.num_calls += 1
            number = self.num_calls
            fails = bool(self._fail_every) and number % self._fail_every == 0
            self.num_failed += fails
        if self._slow_every and number % self._slow_every == 0:
            time.sleep(self._delay_s)
        return fails


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def store(self) -> S3Server:
        return self.server.store  # pyright: ignore[reportAttributeAccessIssue]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        length = headers.pop("length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_xml(self, name: str, content: str, status: int = 200) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="{_NAMESPACE}">{content}</{name}>'
        self.answer(status, text.encode(), Content_Type="application/xml")

    def handle_call(self) -> None:
        body = self.read_body()
        parts = urlsplit(self.path)
        path = unquote(parts.path).strip("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if self.store.is_failing():
            self.answer_xml("Error", "<Code>SlowDown</Code><Message>slow down</Message>", 503)
            return
        getattr(self, f"on_{self.command.lower()}")(path, query, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_call

    def read_body(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            body = b"".join(self.read_chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in (self.headers.get("Content-Encoding") or ""):
            return body
        chunks = []
        while body:
            head, _, rest = body.partition(b"\r\n")
            size = int(head.partition(b";")[0], 16)
            if not size:
                break
            chunks.append(rest[:size])
            body = rest[size + 2 :]
        return b"".join(chunks)

    def read_chunks(self) -> Iterator[bytes]:
        """The chunks of a body whose length is not known beforehand."""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def on_head(self, path: str, query: dict[str, str], body: bytes) -> None:
        found = self.store.objects.get(path)
        if found is None and "/" in path:
            self.answer(404)
            return
        content = found or b""
        self.answer(200, ETag=_tag(content), length=str(len(content)), Last_Modified=_DATE)

    def on_get(self, path: str, query: dict[str, str], body: bytes) -> None:
        if "list-type" in query:
            self.list_objects(path, query)
            return
        content = self.store.objects.get(path)
        if content is None:
            self.answer_xml("Error", "<Code>NoSuchKey</Code><Message>none</Message>", 404)
            return
        if part := self.headers.get("Range"):
            first, _, last = part.removeprefix("bytes=").partition("-")
            end = min(int(last or len(content)), len(content) - 1)
            shown = f"bytes {first}-{end}/{len(content)}"
            self.answer(206, content[int(first) : end + 1], ETag=_tag(content), Content_Range=shown)
            return
        self.answer(200, content, ETag=_tag(content), Last_Modified=_DATE)

    def on_put(self, path: str, query: dict[str, str], body: bytes) -> None:
        if "uploadId" in query:
            self.store.uploads[query["uploadId"]][int(query["partNumber"])] = body
        elif self.headers.get("If-None-Match") == "*" and path in self.store.objects:
            self.answer_xml("Error", "<Code>PreconditionFailed</Code><Message>there</Message>", 412)
            return
        elif "/" in path:
            key = path + ("/" if urlsplit(self.path).path.endswith("/") else "")
            self.store.objects[key] = body
        self.answer(200, ETag=_tag(body))

    def on_post(self, path: str, query: dict[str, str], body: bytes) -> None:
        if "uploads" in query:
            name = uuid.uuid4().hex
            self.store.uploads[name] = {}
            self.answer_xml("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>")
        elif "uploadId" in query:
            # Kept, as a client whose answer was lost completes the upload again.
            parts = self.store.uploads[query["uploadId"]]
            self.store.objects[path] = b"".join(parts[number] for number in sorted(parts))
            self.answer_xml("CompleteMultipartUploadResult", f"<ETag>{_tag(self.store.objects[path])}</ETag>")
        else:
            for key in ElementTree.fromstring(body).iter():
                if key.tag.rpartition("}")[2] == "Key":
                    self.store.objects.pop(f"{path}/{key.text}", None)
            self.answer_xml("DeleteResult", "")

    def on_delete(self, path: str, query: dict[str, str], body: bytes) -> None:
        if "uploadId" not in query:
            self.store.objects.pop(path, None)
            self.store.objects.pop(f"{path}/", None)
        self.answer(204)

    def list_objects(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        found: dict[str, str] = {}
        for path in sorted(self.store.objects):
            owner, _, key = path.partition("/")
            if owner != bucket or not key.startswith(prefix):
                continue
            inner = key[len(prefix) :]
            if delimiter and delimiter in inner:
                folder = prefix + inner.partition(delimiter)[0] + delimiter
                found[folder] = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            else:
                content = self.store.objects[path]
                found[key] = (
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
                    f"<ETag>{_tag(content)}</ETag>"
                    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
        # In pages, so that a client has to ask again.
        most = min(int(query.get("max-keys", 1000)), 3)
        rest = [key for key in found if key > query.get("continuation-token", "")]
        page = rest[:most]
        more = (
            f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(rest) > most else ""
        )
        state = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated><KeyCount>{len(page)}</KeyCount>"
        self.answer_xml("ListBucketResult", state + more + "".join(found[key] for key in page))


def _tag(content: bytes) -> str:
    return f"&quot;{hashlib.md5(content).hexdigest()}&quot;".replace("&quot;", '"')
