"""Adapters and a base become files that stand alone."""

from engine.materialize.merged import materialize
from engine.materialize.report import Materialized
from engine.materialize.request import Request, Source

__all__ = ["Materialized", "Request", "Source", "materialize"]
