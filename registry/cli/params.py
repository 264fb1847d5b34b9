"""Text of the command line becomes values; a malformed one is a usage error that names what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from registry.cli.shown.output import note
from registry.values.refs import is_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

_T = TypeVar("_T")
_F = TypeVar("_F", bound="Callable[..., Any] | click.Command")


class Word(click.ParamType[str]):
    """Text for which TAB offers what its metavar stands for (registry/cli/words.py)."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The words that begin like this."""
        from registry.cli.words import suggest

        metavar = param.metavar or (param.name or "").upper()
        return suggest(ctx, metavar.strip("[].") if metavar.endswith(".") else metavar, incomplete)


class Reference(Word):
    """A name, reference or alias, or a path. Upper case is folded further in; here a person is told."""

    name = "ref"

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> str:
        """The text as it is."""
        text = str(value)
        if not is_path(text) and text != text.lower():
            note(f"upper case is folded: {text} means {text.lower()}")
        return text


class FilledPath(Word):
    """A path that is not empty: an unset shell variable must not mean the current folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is."""
        if not str(value):
            self.fail("expected a path, found an empty text", param, ctx)
        return str(value)


class KeyValue(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE` as a pair; the value may be empty and may hold further `=`."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The pair."""
        if isinstance(value, tuple):
            return value
        key, separator, text = value.partition("=")
        if not separator or not key:
            self.fail(f"{value!r}: expected KEY=VALUE", param, ctx)
        return key, text


class NameNumber(click.ParamType[tuple[str, float]]):
    """`NAME=NUMBER` as a pair of text and float."""

    name = "name=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """The pair."""
        if isinstance(value, tuple):
            return value
        name, separator, text = value.partition("=")
        try:
            found = float(text)
        except ValueError:
            found = None
        if not name or not separator or found is None:
            self.fail(f"{value!r}: expected NAME=NUMBER", param, ctx)
        return name, found


class Weights(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers of any sign: `0.7,-0.3`."""

    name = "w,w"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: expected numbers separated by commas, such as 0.7,0.3", param, ctx)


class Rank(click.ParamType[int | Literal["max"]]):
    """A positive integer, or `max`."""

    name = "rank"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["max"]:
        """The rank."""
        if value == "max":
            return "max"
        text = str(value)
        if not (text.isascii() and text.isdigit() and int(text[:9]) > 0 and len(text) < 10):
            self.fail(f"{value!r}: expected a whole number from 1, or max", param, ctx)
        return int(text)


def once(_ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, _T], ...]) -> dict[str, _T]:
    """Callback: pairs become a mapping; a key given twice is a usage error, for nobody can mean both."""
    found = dict(value)
    if len(found) < len(value):
        keys = [key for key, _ in value]
        raise click.BadParameter(f"{next(key for key in keys if keys.count(key) > 1)!r} is given twice", param=param)
    return found


def pairs_option(*names: str, kind: click.ParamType[Any], metavar: str, text: str) -> Callable[[_F], _F]:
    """An option that may be given again and again, once for each key."""
    return click.option(*names, multiple=True, type=kind, callback=once, metavar=metavar, help=f"{text} Repeatable.")


tag_option = pairs_option("--tag", "tags", kind=KeyValue(), metavar="KEY=VALUE", text="Label the version.")
metric_option = pairs_option("--metric", "metrics", kind=NameNumber(), metavar="NAME=NUMBER", text="A measurement.")
alias_option = click.option(
    "--alias",
    "aliases",
    multiple=True,
    type=Reference(),
    metavar="ALIAS",
    help="Point this alias at the version. Repeatable.",
)
licence_option = click.option("--licence", "--license", metavar="ID", help="Such as apache-2.0.")
commit_option = click.option("--git-commit", metavar="SHA", help="The commit that made it.")
run_option = click.option("--run-id", metavar="ID", help="The run that made it, in W&B, MLflow, CI, ...")
data_option = click.option("--data-digest", metavar="D", help="What names the training data exactly.")
allow_option = click.option(
    "--allow", multiple=True, type=Word(), metavar="RULE", help="Publish although this rule says error. Repeatable."
)
