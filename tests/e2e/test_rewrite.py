"""`adapters convert --for` as a person uses it: what a check names is gone after it, and what cannot be is named."""

from __future__ import annotations

import json

from tests.registries import make_adapter


def test_what_the_check_names_is_rewritten(shell, work):
    make_adapter(work / "rs", 1, use_rslora=True, target_modules=r".*\.(q_proj|v_proj|up_proj)")
    shell.say("push", "./rs", "team/rs", "--alias", "prod")

    code, out, _ = shell("convert", "team/rs@prod", "--for", "llamacpp", "--into", "team/plain", "--format", "json")

    assert code == 0
    document = json.loads(out)
    assert (document["ref"], document["target"], document["rewrites"]) == ("team/plain@1", "llamacpp", ["scales"])
    assert "team/plain@1  converted_from  team/rs@1" in shell.say("lineage", "team/plain")
    assert shell.say("convert", "team/rs", "--for", "llamacpp", "--to", "./new", "--format", "quiet") == f"{work}/new\n"
    human = shell.say("convert", "team/plain", "--for", "llamacpp", "--to", "./same")
    assert "rewrites  none needed\n" in human
    assert "rounding  every number as it was\n" in human


def test_what_cannot_be_rewritten_is_on_stdout(shell, work):
    make_adapter(work / "dora", 1, use_dora=True)

    code, out, err = shell("convert", "./dora", "--for", "vllm", "--to", "./new", "--format", "json")

    document = json.loads(out)
    assert (code, document["status"]) == (1, "fail")
    assert "vllm-dora" in [finding["rule"] for finding in document["findings"]]
    assert err.startswith("error: ./dora: refused by ")
    assert not (work / "new").exists()


def test_what_is_asked_wrongly_exits_with_2(shell, work):
    shell.refused("convert", "./one", "--for", "nope", "--to", "./new", code=2, named="engine 'nope'")
    shell.refused("convert", "./one", "--for", "vllm@99", "--to", "./new", code=2, named="the table covers")
    shell.refused("convert", "./one", "--for", "vllm", code=2, named="expected a folder or a name")
    shell.refused("convert", "./one", "--for", "vllm", "--to", "./two", code=5, named="exists already")
    shell.refused("convert", "team/none", "--for", "vllm", "--to", "./new", code=4, named="team/none")
