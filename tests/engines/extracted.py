"""Loads single modules of released engines, with stubs for what they import and do not need here."""

from __future__ import annotations

import logging
import sys
import types
from contextlib import contextmanager
from unittest.mock import MagicMock

from tests.engines.releases import files_of


class _Stub(types.ModuleType):
    """A module in which every name exists; a class where one is inherited from."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {}) if name[:1].isupper() and not name.isupper() else MagicMock(name=name)


class _Finder:
    """Finds the given sources by module name; anything else below `root` is a stub."""

    def __init__(self, root, sources, given, leaves):
        self._root, self._sources, self._given, self._leaves = root, sources, given, leaves

    def find_spec(self, name, path=None, target=None):
        if name == self._root or name.startswith(self._root + "."):
            from importlib.machinery import ModuleSpec

            # what is below a file's own name is no module, but a stub may have anything below it
            return ModuleSpec(name, self, is_package=name not in self._leaves)
        return None

    def create_module(self, spec):
        return types.ModuleType(spec.name) if spec.name in self._sources else _Stub(spec.name)

    def exec_module(self, module):
        text = self._sources.get(module.__name__)
        if text is not None:
            exec(compile(text, module.__name__, "exec"), module.__dict__)
        if module.__name__.endswith(".logger"):
            module.init_logger = _logger
        module.__dict__.update(self._given.get(module.__name__, {}))


def _logger(name):
    logger = logging.getLogger(name)
    logger.info_once = logger.info
    logger.debug_once = logger.debug
    return logger


@contextmanager
def modules_of(package, release, wanted, *, given=None, written=None):
    """Import `wanted` modules of a release from their real source; the rest of the package is stubs while this lasts.

    `given` names what a stub must hold (module -> name -> value), `written` a stand-in's whole text.
    """
    members = [name.replace(".", "/") + ".py" for name in wanted]
    texts = files_of(package, release, members)
    sources = {name: texts[member] for name, member in zip(wanted, members, strict=True)}
    finder = _Finder(package, sources | (written or {}), given or {}, frozenset(wanted))
    sys.meta_path.insert(0, finder)
    try:
        yield [__import__(name, fromlist=["_"]) for name in wanted]
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
            del sys.modules[name]
