"""What the report says of compression."""

from typing import Any

from fedsim.report import plain


def facts(communication: dict[str, Any]) -> list[tuple[str, str]]:
    """One line where updates were compressed: how, to how much, and whether what was lost was sent later."""
    if communication.get("compression") in (None, "none"):
        return []
    sent, whole = (plain.size(communication.get(key)) for key in ("report_bytes", "uncompressed_bytes"))
    ratio = plain.finite(communication.get("ratio"))
    times = f", {plain.rounded(ratio)} times smaller" if ratio else ""
    later = "; what that loses is added to the client’s next update" if communication.get("error_feedback") else ""
    return [("An update’s compression", f"{communication['compression']}: {sent} instead of {whole}{times}{later}")]
