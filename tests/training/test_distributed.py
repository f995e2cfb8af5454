"""Several processes that meet over gloo: what they sum, share and score together."""

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

TEXTS = ["AB", "BA", "ABBA", "A B"]


def in_two_processes(work, folder: Path) -> list:
    """`work(world)` in two processes of one group; what each returned, by rank."""
    torch.multiprocessing.spawn(_meet, (work, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _meet(rank: int, work, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(work(World(rank, rank, 2)), folder / f"{rank}.pt")
    dist.destroy_process_group()


def _collective(world: World) -> dict:
    tensor = torch.full((2,), float(world.rank))
    world.share([tensor])
    counts = world.sum([2.0**40 + world.rank, 0.25])
    return {"shared": tensor, "sums": counts, "gathered": world.gather({"rank": world.rank})}


def test_sums_are_exact_and_what_is_shared_is_process_0s(tmp_path):
    for result in in_two_processes(_collective, tmp_path):
        assert result["shared"].tolist() == [0.0, 0.0]
        assert result["sums"] == [2.0**41 + 1, 0.5]
        assert result["gathered"] == [{"rank": 0}, {"rank": 1}]


class Drifting(nn.Module):
    """Spells each batch's labels as long as its running statistic is process 0's; otherwise nothing at all."""

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


class AsTheyAre:
    """Features that are the waveforms themselves."""

    def __call__(self, waveforms: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        return waveforms, samples

    def frames(self, samples: Tensor) -> Tensor:
        return samples


def _evaluate(world: World) -> list[float]:
    model = Drifting(world.rank)
    batches = [_batch(index) for index in range(len(TEXTS))][world.rank :: world.size]
    score = evaluate(model, AsTheyAre(), batches, TEXTS, torch.device("cpu"), world, nullcontext)  # type: ignore[arg-type]
    return [score.utterances, score.word_edits, score.words, score.mean_wer_sum]


def test_all_processes_score_with_the_running_statistics_that_the_checkpoint_keeps(tmp_path):
    expected = score_of((text, text) for text in TEXTS)
    for result in in_two_processes(_evaluate, tmp_path):
        assert result == [4, 0, expected.words, 0.0]


def test_more_processes_than_gpus_are_told_what_to_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"NPROC: PyTorch sees 1 GPU for 2 processes here - use at most 1"):
        join(torch.device("cuda"))
