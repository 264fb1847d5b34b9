"""What every command has: the global options after the verb, and examples in its help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_GLOBAL = frozenset({"output", "home", "database_url", "store_url", "context", "debug", "help"})
HELP_NAMES: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class OutputFormat(click.Choice[str]):
    """`human`, `json` or `quiet`; `text` is another word for `human`."""

    def __init__(self) -> None:
        super().__init__(["human", "json", "quiet"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The canonical word."""
        return super().convert("human" if value == "text" else value, param, ctx)


class Verb(click.Command):
    """A command with the global options; `examples` are shell lines for its help."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs["context_settings"] = HELP_NAMES | (kwargs.get("context_settings") or {})
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.extend(global_options())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options first, the global ones in a section of their own."""
        _write_options(self, ctx, formatter)

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, one a line, never wrapped: they are there to be copied."""
        _write_examples(self.examples, formatter)


class Verbs(click.Group):
    """A group of commands (`alias`, `tag`, `base`); its members are `Verb`s."""

    command_class = Verb

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs["context_settings"] = HELP_NAMES | (kwargs.get("context_settings") or {})
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.extend(global_options())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The members, then the options."""
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, one a line."""
        _write_examples(self.examples, formatter)


def global_options() -> list[click.Option]:
    """Fresh options that write what they were given into the invocation; absent ones leave it alone."""
    shared: dict[str, Any] = {"expose_value": False, "is_eager": True, "callback": _remember}
    return [
        click.Option(
            ["--format", "output"], type=OutputFormat(), help="How to print. [env: ADAPTERS_FORMAT]", **shared
        ),
        click.Option(["--home"], metavar="DIR", help="Where the registry is kept. [env: ADAPTERS_HOME]", **shared),
        click.Option(["--database-url"], metavar="URL", help="The catalog. [env: ADAPTERS_DATABASE_URL]", **shared),
        click.Option(["--store-url"], metavar="URL", help="The blob store. [env: ADAPTERS_STORE_URL]", **shared),
        click.Option(["--context"], metavar="NAME", help="One of adapters.toml. [env: ADAPTERS_CONTEXT]", **shared),
        click.Option(["--debug"], is_flag=True, default=None, help="Show the traceback of a failure.", **shared),
    ]


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name is not None:
        setattr(context.obj, parameter.name, value)


def _write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    own: list[tuple[str, str]] = []
    shared: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None and isinstance(parameter, click.Option):
            (shared if parameter.name in _GLOBAL else own).append(record)
    for title, records in (("Options", own), ("Options of every command", shared)):
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


def _write_examples(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    if examples:
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")
