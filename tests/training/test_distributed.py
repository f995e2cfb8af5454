"""Two ranks over gloo: collective operations and evaluation."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmark.error_rates import score_of
from common.errors import UserError
from reference_model.data.data_loader import Batch
from reference_model.model.alphabet import encode
from reference_model.training.distributed import World, join
from reference_model.training.evaluate import evaluate
from tests.support.training import Child

TEXTS = ["AB", "BA", "ABBA", "A B"]


def in_two_ranks(work, folder: Path) -> list:
    """The results of `work(world)` in two ranks of one process group."""
    ranks = [Child(_run_rank, rank, work, folder, folder=folder / f"rank{rank}") for rank in range(2)]
    for done in [rank.wait() for rank in ranks]:
        assert done.status == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run_rank(rank: int, work, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(work(World(rank, rank, 2)), folder / f"{rank}.pt")
    dist.destroy_process_group()


def _collective(world: World) -> dict:
    tensor = torch.full((2,), float(world.rank))
    world.share([tensor])
    counts = world.sum([2.0**40 + world.rank, 0.25])
    return {"shared": tensor, "sums": counts, "gathered": world.gather({"rank": world.rank})}


def test_sums_are_exact_and_shared_values_are_rank_0s(tmp_path):
    for result in in_two_ranks(_collective, tmp_path):
        assert result["shared"].tolist() == [0.0, 0.0]
        assert result["sums"] == [2.0**41 + 1, 0.5]
        assert result["gathered"] == [{"rank": 0}, {"rank": 1}]


class Drifting(nn.Module):
    """Outputs each batch's labels as long as its running statistic is that of rank 0; otherwise blanks."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.register_buffer("statistic", torch.tensor(float(rank)))

    def forward(self, labels: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        numbers = labels.long() * (self.statistic == 0)
        return nn.functional.one_hot(numbers.T, 29).float(), frames


def _batch(index: int) -> Batch:
    """Utterance `index`, whose waveform is its label numbers with a blank after each."""
    numbers = [number for label in encode(TEXTS[index]) for number in (label, 0)]
    frames = torch.tensor([len(numbers)])
    no_masks = torch.zeros(1, 2, 0)
    return Batch(torch.tensor([numbers]).float(), frames, torch.tensor([1]), frames, no_masks, [index], 1, 0.1)


class IdentityFeatures:
    """Features that are the waveforms themselves."""

    def __call__(self, waveforms: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        return waveforms, samples

    def frames(self, samples: Tensor) -> Tensor:
        return samples


def _evaluate(world: World) -> list[float]:
    model = Drifting(world.rank)
    batches = [_batch(index) for index in range(len(TEXTS))][world.rank :: world.size]
    score = evaluate(model, IdentityFeatures(), batches, TEXTS, torch.device("cpu"), world, nullcontext)  # type: ignore[arg-type]
    return [score.utterances, score.word_edits, score.words, score.mean_wer_sum]


def test_all_ranks_score_with_the_running_statistics_that_the_checkpoint_stores(tmp_path):
    expected = score_of((text, text) for text in TEXTS)
    for result in in_two_ranks(_evaluate, tmp_path):
        assert result == [4, 0, expected.words, 0.0]


def test_more_processes_than_gpus_are_refused_with_the_number_of_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"NPROC: PyTorch sees 1 GPU for 2 processes here - use at most 1"):
        join(torch.device("cuda"))
