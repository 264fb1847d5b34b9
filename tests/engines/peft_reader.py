"""An older PEFT reads configurations with its own `config.py`, taken out of its wheel. A process of its own: the tests
have another PEFT loaded.

`python -m tests.engines.peft_reader RELEASE FOLDER…` prints one JSON list: per folder the error, or the keys it dropped.
"""

from __future__ import annotations

import json
import re
import sys
import warnings

from tests.engines.extracted import modules_of

MODULES = ["peft.utils.peft_types", "peft.config", "peft.tuners.lora.config"]
UTILS = "from peft.utils.peft_types import PeftType, TaskType\nCONFIG_NAME = 'adapter_config.json'\n"
_DROPPED = re.compile(r"Unexpected keyword arguments \[(.*?)\]")


def read(release, folders):
    given = {"peft": {"__version__": release}}
    with modules_of("peft", release, MODULES, given=given, written={"peft.utils": UTILS}) as (_, _, lora):
        import peft.mapping

        peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING = {"LORA": lora.LoraConfig}
        return [_one(lora.LoraConfig, folder) for folder in folders]


def _one(config, folder):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            config.from_pretrained(folder)
        except (TypeError, ValueError, KeyError, ImportError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
    dropped = [key for one in said for found in _DROPPED.findall(str(one.message)) for key in found.split(", ")]
    return {"dropped": [key.strip("'") for key in dropped]}


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1], sys.argv[2:])))
