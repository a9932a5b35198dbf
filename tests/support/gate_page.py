"""The gate's page on a real socket, with the deploys that a test gives it."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backupd.gate.model import Deploy
from backupd.gate.page import page_response
from backupd.web.localizer import choose_language
from backupd.web.server import HttpServer
from support.gate_states import NOTES, NOW, OUTPUT, TASKS, ZONE


@contextmanager
def serving_gate_page(deploys: tuple[Deploy, ...], output: str = OUTPUT) -> Iterator[str]:
    """Serve the page on two gates, one of which has no deploy; yield its address."""

    async def answer(request: Request) -> Response:
        language = choose_language(request.headers.get("accept-language", ""))
        outputs = {deploy.id: output for deploy in deploys}
        page = page_response((TASKS, NOTES), deploys, language, NOW, ZONE, outputs=outputs)
        return Response(page.body, page.status, {**page.headers, "Content-Type": page.media_type})

    errors = list[str]()
    server = HttpServer("127.0.0.1:0", Starlette(routes=[Route("/", answer)]), errors.append)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.port}/"
    finally:
        server.stop()
    assert errors == []
