"""The environment's word: each system's variables by its own documentation, and which comes first."""

import pytest

from registry.errors import UsageError
from registry.origins.provenance import Claim
from registry.origins.surroundings import surrounding_actor, surrounding_claims

COMMIT = "deadbeef" * 5

# Each system's own variables for the commit and the run, as its manual names them. A system counts before all below it.
SYSTEMS = {
    "Weights & Biases": ("WANDB_GIT_COMMIT", "WANDB_RUN_ID"),
    "MLflow": (None, "MLFLOW_RUN_ID"),
    "Slurm": (None, "SLURM_JOB_ID"),
    "GitHub Actions": ("GITHUB_SHA", "GITHUB_RUN_ID"),
    "GitLab CI": ("CI_COMMIT_SHA", "CI_JOB_ID"),
    "Jenkins": ("GIT_COMMIT", "BUILD_TAG"),
    "Azure Pipelines": ("BUILD_SOURCEVERSION", "BUILD_BUILDID"),
    "CircleCI": ("CIRCLE_SHA1", "CIRCLE_WORKFLOW_ID"),
    "Buildkite": ("BUILDKITE_COMMIT", "BUILDKITE_BUILD_ID"),
    "Bitbucket": ("BITBUCKET_COMMIT", "BITBUCKET_BUILD_NUMBER"),
}
COMMITS = [commit for commit, _ in SYSTEMS.values() if commit]
RUNS = [run for _, run in SYSTEMS.values()]
ACTORS = ["ADAPTERS_ACTOR", "GITHUB_ACTOR", "GITLAB_USER_LOGIN", "BUILDKITE_BUILD_CREATOR"]


@pytest.mark.parametrize("place", range(len(COMMITS)))
def test_a_commit_is_that_of_the_first_system_that_names_one(place):
    environ = dict.fromkeys(COMMITS[place + 1 :], "cafebabe" * 5) | {COMMITS[place]: COMMIT}

    assert surrounding_claims(environ) == {"git_commit": Claim(COMMIT, COMMITS[place])}


@pytest.mark.parametrize("place", range(len(RUNS)))
def test_a_run_is_that_of_the_first_system_that_names_one(place):
    environ = dict.fromkeys(RUNS[place + 1 :], "other") | {RUNS[place]: "r-1"}

    assert surrounding_claims(environ) == {"run_id": Claim("r-1", RUNS[place])}


@pytest.mark.parametrize("place", range(len(ACTORS)))
def test_who_works_is_whom_the_first_system_names(place):
    environ = dict.fromkeys(ACTORS[place + 1 :], "other") | {ACTORS[place]: "ann"}

    assert surrounding_actor(environ) == Claim("ann", ACTORS[place])


@pytest.mark.parametrize("value", ["", "HEAD", "deadbee\x1b", "refs/heads/main", "abc", "g" * 40])
def test_what_is_no_commit_gives_way_to_the_next(value):
    assert surrounding_claims({"GITHUB_SHA": value, "CI_COMMIT_SHA": COMMIT})["git_commit"].source == "CI_COMMIT_SHA"
    assert surrounding_claims({"GITHUB_SHA": value}) == {}


@pytest.mark.parametrize("value", ["", "a b", "x" * 257, "a\x1b[2J", "a\nb"])
def test_what_is_no_run_gives_way_to_the_next(value):
    assert surrounding_claims({"WANDB_RUN_ID": value, "SLURM_JOB_ID": "7"})["run_id"] == Claim("7", "SLURM_JOB_ID")


def test_other_variables_say_nothing():
    """No licence, no digest of data, and no commit of a repository that is not the one at work."""
    assert surrounding_claims({"LICENCE": "mit", "DATA_DIGEST": "d", "LICENSE": "mit", "COMMIT": COMMIT}) == {}
    assert surrounding_actor({"USER": "ann"}) is None


@pytest.mark.parametrize("value", ["a\x1b[31m", "a\nb", "x" * 257])
def test_an_actor_of_a_pipeline_that_cannot_be_stored_gives_way(value):
    assert surrounding_actor({"GITHUB_ACTOR": value, "GITLAB_USER_LOGIN": "bob"}) == Claim("bob", "GITLAB_USER_LOGIN")


@pytest.mark.parametrize("value", ["a\x1b[31m", "a\nb", "x" * 257])
def test_an_actor_that_was_named_for_this_program_is_refused(value):
    with pytest.raises(UsageError, match=r"ADAPTERS_ACTOR .*expected at most 256 printable characters") as caught:
        surrounding_actor({"ADAPTERS_ACTOR": value, "GITHUB_ACTOR": "bob"})
    assert str(caught.value).isprintable()
