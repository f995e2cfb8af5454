"""One training run: set-up, the loop over epochs, evaluation, checkpoints and log.

`python -m reference_model.train` is its command line. `run` reads from top to bottom.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmark import mllog, trainer_contract
from benchmark.params import Params
from common.errors import UserError, first_line
from datasets.dataset import Dataset, read_dataset
from datasets.geometry import ctc_frames_needed, output_frames
from datasets.manifest import Manifest
from datasets.pack import open_packed
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.training_state import Checkpoint, load_checkpoint, save_checkpoint
from reference_model.data.data_loader import (
    Order,
    Recordings,
    default_workers,
    evaluation_order,
    loader,
    training_order,
    worker_bytes,
)
from reference_model.data.tempo import samples_after
from reference_model.model import gru_graphs
from reference_model.model.alphabet import encode
from reference_model.model.features import Features
from reference_model.model.gru import gru_dtype
from reference_model.model.network import DeepSpeech2, prefers_channels_last
from reference_model.runtime import (
    available_threads,
    choose_device,
    default_threads,
    die_with_parent,
    keep_freed_memory,
    set_precision,
    silence_lost_worker_signals,
)
from reference_model.training import distributed
from reference_model.training.distributed import World
from reference_model.training.epoch_progress import progress_of
from reference_model.training.evaluate import evaluate
from reference_model.training.optim import build_optimizer, match_weight_layout
from reference_model.training.profiler import NoProfile, Profile
from reference_model.training.step import TrainState, TrainStep, dead_worker_error, received_batches, train_epoch
from reference_model.training.trainer_options import AUTO, CHANNELS_LAST, CONV_LAYOUTS

NO_BF16_GRU = (
    "warning: PyTorch cannot run a GRU in bf16 through cuDNN here, so GRUs run in fp32, slower; bf16 needs PyTorch 2.11 "
    "with cuDNN 9.13 or newer and a GPU of compute capability 8.0 or higher"
)


def run(args: argparse.Namespace, params: Params) -> int:
    """Train `params` with the options of `reference_model.train`; returns the exit status.

    Raises UserError or OSError if the run cannot start or fails; out of memory is a UserError too.
    """
    silence_lost_worker_signals()
    if args.progress == "events":
        die_with_parent()
    try:
        device = choose_device(args.device)
        world = distributed.join(device)
        if device.type == "cuda":
            device = torch.device("cuda", world.local_rank)
        log = mllog.LogWriter(trainer_contract.print_line if world.leads else lambda line: None)
        return _train(args, params, device, world, log)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory ({first_line(error)})", remedy="free the GPU, or use one with more memory"
        ) from None
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise UserError(
            f"out of memory ({first_line(error)})", remedy="close other programs, or use a larger machine"
        ) from None
    finally:
        distributed.leave()


def _train(args: argparse.Namespace, params: Params, device: torch.device, world: World, log: mllog.LogWriter) -> int:
    resumed = load_checkpoint(args.resume) if args.resume else None
    if resumed:
        _check_resume(resumed, params, args.seed, args.resume)
    else:
        log.start(mllog.INIT_START)

    # Everything up to run_start is set-up: it reads the manifests, but no audio.
    training = TrainingRun(args, params, device, world, log, resumed)
    training.log_setup()

    # From here on the clock runs, and never pauses.
    try:
        while training.has_next_epoch():
            training.train_and_evaluate_epoch()
    except BaseException as error:
        dead_worker = dead_worker_error(error)
        log.event(mllog.RUN_ABORTED_REASON, first_line(dead_worker or error), epoch_num=training.epoch)
        log.end(mllog.RUN_STOP, status=mllog.ABORTED, epoch_num=training.epoch)
        if dead_worker:
            raise dead_worker from None
        raise
    return training.finish()


class TrainingRun:
    """The objects that set-up builds, the training state (`epoch`, `wer`), and the phases of the run."""

    def __init__(
        self,
        args: argparse.Namespace,
        params: Params,
        device: torch.device,
        world: World,
        log: mllog.LogWriter,
        resumed: Checkpoint | None,
    ) -> None:
        self.args, self.params, self.device, self.world, self.log = args, params, device, world, log
        self.resumed = resumed
        self.state = TrainState(step=resumed.step, trained=resumed.trained_samples) if resumed else TrainState()
        self.epoch = resumed.epoch if resumed else 0
        self.wer: float | None = resumed.wer if resumed else None
        self.last_epoch = args.epochs or params.train.max_epochs

        _set_up_process(params, device)
        torch.manual_seed(args.seed)
        dataset = read_dataset(args.data)
        self.train_set = dataset.manifest(params.data.train_split)
        self.eval_set = dataset.manifest(params.data.eval_split)
        _check_shares(params, len(self.train_set), world.size)
        _check_lengths(params, self.train_set)
        self._build_network()
        self._build_loaders(dataset)

    def _build_network(self) -> None:
        args, params, device = self.args, self.params, self.device
        self.features = Features(params.features).to(device)
        self.channels_last = (
            prefers_channels_last(device, params.train.precision)
            if args.conv_layout == AUTO
            else args.conv_layout == CHANNELS_LAST
        )
        self.network = DeepSpeech2(params.model, self.features.bins, self.channels_last).to(device)
        self.optimizer = build_optimizer(params.optimizer, self.network.parameters())
        if self.resumed:
            self.network.load_state_dict(self.resumed.model)
            self.optimizer.load_state_dict(self.resumed.optimizer)
            match_weight_layout(self.optimizer)
        # Without device_ids DDP does not move the inputs: the lengths stay in host memory, the rest is on the GPU
        # already.
        wrapped = DistributedDataParallel(self.network) if self.world.size > 1 else self.network
        self.profile = Profile(device, args.run_dir) if args.profile and self.world.leads else NoProfile()
        self.step = TrainStep(params, wrapped, self.features, self.optimizer, device, self.world, self.profile)

    def _build_loaders(self, dataset: Dataset) -> None:
        params, world, seed = self.params, self.world, self.args.seed
        # Packed audio (`python -m datasets pack`) is used where it exists: the same samples, read faster.
        self.packed, packed_eval = (
            open_packed(dataset, split, manifest)
            for split, manifest in ((params.data.train_split, self.train_set), (params.data.eval_split, self.eval_set))
        )
        self.recordings = Recordings(self.train_set, params.augment, seed, self.packed)
        eval_recordings = Recordings(self.eval_set, None, seed, packed_eval)
        shares = (-(-size // world.size) for size in (params.train.batch_size, params.train.eval_batch_size))
        workers = self.args.workers
        if workers is None:
            workers = default_workers(self.device, worker_bytes(self.recordings, *shares))
        self.order, eval_order = Order(), Order()
        pin = self.device.type == "cuda"
        self.train_batches = loader(self.recordings, self.order, workers, pin)
        self.eval_batches = loader(eval_recordings, eval_order, workers, pin)
        eval_order.set(0, evaluation_order(len(self.eval_set), params.train.eval_batch_size, world.rank, world.size))
        self.eval_texts = [utterance.text for utterance in self.eval_set]

    def log_setup(self) -> None:
        """Log the parameters and start the clock; after a resume, only which devices and how many threads are used."""
        log = self.log
        accelerators = self.world.gather(_accelerator(self.world.rank, self.device))
        if self.resumed:
            # The machine may be another one now: telemetry follows these devices, not those that the run started on.
            log.event(mllog.RESUMED, self.resumed.epoch, accelerators=accelerators, cpu_threads=torch.get_num_threads())
            return
        trainer_contract.log_parameters(
            log,
            self.params,
            seed=self.args.seed,
            train_samples=len(self.train_set),
            eval_samples=len(self.eval_set),
            accelerators=accelerators,
        )
        with self.step.autocast():
            _log_gru(log, self.params, self.device, self.world)
        log.event(mllog.CPU_THREADS, torch.get_num_threads())
        log.event("conv_layout", CONV_LAYOUTS[self.channels_last])
        if self.packed:
            log.event("input_format", "packed")
        log.end(mllog.INIT_STOP)
        log.start(mllog.RUN_START)

    def _reached_target(self) -> bool:
        """Whether the last evaluation reached the target WER."""
        return self.wer is not None and self.wer <= self.params.train.target_wer

    def has_next_epoch(self) -> bool:
        """Whether to train another epoch: with `--epochs` up to that one, else until the target or the last epoch."""
        return self.epoch < self.last_epoch and bool(self.args.epochs or not self._reached_target())

    def train_and_evaluate_epoch(self) -> None:
        """Train the next epoch, evaluate, and save a checkpoint."""
        self.epoch += 1
        self._train_epoch()
        self._evaluate()

    def _train_epoch(self) -> None:
        params, world, log, epoch = self.params, self.world, self.log, self.epoch
        log.start(mllog.EPOCH_START, epoch_num=epoch)
        # Buckets group utterances by their length after the tempo change; the reference's order uses the files'
        # lengths.
        recordings = self.recordings
        lengths = recordings.samples if params.train.order == "sorted" else recordings.augmented_samples(epoch)
        batches = training_order(params, lengths, self.args.seed, epoch)
        self.order.set(epoch, batches, world.rank, world.size)
        with progress_of(self.args.progress, world.leads, "train", epoch, len(self.train_set)) as progress:
            stats = train_epoch(self.step, self.train_batches, epoch, len(self.order), self.state, progress.update)
        log.end(mllog.EPOCH_STOP, epoch_num=epoch)
        log.event(mllog.TRACKED_STATS, stats, epoch_num=epoch)

    def _evaluate(self) -> None:
        world, log, epoch = self.world, self.log, self.epoch
        log.start(mllog.EVAL_START, epoch_num=epoch)
        shown = progress_of(self.args.progress, world.leads, "eval", epoch, len(self.eval_set))
        with shown as progress, self.profile.stage("evaluation"):
            score = evaluate(
                self.network,
                self.features,
                received_batches(self.eval_batches),
                self.eval_texts,
                self.device,
                world,
                self.step.autocast,
                progress.update,
            )
        with self.profile.stage("logging and checkpoint"):
            self.wer = trainer_contract.log_score(log, score, epoch)
            log.end(mllog.EVAL_STOP, epoch_num=epoch)
            if world.leads:
                self._save_checkpoint(self.wer)

    def _save_checkpoint(self, wer: float) -> None:
        checkpoint = Checkpoint(
            params=self.params.as_dict(),
            params_sha256=self.params.sha256,
            seed=self.args.seed,
            epoch=self.epoch,
            step=self.state.step,
            trained_samples=self.state.trained,
            wer=wer,
            model=_on_cpu(self.network.state_dict()),
            optimizer=_on_cpu(self.optimizer.state_dict()),
        )
        save_checkpoint(checkpoint, checkpoint_path(self.args.run_dir, self.epoch))

    def finish(self) -> int:
        """Log the end of the run, report the profile; returns the exit status."""
        world, reached = self.world, self._reached_target()
        trainer_contract.log_end(self.log, reached=reached, trained_samples=self.state.trained, epoch=self.epoch)
        self.profile.report()
        if not reached and world.local_rank == 0 and not world.leads:
            # This machine writes no log, and torchrun's exit status does not show whether the target was reached.
            print(
                f"{trainer_contract.TARGET_MISSED}: WER {self.wer:.2f} % after epoch {self.epoch}",
                file=sys.stderr,
                flush=True,
            )
        world.wait()
        return trainer_contract.exit_status(reached, world.size)


# ---------------------------------------------------------------------------------------------------------------------
# Set-up, checks, and what is logged about them


def _set_up_process(params: Params, device: torch.device) -> None:
    set_precision(params.train.precision)
    if device.type == "cpu":
        keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(default_threads(params) if device.type == "cpu" else available_threads())


def _log_gru(log: mllog.LogWriter, params: Params, device: torch.device, world: World) -> None:
    """Log how GRUs run under the current autocast; warn where that is not what the variant asks for."""
    dtype = gru_dtype(device, params.model.rnn_hidden)
    log.event("gru_dtype", str(dtype).removeprefix("torch."))
    if device.type == "cuda":
        # The rank's part of a batch. Both directions in one call would need another graph for each padding.
        small = -(-params.train.batch_size // world.size) <= gru_graphs.LARGEST_BATCH
        one_direction = not params.model.bidirectional or params.model.mask_padding
        log.event("gru_cuda_graphs", dtype == torch.bfloat16 and small and one_direction)
    if params.train.precision == "bf16" and dtype != torch.bfloat16 and world.leads:
        print(NO_BF16_GRU, file=sys.stderr, flush=True)


def _accelerator(rank: int, device: torch.device) -> dict[str, object]:
    if device.type == "cpu":
        return {"rank": rank, "device": "cpu", "name": f"CPU, threads: {torch.get_num_threads()}", "uuid": None}
    properties = torch.cuda.get_device_properties(device)
    return {"rank": rank, "device": str(device), "name": properties.name, "uuid": f"GPU-{properties.uuid}"}


def _check_shares(params: Params, train_samples: int, size: int) -> None:
    """Refuse more ranks than a batch has utterances: some ranks would have nothing to train on in any batch."""
    most = min(params.train.batch_size, train_samples)
    if size > most:
        raise UserError(f"{size} processes cannot share a batch of {most} utterances", remedy=f"use at most {most}")


def _check_lengths(params: Params, manifest: Manifest) -> None:
    """Refuse an utterance too short for its transcript: CTC has no path for it, and its loss would be infinite."""
    hop = round(params.features.hop_s * params.features.sample_rate_hz)
    for utterance in manifest:
        samples = round(utterance.duration_s * params.features.sample_rate_hz)
        frames = output_frames(1 + samples_after(samples, params.augment.tempo_max) // hop)
        needed = max(1, ctc_frames_needed(encode(utterance.text)))
        if frames < needed:
            raise UserError(
                f"utterance {utterance.id!r} lasts {utterance.duration_s:.2f} s, too short for its {len(utterance.text)} "
                f"characters: the network sees {max(0, frames)} frames, CTC needs {needed}",
                where=manifest.root,
                remedy="remove it from the training set",
            )


def _check_resume(checkpoint: Checkpoint, params: Params, seed: int, path: Path) -> None:
    if checkpoint.params_sha256 != params.sha256:
        raise UserError(
            "the checkpoint was made with other parameters", where=path, remedy="resume with the run's params.yaml"
        )
    if checkpoint.seed != seed:
        raise UserError(
            f"the checkpoint was made with seed {checkpoint.seed}", where=path, remedy=f"use --seed {checkpoint.seed}"
        )


def _on_cpu(tree: Any) -> Any:
    """A copy of nested state with every tensor on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().cpu()
    if isinstance(tree, dict):
        return {key: _on_cpu(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_on_cpu(value) for value in tree]
    return tree
