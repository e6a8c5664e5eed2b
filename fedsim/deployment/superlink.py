"""Flower's SuperLink, with a gate: ``python -m fedsim.deployment.superlink`` takes the options of flower-superlink.

Flower 1.41 answers three APIs on one port: Fleet (for SuperNodes), Control and Runtime (starting runs, registering
SuperNodes, being the server of a run). In the open-source SuperLink only Fleet asks who is calling. Behind this gate
the other two, and everything else, answer only callers on the same machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

from fedsim.deployment.processes import end_with_parent

FLEET = "/v1/fleet/"
Handler = Callable[[Any, Any, Any], Awaitable[None]]


class Gate:
    """ASGI middleware: from other machines, only the Fleet API exists."""

    def __init__(self, app: Handler) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "lifespan" or allowed(scope.get("path", ""), scope.get("client")):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})


def allowed(path: str, client: tuple[str, int] | None) -> bool:
    """Whether a caller at this address may ask for this path."""
    return path.startswith(FLEET) or (client is not None and _is_here(client[0]))


def _is_here(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def main() -> None:
    """Run the SuperLink with the gate outermost; it ends with the process that started it."""
    import uvicorn
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink
    from starlette.middleware import Middleware

    plain = extensions.get_middleware
    extensions.get_middleware = lambda: (Middleware(Gate), *plain())
    serve = uvicorn.run

    # Behind no proxy, a header that names another caller is a lie; a line for every poll would fill the disk.
    def run(*args: Any, **options: Any) -> None:
        serve(*args, **options | {"proxy_headers": False, "access_log": False})

    uvicorn.run = run
    end_with_parent()
    flower_superlink()


if __name__ == "__main__":
    main()
