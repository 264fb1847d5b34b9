"""What one run of the command line was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.cli.shown.output import note
from registry.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.api import Registry


def open_registry(settings: Settings) -> Registry:
    """The registry at these places; imported now, because help and usage errors need none of it."""
    from registry.api import Registry

    return Registry.open(settings=settings)


@dataclass(slots=True)
class Invocation:
    """The global options of one run. Mutable while parsing, because each option fills in its own field."""

    opener: Callable[[Settings], Registry] = open_registry
    output: str | None = None
    home: str | None = None
    database_url: str | None = None
    store_url: str | None = None
    context: str | None = None
    debug: bool = False
    loaded: Settings | None = None

    @property
    def settings(self) -> Settings:
        """Flags, environment, adapters.toml and defaults together; read once."""
        if self.loaded is None:
            self.loaded = load_settings(
                home=self.home,
                database_url=self.database_url,
                store_url=self.store_url,
                output=self.output,
                context=self.context,
            )
            for text in self.loaded.notes:
                note(text, kind="warning")
        return self.loaded

    @property
    def registry(self) -> Registry:
        """The registry this run is about."""
        return self.opener(self.settings)
