"""One line of the audit log per acknowledged change, in the transaction that makes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from registry.models import AuditEntry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def note(session: Session, action: str, subject: str, *, actor: str | None, **detail: Any) -> None:
    """Remember that `actor` did `action` to `subject`."""
    body = json.dumps(detail, sort_keys=True, ensure_ascii=False)
    session.add(AuditEntry(action=action, subject=subject[:512], actor=actor, detail=body))
