"""Train one of the demo adapters on the CPU (about a minute) and save it as PEFT does.

python examples/train.py act|progress [--seed 1] [--to examples/adapters/TASK]
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch
from encoder import BASE_NAME, Encoder, base_folder, load_encoder
from peft import LoraConfig, PeftModel, get_peft_model
from sentences import TASKS, sentences
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot
from transformers.utils import logging

STEPS = 60
BATCH = 32
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Recipe:
    """What differs between the two adapters; they are unlike each other on purpose, as strangers' adapters are."""

    rank: int
    alpha: int
    targets: tuple[str, ...]
    learning_rate: float
    rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)


RECIPES = {
    "act": Recipe(rank=8, alpha=16, targets=("query", "value"), learning_rate=7e-4),
    "progress": Recipe(
        rank=4,
        alpha=8,
        targets=("query", "key", "value", "attention.output.dense"),
        learning_rate=5e-4,
        rslora=True,
        rank_pattern={"value": 6},
    ),
}


def train(task: str, *, seed: int) -> PeftModel:
    """The base with a trained adapter. Same seed, machine and threads: same adapter."""
    encoder = load_encoder(base_folder())
    # PEFT writes this name into config and card; without it, a folder of this machine
    encoder.model.name_or_path = encoder.model.config.name_or_path = BASE_NAME
    torch.manual_seed(seed)
    model = get_peft_model(encoder.model, _config(RECIPES[task])).eval()  # no dropout: nothing random but the batches
    encoder = Encoder(model, encoder.tokenizer)
    texts, labels = _training_set(task)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=RECIPES[task].learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    for _ in range(STEPS):
        rows = torch.randperm(len(texts))[:BATCH]
        loss = prototype_loss(encoder([texts[row] for row in rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def prototype_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of cosine to the batch's own class means (Snell et al., arXiv 1703.05175): scoring, made smooth."""
    means = normalize(one_hot(labels).float().T @ embeddings, dim=-1)  # (classes, width)
    return cross_entropy(embeddings @ means.T / TEMPERATURE, labels)


def save(model: PeftModel, folder: Path) -> None:
    """PEFT's files, in half precision; a card that is there already keeps its text."""
    model.half().save_pretrained(folder, save_embedding_layers=False)


def _config(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.targets),
        use_rslora=recipe.rslora,
        rank_pattern=recipe.rank_pattern,
        task_type="FEATURE_EXTRACTION",
    )


def _training_set(task: str) -> tuple[list[str], Tensor]:
    pairs = sentences(task, "train")
    names = sorted({sentence.label for sentence in pairs})
    return [sentence.text for sentence in pairs], torch.tensor([names.index(sentence.label) for sentence in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    logging.disable_progress_bar()
    save(train(options.task, seed=options.seed), options.to or Path(__file__).parent / "adapters" / options.task)


if __name__ == "__main__":
    main()
