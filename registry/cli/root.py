"""The table of verbs, and the group that imports a verb's file when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from registry.cli.command import HELP_NAMES, Verbs

# verb -> (file and name of its command, the first sentence of its help); a test holds the sentences equal
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Set up": {
        "init": ("setup:init", "Create the registry's database and folders."),
        "migrate": ("setup:migrate", "Upgrade the database to this version of adapters."),
        "completion": ("completion:completion", "Print the script for TAB completion in bash, zsh or fish."),
        "context": ("context:context", "Named registries of adapters.toml."),
        "doctor": ("setup:doctor", "Check that database, store and settings work together."),
    },
    "Publish and fetch": {
        "push": ("push:push", "Publish an adapter folder as the next version of NAME."),
        "pull": ("pull:pull", "Fetch a version's files, verified against their digests."),
        "export": ("bundles:export", "Write versions and what they come from to one file."),
        "import": ("bundles:import_", "Bring in versions from a bundle or the Hub."),
    },
    "Look": {
        "list": ("listing:list_", "List versions, the newest of each adapter."),
        "show": ("detail:show", "Show everything about a version."),
        "log": ("detail:log", "Show an adapter's versions and alias moves in order."),
        "lineage": ("detail:lineage", "Show what a version comes from and what came from it."),
        "diff": ("diff:diff", "Compare two adapters: config, modules, norms, subspaces, files."),
        "watch": ("watch:watch", "Follow an alias: print what it names now, then every change."),
        "which": ("detail:which", "Find the versions that hold a file, or its tensors."),
    },
    "Name and label": {
        "alias": ("aliases:alias", "Movable names for versions."),
        "tag": ("labels:tag", "KEY=VALUE labels of a version."),
        "metric": ("labels:metric", "NAME=NUMBER measurements of a version."),
    },
    "Check and merge": {
        "base": ("bases:base", "Base models that adapters were trained on."),
        "check": ("check:check", "Check adapters against the rules, and against a base."),
        "lock": ("lock:lock", "Write down what references mean now: digests and bases."),
        "plan": ("capacity:plan", "Plan the room that a server needs for adapters."),
        "impact": ("capacity:impact", "Show what breaks when a base or a serving engine is replaced."),
        "merge": ("merge:merge", "Merge versions into a new one, with a report of what was kept."),
        "convert": ("convert:convert", "Write an adapter anew: pickled weights as safetensors, or for an engine."),
        "materialize": ("materialize:materialize", "Write adapters into a base's weights, or as images to swap in."),
        "artifacts": ("artifacts:artifacts", "Materialised results: what they were made from, and where they lie."),
    },
    "Keep": {
        "rm": ("removal:rm", "Delete a version; undelete brings it back until gc."),
        "undelete": ("removal:undelete", "Bring a deleted version back."),
        "verify": ("upkeep:verify", "Hash every file of a version again."),
        "fsck": ("upkeep:fsck", "Check the whole registry: rows, blobs and bytes."),
        "cache": ("cache:cache", "Pulled versions that are kept on this machine."),
        "backup": ("upkeep:backup", "Copy a SQLite catalog to a file while it is in use."),
        "gc": ("upkeep:gc", "Free what no version needs any more."),
    },
}
OTHER_NAMES = {"ls": "list"}
VERBS = {verb: entry for section in SECTIONS.values() for verb, entry in section.items()}


class Root(Verbs):
    """The `adapters` group. Its own help needs no verb's file."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Every verb, in the order of the help."""
        return list(VERBS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, imported now."""
        entry = VERBS.get(OTHER_NAMES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        module, _, attribute = entry[0].partition(":")
        command = getattr(import_module(f"registry.cli.verbs.{module}"), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by section, from the table alone."""
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(verb, entry[1]) for verb, entry in verbs.items()])


def _version(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"adapters {version('adapter-registry')}")
        context.exit()


root = Root(
    name="adapters",
    help="A registry for LoRA adapters: versions, lineage, checks and exact merges.",
    context_settings=HELP_NAMES,
    examples=(
        "adapters push ./out/sql-lora team/sql --alias prod",
        "adapters list --tag task=sql",
        "adapters pull team/sql@prod",
    ),
    params=[
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
        )
    ],
)
