"""Facts about licences, as one table to read and correct. Identifiers are those of the Hub's cards and of SPDX.

What a row says was read from the licence's own text or its steward's list of compatible ones, at its `source`; it says
what such a text asks for in general and is no legal advice. Where a row is missing, nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_CC = "https://creativecommons.org/licenses/"
_CC_COMPATIBLE = "https://creativecommons.org/compatiblelicenses/"
_GNU = "https://www.gnu.org/licenses/license-list.html"
_OSI = "https://opensource.org/licenses"
_RAIL = "https://www.licenses.ai/ai-licenses"
_LLAMA = "https://www.llama.com/llama-downloads/"
_SPDX = "https://spdx.org/licenses/"
_CDLA = "https://cdla.dev/"
_FAIR = "https://huggingface.co/facebook/fair-noncommercial-research-license"
_ODC = "https://opendatacommons.org/licenses/"


@dataclass(frozen=True, slots=True)
class Licence:
    """What one licence asks of those who pass on something made from what it covers.

    `share_alike`: the result must be under the same terms. `onward` names the other licences that the result may be
    under then; `refuses` those that its terms contradict although neither is share-alike towards the other.
    `strictness` orders the rows that ask for none of the four things: 0 nothing, 1 a notice, 2 more than a notice.
    """

    id: str
    source: str
    share_alike: bool = False
    non_commercial: bool = False
    no_derivatives: bool = False
    use_restricted: bool = False
    onward: frozenset[str] = field(default=frozenset())
    refuses: frozenset[str] = field(default=frozenset())
    strictness: int = 1

    @property
    def permissive(self) -> bool:
        """Whether the result may be under nearly any other terms."""
        return not (self.share_alike or self.non_commercial or self.no_derivatives or self.use_restricted)

    @property
    def terms(self) -> tuple[str, ...]:
        """What it asks for, in words."""
        named = {
            "share-alike": self.share_alike,
            "non-commercial": self.non_commercial,
            "no derivatives": self.no_derivatives,
            "use-restricted": self.use_restricted,
        }
        return tuple(name for name, asked in named.items() if asked)


def _permissive(source: str, strictness: int, *ids: str) -> tuple[Licence, ...]:
    return tuple(Licence(name, source, strictness=strictness) for name in ids)


def _alike(name: str, source: str, *onward: str, refuses: tuple[str, ...] = (), nc: bool = False) -> Licence:
    asked = {"share_alike": True, "non_commercial": nc}
    return Licence(name, source, onward=frozenset(onward), refuses=frozenset(refuses), **asked)


def _use(source: str, *ids: str, nc: bool = False) -> tuple[Licence, ...]:
    return tuple(Licence(name, source, use_restricted=True, non_commercial=nc) for name in ids)


_NC_SA = ("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0")

LICENCES: dict[str, Licence] = {
    row.id: row
    for row in (
        *_permissive(_OSI, 0, "unlicense", "0bsd", "mit-0"),
        *_permissive(_SPDX, 0, "cc0-1.0", "wtfpl", "pddl"),
        *_permissive(_OSI, 1, "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib"),
        *_permissive(_OSI, 1, "ncsa", "postgresql", "bsl-1.0"),
        *_permissive(_OSI, 2, "apache-2.0", "ecl-2.0", "afl-3.0", "artistic-2.0"),
        *_permissive(_SPDX, 2, "bsd-3-clause-clear", "etalab-2.0", "apple-ascl"),
        *_permissive(_CC, 2, "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
        *_permissive(_CDLA, 1, "cdla-permissive-1.0", "cdla-permissive-2.0"),
        *_permissive(_ODC, 2, "odc-by"),
        *_permissive("https://openmdw.ai/", 1, "openmdw-1.0", "openmdw-1.1"),
        # share-alike
        _alike("cc-by-sa-3.0", _CC_COMPATIBLE, "cc-by-sa-4.0"),
        _alike("cc-by-sa-4.0", _CC_COMPATIBLE, "gpl-3.0"),
        _alike("gpl-2.0", _GNU, refuses=("apache-2.0", "cc-by-4.0")),
        _alike("gpl-3.0", _GNU, "agpl-3.0"),
        _alike("agpl-3.0", _GNU, "gpl-3.0"),
        _alike("lgpl-2.1", _GNU, "gpl-2.0", "gpl-3.0", "lgpl-3.0"),
        _alike("lgpl-3.0", _GNU, "gpl-3.0", "agpl-3.0"),
        _alike("mpl-2.0", _GNU, "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0"),
        _alike("eupl-1.1", _GNU, "gpl-2.0", "gpl-3.0"),
        _alike("eupl-1.2", _GNU, "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-2.1", "lgpl-3.0", "mpl-2.0"),
        _alike("epl-1.0", _GNU),
        _alike("epl-2.0", _GNU),
        _alike("osl-3.0", _OSI),
        _alike("ms-pl", _OSI),
        _alike("gfdl", _GNU),
        _alike("odbl", _ODC),
        _alike("cdla-sharing-1.0", _CDLA),
        *(_alike(name, _CC, nc=True) for name in _NC_SA),
        # non-commercial, no derivatives
        *(
            Licence(f"cc-by-nc-{version}", _CC, non_commercial=True, onward=frozenset({f"cc-by-nc-sa-{version}"}))
            for version in ("2.0", "3.0", "4.0")
        ),
        Licence("cc-by-nd-4.0", _CC, no_derivatives=True),
        Licence("cc-by-nc-nd-3.0", _CC, non_commercial=True, no_derivatives=True),
        Licence("cc-by-nc-nd-4.0", _CC, non_commercial=True, no_derivatives=True),
        # restrictions on use that must be passed on
        *_use(_RAIL, "openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "bigcode-openrail-m"),
        *_use(_RAIL, "bigscience-bloom-rail-1.0"),
        *_use(_LLAMA, "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"),
        *_use("https://ai.google.dev/gemma/terms", "gemma"),
        *_use("https://github.com/deep-floyd/IF/blob/develop/LICENSE-MODEL", "deepfloyd-if-license", nc=True),
        *_use(_FAIR, "fair-noncommercial-research-license", nc=True),
    )
}  # fmt: skip


# SPDX names the GNU licences by what may follow them, which nothing here asks. No row is right for gpl-2.0-or-later,
# whose result must be under version 3 where version 2 refuses a part.
_SPDX_NAMES = {
    f"{name}-{which}": name
    for name in ("gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-2.1", "lgpl-3.0")
    for which in ("only", "or-later")
    if (name, which) != ("gpl-2.0", "or-later")
}


def known(text: str | None) -> Licence | None:
    """The facts of a licence, None where there are none."""
    return None if text is None else LICENCES.get(_SPDX_NAMES.get(text, text))


def passes(one: Licence, other: Licence) -> bool:
    """Whether what is under `one` may go into a result under `other`."""
    if one.id == other.id:
        return True
    if other.id in one.refuses or one.id in other.refuses or other.no_derivatives:
        return False
    return one.permissive or other.id in one.onward
