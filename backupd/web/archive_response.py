"""The archive of a generation, sent as fast as the client reads it: the event loop never waits for the disk."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import BinaryIO, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backupd.model import AnyManifest, archive_name
from backupd.system.in_thread import in_thread
from backupd.web.connection import extend_lifetime

# Opens the archive of a verified generation. Raises GenerationMissing, CopyCorrupt, ManifestInvalid, OSError.
OpenArchive = Callable[[str], tuple[AnyManifest, BinaryIO]]
# A client that reads less than a part in this time, 64 KiB a second, loses its connection; so does one that waits for
# the disk.
PART_S = 30.0
PART_BYTES: Final = 30 * (64 << 10)


async def open_response(generation: str, open_archive: OpenArchive, release: Callable[[], None]) -> "ArchiveResponse":
    """Return the response with an archive; `release` is called when nothing uses it any more, also after an error.

    Raises what `open_archive` does.
    """

    def end(opened: Future[tuple[AnyManifest, BinaryIO]]) -> None:
        if not opened.exception():
            opened.result()[1].close()
        release()

    try:
        opening = in_thread(partial(open_archive, generation))
    except BaseException:
        release()
        raise
    try:
        manifest, stream = await asyncio.wrap_future(opening)
    except BaseException:
        opening.add_done_callback(end)
        raise
    return ArchiveResponse(manifest, stream, release)


class ArchiveResponse(Response):
    """Sends the archive of `manifest` from `stream`, closes that, and calls `release` when nothing uses it any more.

    The file is held open: a generation that is pruned meanwhile is sent to its end.
    """

    def __init__(self, manifest: AnyManifest, stream: BinaryIO, release: Callable[[], None]) -> None:
        digest = b64encode(bytes.fromhex(manifest.archive.sha256)).decode()
        headers = {
            "Content-Type": "application/gzip",
            "Content-Length": str(manifest.archive.size_bytes),
            "Content-Disposition": f'attachment; filename="{archive_name(manifest.id, manifest.kind)}"',
            "ETag": f'"{manifest.archive.sha256}"',
            "Repr-Digest": f"sha-256=:{digest}:",  # RFC 9530
        }
        super().__init__(headers=headers)
        self._left_bytes = manifest.archive.size_bytes
        self._stream, self._release = stream, release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it, part by part."""
        reading: Future[bytes] = Future()
        reading.set_result(b"")
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = 0 if scope["method"] == "HEAD" else self._left_bytes
            while left:
                extend_lifetime(scope, PART_S)
                reading = in_thread(partial(self._stream.read, min(PART_BYTES, left)))
                part = await asyncio.wrap_future(reading)
                left -= len(part)
                if not part:
                    raise OSError("the archive ends too soon")
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:  # a read that hangs keeps its file, and its place among the downloads
            reading.add_done_callback(lambda _: self._close())

    def _close(self) -> None:
        self._stream.close()
        self._release()
