"""Derives which configuration keys each release of PEFT knows, from its wheels' sources, importing none of them.

`python -m tests.engines.derive_peft_keys` prints engine/compat/engines/peft_changes.py.
"""

from __future__ import annotations

import ast
import re
import textwrap

from tests.engines.releases import files_of, listing

FIRST = (0, 10, 0)
MEMBERS = ["peft/config.py", "peft/tuners/*/config.py", "peft/tuners/*.py", "peft/utils/peft_types.py", "peft/tuners/*/*_config.py"]  # fmt: skip


def releases(entries):
    """Every final release from FIRST on, oldest first."""
    found = {match[1] for entry in entries if (match := re.fullmatch(r"peft-(\d+\.\d+\.\d+)-py3-none-any\.whl", entry["filename"]))}  # fmt: skip
    return sorted((one for one in found if _numbers(one) >= FIRST), key=_numbers)


def _numbers(release):
    return tuple(map(int, release.split(".")))


def keys_of(files):
    """Type name -> keys, from the dataclasses that set `self.peft_type`; and the type names that have none."""
    classes = {}
    for text in files.values():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, node)
    found = {}
    for node in classes.values():
        kind = _type_set_in(node)
        if kind:
            found[kind] = _fields(node, classes)
    return found


def _type_set_in(node):
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Assign)
            and ast.unparse(inner.targets[0]) == "self.peft_type"
            and (match := re.fullmatch(r"PeftType\.(\w+)", ast.unparse(inner.value)))
        ):
            return match[1]
    return None


def _fields(node, classes):
    keys = set()
    for base in node.bases:
        name = ast.unparse(base).rpartition(".")[2]
        if name in classes:
            keys |= _fields(classes[name], classes)
    for item in node.body:
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and "ClassVar" not in ast.unparse(item.annotation)
        ):
            keys.add(item.target.id)
    return keys


def derive():
    """Release -> type -> keys."""
    entries = listing("peft")
    return {one: keys_of(files_of("peft", one, MEMBERS, entries=entries)) for one in releases(entries)}


BASE = frozenset(("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "revision", "task_type"))


def changes(table):
    """One text per release and type whose keys changed: `0.14 LORA + came - went`, keys of every type left out.

    Keys change with minor releases alone, which is asserted.
    """
    rows, before = [], {}
    for release, types in table.items():
        for kind in sorted(types.keys() | before.keys()):
            new, old = types.get(kind, set()), before.get(kind, set())
            came, went = sorted(new - old - BASE), sorted(old - new - BASE)
            if came or went:
                assert release.endswith(".0"), (release, kind)
                rows.append(" ".join([release.removesuffix(".0"), kind, "+", *came, *(["-", *went] if went else [])]))
        before = types
    return rows


def page(rows):
    """The module's text."""
    lines = [line for row in rows for line in textwrap.wrap(row, 116, subsequent_indent="  ")]
    return HEAD + "\n".join(lines) + '\n"""\n'


HEAD = '''"""Which configuration keys each release of PEFT knows, by type.

Made by `python -m tests.engines.derive_peft_keys` from the sources in the wheels of 0.10.0 to 0.21.2: the fields of the
dataclass that sets each type. `make test-engines` derives it again. Keys change with minor releases alone.
"""

from __future__ import annotations

BASE = frozenset(("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "revision", "task_type"))
"""Keys of every type in every release."""

# release, type, the keys that came after +, those that went after -
CHANGES = """
'''

if __name__ == "__main__":
    print(page(changes(derive())), end="")
