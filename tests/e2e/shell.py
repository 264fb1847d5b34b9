"""The command line in the test's own process, with a home of its own and what it did to it."""

import hashlib
import stat
from contextlib import contextmanager
from pathlib import Path

from registry.cli.failure import run
from registry.cli.invocation import open_registry


class Shell:
    """The command line in this process, in a folder and home of its own."""

    def __init__(self, capfd, home):
        self._capfd, self.home = capfd, home

    def __call__(self, *arguments):
        opened = []

        def opener(settings):
            opened.append(open_registry(settings))
            return opened[-1]

        code = run(list(arguments), opener=opener)
        for registry in opened:
            registry.close()
        captured = self._capfd.readouterr()
        return code, captured.out, captured.err

    def say(self, *arguments):
        code, out, err = self(*arguments)
        assert code == 0, err
        return out

    def refused(self, *arguments, code, named=""):
        """Exactly one error line, which names the thing and holds nothing that a terminal acts on; no other output.
        Doctor tells it in one row of its table.
        """
        found, out, err = self(*arguments)
        case = (arguments, found, out, err)
        # Upper case is folded with a note, also where what follows is refused.
        lines = [line for line in err.splitlines() if not line.startswith("note: upper case is folded: ")]
        assert found == code, case
        if arguments[0] == "doctor":
            lines = [line for line in out.splitlines() if "  fail  " in line]
            assert (len(lines), err) == (1, ""), case
            assert named in lines[0], case
            return lines[0]
        assert out == "", case
        assert [line.split(": ")[0] for line in lines] in (["error"], ["error", "hint"]), case
        assert named in lines[0], case
        assert all(character.isprintable() for line in lines for character in line), case
        return lines[0]

    @contextmanager
    def nothing_changed(self):
        before = snapshot(self.home)
        yield
        assert snapshot(self.home) == before


def snapshot(folder):
    """Every path below with its mode and, for a file, its bytes' hash; a link with its target."""
    found = {}
    for path in Path(folder).rglob("*"):
        mode, content = path.lstat().st_mode, None
        if stat.S_ISREG(mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(mode):
            content = path.readlink()
        found[str(path)] = (mode, content)
    return found
