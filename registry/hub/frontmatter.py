"""A model card gets further fields. An author's text is added to, never written anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.origins.frontmatter import front_matter

if TYPE_CHECKING:
    from collections.abc import Mapping


def with_fields(text: str, fields: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A card whose front matter has these fields too, and the names of those that were added.

    What the author wrote stays as it is, byte for byte, comments and order too. Front matter that is no YAML mapping
    becomes part of the text below a new one.
    """
    block = front_matter(text)
    if block is None or block.problem:
        body = text.removeprefix("\ufeff")
        return f"---\n{_yaml(fields)}---\n{body}", tuple(fields)
    # A key that is there without a value would be there twice: that one is the author's to fill in.
    missing = {key: value for key, value in fields.items() if key not in block.fields}
    if not missing:
        return text, ()
    added = _yaml(missing).replace("\n", block.newline)
    return text[: block.end] + added + text[block.end :], tuple(missing)


def _yaml(fields: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=1000)
    return text
