"""The catalog's tables, one file per noun, one metadata for SQLite and PostgreSQL."""

from registry.models.adapters import Adapter, Alias, AliasMove
from registry.models.artifacts import Artifact, CheckResult, Recipe
from registry.models.bases import Base, BaseName, BaseTwin
from registry.models.blobs import Blob, Lease, LeaseBlob
from registry.models.history import AuditEntry, CatalogMeta
from registry.models.metadata import Table, metadata
from registry.models.versions import Document, File, LineageEdge, Metric, Tag, Version

__all__ = [
    "Adapter",
    "Alias",
    "AliasMove",
    "Artifact",
    "AuditEntry",
    "Base",
    "BaseName",
    "BaseTwin",
    "Blob",
    "CatalogMeta",
    "CheckResult",
    "Document",
    "File",
    "Lease",
    "LeaseBlob",
    "LineageEdge",
    "Metric",
    "Recipe",
    "Table",
    "Tag",
    "Version",
    "metadata",
]
