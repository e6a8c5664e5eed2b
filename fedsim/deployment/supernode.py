"""Flower's SuperNode, less patient: ``python -m fedsim.deployment.supernode`` takes flower-supernode's options.

Flower 1.41 looks for a message every 3 seconds, and a SuperNode that died counts as online for a minute, in which its
successor is refused. Both are constants in its modules.
"""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

from fedsim.deployment.processes import end_with_parent

POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 10  # Flower's least; twice that after its last heartbeat, a SuperNode counts as offline


class _Clock:
    """The ``time`` module, but nothing sleeps longer than a poll."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not for long."""
        time.sleep(min(seconds, POLL_SECONDS))


def _set(module: ModuleType, name: str, value: Any) -> None:
    """Replace what is there; raises AttributeError if another version of Flower has no such thing."""
    getattr(module, name)
    setattr(module, name, value)


def main() -> None:
    """Run the SuperNode; it ends with the process that started it."""
    from flwr.supercore import heartbeat
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli import flower_supernode

    _set(start_client_internal, "time", _Clock())
    _set(fleet_http_connection, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_SECONDS)
    _set(heartbeat, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_SECONDS)
    end_with_parent()
    flower_supernode()


if __name__ == "__main__":
    main()
