"""One case of `CASES` as files that PEFT wrote, and live."""

import pytest
import torch

from engine.model.runtime import Runtime
from tests.engine.model.kinds import oracle
from tests.engine.model.kinds.cases import CASES, INPUTS


@pytest.fixture(scope="session", params=CASES)
def case(request, tmp_path_factory):
    kind, configs = CASES[request.param]
    root = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    model = oracle.seeded(kind)
    folders = {
        f"n{place}": oracle.saved(root / f"n{place}", model, config, seed=place) for place, config in enumerate(configs)
    }
    return kind, folders, {name: oracle.run(model, [folder], INPUTS[kind]) for name, folder in folders.items()}


@pytest.fixture
def live(case):
    kind, folders, _ = case
    model = oracle.seeded(kind)
    with torch.no_grad():
        base = model(INPUTS[kind])
    runtime = Runtime(model)
    for name, folder in folders.items():
        runtime.load(name, folder)
    return runtime, base
