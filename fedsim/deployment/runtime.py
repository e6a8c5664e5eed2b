"""Clients of Flower's Runtime API: to ask for work with a secret, or to do it with a task's token."""

from __future__ import annotations

from typing import Any

ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


def runtime_client(address: str, certificate: bytes | None, secret: bytes, token: str | None) -> Any:
    """A client of the Runtime API at ``address``, by TLS where there is a ``certificate``; without a token it asks."""
    from flwr.supercore.interceptors import (
        RuntimeTokenHttpInterceptor,
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )
    from flwr.supercore.runtime import RuntimeHttpClient

    if token is None:
        who, proof = "SuperExec", SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=ACQUIRE)
    else:
        who, proof = "fedsim", RuntimeTokenHttpInterceptor(token)
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=certificate is None,
        root_certificates=certificate,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=who), proof],
    )
