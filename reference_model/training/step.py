"""One optimizer step and one epoch of them: forward pass, loss, backward pass, update, and their statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.params import Params
from common.errors import UserError, first_line
from reference_model.data.augment import spec_augment
from reference_model.data.data_loader import Batch
from reference_model.model.alphabet import BLANK
from reference_model.model.features import Features
from reference_model.model.flops import shares
from reference_model.runtime import DEAD_WORKER
from reference_model.training.distributed import World
from reference_model.training.optim import learning_rate, set_learning_rate
from reference_model.training.profiler import NoProfile


@dataclass
class TrainState:
    """Counts over the whole run: optimizer steps, and utterances trained on over all ranks."""

    step: int = 0
    trained: int = 0


class TrainStep:
    """Forward pass, loss, backward pass and update for one batch. Holds what is constant from step to step."""

    def __init__(
        self,
        params: Params,
        network: nn.Module,
        features: Features,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        world: World,
        profile: NoProfile | None = None,
    ) -> None:
        self.params, self.network, self.features, self.optimizer = params, network, features, optimizer
        self.device, self.world, self.profile = device, world, profile or NoProfile()
        self._weights = list(network.parameters())

    def autocast(self) -> AbstractContextManager:
        """Autocast to bf16 where the variant asks for it, full precision otherwise."""
        if self.params.train.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def __call__(self, batch: Batch, rate: float) -> tuple[Tensor, Tensor]:
        """Train on `batch` at learning rate `rate`.

        Returns this rank's summed loss, and whether loss and gradients were finite; both on the device. Nothing here
        synchronizes with a GPU except PyTorch's CTC loss, which copies lengths to it and back (docs/performance.md).

        The loss is CTC's negative log-likelihood summed over the global batch and divided by its size. A loss or
        gradient that is not finite leaves the weights unchanged: the fused optimizers skip a step whose `found_inf` is
        set, without waiting for the device.
        """
        stage, augment = self.profile.stage, self.params.augment
        with stage("host to device"):
            samples, waveforms, labels = (
                each.to(self.device, non_blocking=True) for each in (batch.samples, batch.waveforms, batch.labels)
            )
        with stage("features"):
            values, frames = self.features(waveforms, samples)
            # The same numbers in host memory, where network and loss need them: reading them from a GPU would
            # synchronize.
            host_frames = self.features.frames(batch.samples)
            if augment.spec_time_masks or augment.spec_freq_masks:
                uniforms = batch.mask_uniforms.to(self.device, non_blocking=True)
                values = spec_augment(values, frames, augment, self.params.features.hop_s, uniforms)
        with stage("forward"):
            with self.autocast():
                logits, lengths = self.network(values, host_frames)
            log_probabilities = functional.log_softmax(logits.float(), 2)
            loss = functional.ctc_loss(log_probabilities, labels, lengths, batch.label_lengths, BLANK, reduction="sum")
            loss = loss * batch.weight
        with stage("backward"):
            # DistributedDataParallel averages gradients over the ranks: multiplied by their number, that is the sum.
            (loss * (self.world.size / batch.global_utterances)).backward()
        with stage("optimizer"):
            norm = nn.utils.clip_grad_norm_(self._weights, self.params.optimizer.clip_norm)
            finite = torch.isfinite(loss.detach()) & torch.isfinite(norm)
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            set_learning_rate(self.optimizer, rate)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), finite


class Readback:
    """Asynchronous copy to the host of a step's loss and finiteness; `read` waits for that step only.

    `.item()` would wait for everything queued on the device until then, including the next step. Here the copy is
    queued right behind the step, into page-locked memory, followed by an event.
    """

    def __init__(self, loss: Tensor, finite: Tensor) -> None:
        found = torch.stack([loss, finite.to(loss.dtype)])
        self._event = None
        if found.is_cuda:
            self._values = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            self._values.copy_(found, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = found

    def read(self) -> tuple[float, bool]:
        """The summed loss, and whether it and the gradients were finite."""
        if self._event:
            self._event.synchronize()
        loss, finite = self._values.tolist()
        return loss, bool(finite)


def train_epoch(
    step: TrainStep,
    batches: Iterable[Batch | UserError],
    epoch: int,
    steps: int,
    state: TrainState,
    progress: Callable[[int, str], None],
) -> dict[str, float | None]:
    """Train on every batch of an epoch of `steps` steps; returns the epoch's statistics over all ranks.

    `train_loss` is the mean CTC loss per utterance in nats; `data_wait_s` is the time this rank waited for the data
    loader.
    """
    step.network.train()
    optimizer = step.params.optimizer
    last_step = steps * step.params.train.max_epochs
    started_s = time.perf_counter()
    loss_sum = torch.zeros((), dtype=torch.float64, device=step.device)
    utterances = trained = 0
    audio_s = data_wait_s = 0.0
    previous: tuple[Readback, int] | None = None
    received = received_batches(batches)
    while True:
        waiting_since_s = time.perf_counter()
        with step.profile.stage("data wait"):
            batch = next(received, None)
        data_wait_s += time.perf_counter() - waiting_since_s
        if batch is None:
            break
        loss, finite = step(batch, learning_rate(optimizer, epoch, state.step, last_step))
        latest = Readback(loss, finite), len(batch.indices)
        # The previous step is checked only now, so that the device always has work queued.
        note = _check_loss(previous, epoch, state.step)
        previous = latest
        loss_sum += loss
        state.step += 1
        utterances += len(batch.indices)
        trained += batch.global_utterances
        audio_s += batch.audio_s
        step.profile.step()
        progress(trained, note)
    _check_loss(previous, epoch, state.step)
    state.trained += trained
    train_s = time.perf_counter() - started_s
    loss_total, utterances_total, audio_total_s = step.world.sum([loss_sum.item(), utterances, audio_s])
    return {
        "train_loss": loss_total / utterances_total,
        "train_s": round(train_s, 3),
        "utterances_per_s": round(utterances_total / train_s, 3),
        "audio_s_per_s": round(audio_total_s / train_s, 3),
        **shares(step.params, step.features.bins, audio_total_s / train_s, step.world.size, _card(step.device)),
        "data_wait_s": round(data_wait_s, 3),
        "steps": steps,
        "learning_rate": step.optimizer.param_groups[0]["lr"],
    }


def _card(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _check_loss(result: tuple[Readback, int] | None, epoch: int, step: int) -> str:
    """The loss per utterance as text, of a step's (readback, utterances); UserError where it is not finite."""
    if result is None:
        return ""
    (loss_sum, finite), utterances = result[0].read(), result[1]
    # A rank without a share of the batch has no utterance, and a loss of 0.
    loss = loss_sum / max(1, utterances)
    if not finite:
        raise UserError(
            f"the loss or its gradient is not finite (loss {loss:g}); the weights were not updated",
            where=f"epoch {epoch}, step {step}",
            remedy="look for damaged audio or transcripts, or lower the learning rate in a parameter file of your own",
        )
    return f"loss {loss:.3g}"


def received_batches(batches: Iterable[Batch | UserError]) -> Iterator[Batch]:
    """The data loader's batches; errors of its workers are raised here, as UserErrors."""
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except RuntimeError as error:
        dead_worker = dead_worker_error(error)
        if dead_worker is None:
            raise
        raise dead_worker from None


def dead_worker_error(error: BaseException) -> UserError | None:
    """The UserError for PyTorch's report of a dead data loader worker; None where `error` is something else.

    PyTorch raises it in a signal handler, wherever the main process happens to be, even in the middle of a step.
    """
    if not isinstance(error, RuntimeError) or DEAD_WORKER not in str(error):
        return None
    return UserError(
        f"a data loader worker died ({first_line(error)})",
        remedy="it may have run out of memory or of shared memory: use fewer --workers, or raise the limits",
    )
