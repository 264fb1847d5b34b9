"""What the training environment says: continuous integration, job schedulers and run trackers, as one table.

Names as each system documents them: GitHub Actions, GitLab CI, Jenkins' git plugin, Azure Pipelines, CircleCI,
Buildkite, Bitbucket; Weights & Biases, MLflow, Slurm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import UsageError
from registry.origins.provenance import LONGEST, Claim, claims

if TYPE_CHECKING:
    from collections.abc import Mapping

# Field -> variables, the first that is set counts. A tracker knows the run better than the scheduler that started it,
# and that one better than the pipeline around it.
VARIABLES: dict[str, tuple[str, ...]] = {
    "git_commit": (
        "WANDB_GIT_COMMIT",
        "GITHUB_SHA",
        "CI_COMMIT_SHA",
        "GIT_COMMIT",
        "BUILD_SOURCEVERSION",
        "CIRCLE_SHA1",
        "BUILDKITE_COMMIT",
        "BITBUCKET_COMMIT",
    ),
    "run_id": (
        "WANDB_RUN_ID",
        "MLFLOW_RUN_ID",
        "SLURM_JOB_ID",
        "GITHUB_RUN_ID",
        "CI_JOB_ID",
        "BUILD_TAG",
        "BUILD_BUILDID",
        "CIRCLE_WORKFLOW_ID",
        "BUILDKITE_BUILD_ID",
        "BITBUCKET_BUILD_NUMBER",
    ),
}
# Who a pipeline runs for, where the user's own name is that of a machine.
_ACTORS = ("ADAPTERS_ACTOR", "GITHUB_ACTOR", "GITLAB_USER_LOGIN", "BUILDKITE_BUILD_CREATOR")


def surrounding_claims(environ: Mapping[str, str]) -> dict[str, Claim]:
    """What the variables say. A value that cannot be one is passed over: nobody gave it to this program."""
    found: dict[str, Claim] = {}
    for field, names in VARIABLES.items():
        for name in names:
            if environ.get(name) and field not in found:
                try:
                    found |= claims({field: environ[name]}, name)
                except UsageError:
                    continue
    return found


def surrounding_actor(environ: Mapping[str, str]) -> Claim | None:
    """Who the environment says is at work; UsageError where ADAPTERS_ACTOR cannot be stored."""
    for name in _ACTORS:
        value = environ.get(name)
        if not value:
            continue
        if len(value) <= LONGEST and value.isprintable():
            return Claim(value, name)
        if name == _ACTORS[0]:
            raise UsageError(f"{name} {value[:120]!r}: expected at most {LONGEST} printable characters")
    return None
