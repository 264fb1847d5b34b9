"""What bitsandbytes says of a package that nothing here needs does not reach a person; all else of it does."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from registry.settings import environment_with
from tests.registry.artifacts import world

ROOT = Path(__file__).parents[3]
NAME = "bitsandbytes.backends.cpu.ops"
# As its release 0.50.2 says it, in bitsandbytes/backends/cpu/ops.py.
SAID = "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure you already `pip install kernels`"
PACKED = """
import sys
from pathlib import Path
from registry.operations import materialize_merged, plan_merged
try:
    plan_merged([], Path("/none"), Path("/out"), options={})
except Exception:
    pass
import bitsandbytes.backends.cpu.ops
assert "bitsandbytes" in sys.modules
"""


@pytest.fixture
def logger():
    found = logging.getLogger(NAME)
    yield found
    for one in list(found.filters):
        found.removeFilter(one)


@pytest.fixture
def database_url(sqlite_template, tmp_path):
    return world.sqlite_alone(sqlite_template, tmp_path)


@pytest.mark.parametrize("verb", ["materialize", "dry run", "verify"])
def test_one_record_is_dropped_and_no_other(registry, tmp_path, logger, caplog, verb):
    if verb == "verify":
        registry.materialize(["team/a"], kind="merged", to=tmp_path / "out")
        for one in list(logger.filters):
            logger.removeFilter(one)
        registry.verify_artifact(1, measure=True)
    else:
        registry.materialize(["team/a"], kind="merged", to=tmp_path / "out", dry_run=verb == "dry run")

    with caplog.at_level(logging.WARNING, logger=NAME):
        logger.warning(SAID, "No module named 'kernels'")
        logger.warning("Failed to load something else")
        logging.getLogger("bitsandbytes").warning(SAID, "of another module")

    assert [record.getMessage()[:29] for record in caplog.records] == [
        "Failed to load something else",
        "Failed to load CPU gemm_4bit_",
    ]


def test_the_real_import_says_nothing():
    """On a processor with AVX512-BF16 the line above would be on stderr."""
    environment = environment_with({"PYTHONPATH": str(ROOT)})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PACKED], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stderr == ""
