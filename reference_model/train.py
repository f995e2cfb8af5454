"""The reference trainer: one variant, from scratch or from a checkpoint, until the target or the last epoch.

    python -m reference_model.train --params benchmark/variants/mini.yaml --data data/mini --run-dir runs/try --seed 1
    python -m torch.distributed.run --nproc-per-node 2 -m reference_model.train ...

Log lines go to stdout (from the first process alone), progress and errors to stderr. Exit status: 0 target reached, 1 not
reached, 2 could not; under torchrun 0 for both of the first. The benchmark's harness (`benchmark.harness.run`) starts this as a
process and times it from its log.
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
from benchmark.params import Params, load_params
from common import limits
from common.errors import EXIT_ERROR, UserError, run_cli
from datasets.dataset import read_dataset
from datasets.geometry import ctc_frames_needed, output_frames
from datasets.manifest import Manifest
from datasets.pack import open_packed
from reference_model.checkpoints.training_state import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint
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
from reference_model.model.alphabet import encode
from reference_model.model.features import Features
from reference_model.model.gru import gru_dtype
from reference_model.model.network import DeepSpeech2, prefers_channels_last
from reference_model.precision import set_precision
from reference_model.process import die_with_parent, keep_freed_memory, silence_lost_worker_signals, usual_threads
from reference_model.training import distributed
from reference_model.training.epoch_progress import progress_of
from reference_model.training.evaluate import evaluate
from reference_model.training.optim import build_optimizer, lay_out_as_weights
from reference_model.training.profiler import NoProfile, Profile
from reference_model.training.step import TrainState, TrainStep, loader_died, received_from, train_epoch

NO_BF16_GRU = (
    "warning: PyTorch gives cuDNN no GRU in bf16 here, so that GRUs run in fp32, slower; it takes PyTorch 2.11 "
    "with cuDNN 9.13 or newer and a GPU of compute capability 8.0 or higher"
)
LAYOUTS = ("channels-first", "channels-last")
SMALL_HIDDEN = 256
"""Up to this GRU width a CPU trainer keeps to one thread (see `default_threads`)."""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options."""
    parser = trainer_contract.argument_parser("python -m reference_model.train", __doc__)
    parser.add_argument(
        "--workers", type=int, help="loader processes per trainer process (default: by device, cores and memory)"
    )
    parser.add_argument(
        "--epochs", type=int, help="train to this epoch whatever target and last epoch are (no timed run)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="write a trace and a breakdown of the time to the run's folder"
    )
    parser.add_argument(
        "--conv-layout",
        choices=("auto", *LAYOUTS),
        default="auto",
        help="memory layout of the convolutional front (default: channels-last in bf16 on a GPU); the same mathematics",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; returns the exit status."""
    args = parse_arguments(argv)
    silence_lost_worker_signals()
    if args.progress == "events":
        die_with_parent()
    params = load_params(args.params)
    device = choose_device(args.device)
    world = distributed.join(device)
    if device.type == "cuda":
        device = torch.device("cuda", world.local_rank)
    log = mllog.LogWriter(trainer_contract.print_line if world.leads else lambda line: None)
    try:
        return _train(args, params, device, world, log)
    finally:
        distributed.leave()


# ---------------------------------------------------------------------------------------------------------------------
# One training, top to bottom


def _train(
    args: argparse.Namespace, params: Params, device: torch.device, world: distributed.World, log: mllog.LogWriter
) -> int:
    resumed = load_checkpoint(args.resume) if args.resume else None
    if resumed:
        _check_resume(resumed, params, args.seed, args.resume)
    else:
        log.start(mllog.INIT_START)

    # Everything up to run_start is set-up: it reads the manifests, but no audio.
    set_precision(params.train.precision)
    if device.type == "cpu":
        keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(default_threads(params) if device.type == "cpu" else usual_threads())
    torch.manual_seed(args.seed)
    dataset = read_dataset(args.data)
    train_set, eval_set = dataset.manifest(params.data.train_split), dataset.manifest(params.data.eval_split)
    _check_shares(params, len(train_set), world.size)
    _check_lengths(params, train_set)
    features = Features(params.features).to(device)
    channels_last = _channels_last(args, params, device)
    network = DeepSpeech2(params.model, features.bins, channels_last).to(device)
    optimizer = build_optimizer(params.optimizer, network.parameters())
    if resumed:
        network.load_state_dict(resumed.model)
        optimizer.load_state_dict(resumed.optimizer)
        lay_out_as_weights(optimizer)
    # Without device_ids the inputs stay where they are: the lengths in the host's memory, the rest on the GPU already.
    wrapped = DistributedDataParallel(network) if world.size > 1 else network

    # Packed audio (`python -m datasets pack`) is used where it lies beside the data set: the same samples, sooner.
    packed, packed_eval = (
        open_packed(dataset, split, manifest)
        for split, manifest in ((params.data.train_split, train_set), (params.data.eval_split, eval_set))
    )
    recordings = Recordings(train_set, params.augment, args.seed, packed)
    shares = (-(-size // world.size) for size in (params.train.batch_size, params.train.eval_batch_size))
    workers = default_workers(device, worker_bytes(recordings, *shares)) if args.workers is None else args.workers
    order, eval_order = Order(), Order()
    train_batches = loader(recordings, order, workers, device.type == "cuda")
    eval_batches = loader(
        Recordings(eval_set, None, args.seed, packed_eval), eval_order, workers, device.type == "cuda"
    )
    eval_order.set(0, evaluation_order(len(eval_set), params.train.eval_batch_size, world.rank, world.size))
    texts = [utterance.text for utterance in eval_set]

    profile = Profile(device, args.run_dir) if args.profile and world.leads else NoProfile()
    trainer = TrainStep(params, wrapped, features, optimizer, device, world, profile)
    state = TrainState(step=resumed.step, trained=resumed.trained_samples) if resumed else TrainState()
    epoch, wer = (resumed.epoch, resumed.wer) if resumed else (0, None)
    last_epoch = args.epochs or params.train.max_epochs

    accelerators = world.gather(_accelerator(world.rank, device))
    if resumed:
        # The machine may be another one now: telemetry follows these devices, not those of the run's beginning.
        log.event(mllog.RESUMED, resumed.epoch, accelerators=accelerators)
    else:
        trainer_contract.log_parameters(
            log,
            params,
            seed=args.seed,
            train_samples=len(train_set),
            eval_samples=len(eval_set),
            accelerators=accelerators,
        )
        with trainer.autocast():
            _log_gru_dtype(log, params, device, world)
        log.event("conv_layout", LAYOUTS[channels_last])
        if packed:
            log.event("input_format", "packed")
        log.end(mllog.INIT_STOP)
        log.start(mllog.RUN_START)

    # From here on the clock runs, and never pauses.
    try:
        while epoch < last_epoch and (args.epochs or wer is None or wer > params.train.target_wer):
            epoch += 1
            log.start(mllog.EPOCH_START, epoch_num=epoch)
            # Buckets hold what is equally long once its tempo is changed; the reference's order knows the files' lengths alone.
            lengths = recordings.samples if params.train.order == "sorted" else recordings.altered_samples(epoch)
            batches = training_order(params, lengths, args.seed, epoch)
            order.set(epoch, batches, world.rank, world.size)
            with progress_of(args.progress, world.leads, "train", epoch, len(train_set)) as progress:
                stats = train_epoch(trainer, train_batches, epoch, len(order), state, progress.update)
            log.end(mllog.EPOCH_STOP, epoch_num=epoch)
            log.event(mllog.TRACKED_STATS, stats, epoch_num=epoch)

            log.start(mllog.EVAL_START, epoch_num=epoch)
            showing = progress_of(args.progress, world.leads, "eval", epoch, len(eval_set))
            with showing as progress, profile.stage("evaluation"):
                score = evaluate(
                    network,
                    features,
                    received_from(eval_batches),
                    texts,
                    device,
                    world,
                    trainer.autocast,
                    progress.update,
                )
            with profile.stage("logging and checkpoint"):
                wer = trainer_contract.log_score(log, score, epoch)
                log.end(mllog.EVAL_STOP, epoch_num=epoch)
                if world.leads:
                    kept = Checkpoint(
                        params=params.as_dict(),
                        params_sha256=params.sha256,
                        seed=args.seed,
                        epoch=epoch,
                        step=state.step,
                        trained_samples=state.trained,
                        wer=wer,
                        model=_on_cpu(network.state_dict()),
                        optimizer=_on_cpu(optimizer.state_dict()),
                    )
                    save_checkpoint(kept, checkpoint_path(args.run_dir, epoch))
    except BaseException as error:
        died = loader_died(error)
        log.event(mllog.RUN_ABORTED_REASON, _reason(died or error), epoch_num=epoch)
        log.end(mllog.RUN_STOP, status=mllog.ABORTED, epoch_num=epoch)
        if died:
            raise died from None
        raise

    reached = wer is not None and wer <= params.train.target_wer
    trainer_contract.log_end(log, reached=reached, trained_samples=state.trained, epoch=epoch)
    profile.report()
    if not reached and world.local_rank == 0 and not world.leads:
        # No log is written on this machine, and torchrun's exit status does not tell.
        print(f"{trainer_contract.TARGET_MISSED}: WER {wer:.2f} % after epoch {epoch}", file=sys.stderr, flush=True)
    world.wait()
    return trainer_contract.exit_status(reached, world.size)


# ---------------------------------------------------------------------------------------------------------------------
# Set-up, checks and what the log says of them


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cuda` or `cpu` means here; UserError for `cuda` where PyTorch sees no GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "PyTorch sees no GPU here",
            where="DEVICE=cuda",
            remedy="check `nvidia-smi` and the driver, or use DEVICE=cpu",
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _channels_last(args: argparse.Namespace, params: Params, device: torch.device) -> bool:
    if args.conv_layout == "auto":
        return prefers_channels_last(device, params.train.precision)
    return args.conv_layout == "channels-last"


def _log_gru_dtype(log: mllog.LogWriter, params: Params, device: torch.device, world: distributed.World) -> None:
    """Log what GRUs compute with under the autocast in force; a warning where that is not what the variant asks for."""
    dtype = gru_dtype(device, params.model.rnn_hidden)
    log.event("gru_dtype", str(dtype).removeprefix("torch."))
    if params.train.precision == "bf16" and dtype != torch.bfloat16 and world.leads:
        print(NO_BF16_GRU, file=sys.stderr, flush=True)


def default_threads(params: Params) -> int:
    """CPU threads of a trainer process, where OMP_NUM_THREADS does not say: every core, but one for a small network.

    The small GRUs' operations take microseconds: on two cores a second thread makes a step of `mini` 1.6 times as fast
    while both cores are idle, and half as fast or worse as soon as anything else wants one of them, since each of the
    operations then waits for a thread that is not running. A benchmark's time should not hang on that.
    """
    return 1 if params.model.rnn_hidden <= SMALL_HIDDEN else limits.cores()


def _accelerator(rank: int, device: torch.device) -> dict[str, object]:
    if device.type == "cpu":
        return {"rank": rank, "device": "cpu", "name": f"CPU, threads: {torch.get_num_threads()}", "uuid": None}
    properties = torch.cuda.get_device_properties(device)
    return {"rank": rank, "device": str(device), "name": properties.name, "uuid": f"GPU-{properties.uuid}"}


def _check_shares(params: Params, train_samples: int, size: int) -> None:
    """Refuse more processes than a batch has utterances: no batch could be shared out, and nothing would be trained on."""
    most = min(params.train.batch_size, train_samples)
    if size > most:
        raise UserError(f"{size} processes cannot share a batch of {most} utterances", remedy=f"use at most {most}")


def _check_lengths(params: Params, manifest: Manifest) -> None:
    """Refuse an utterance too short for its transcript: its loss would be infinite (CTC has no path for it)."""
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
                remedy="leave it out of the training set",
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


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _door() -> int:
    try:
        return main()
    except torch.OutOfMemoryError as error:
        print(
            f"error: out of GPU memory ({_reason(error)}) - free the GPU, or use one with more memory", file=sys.stderr
        )
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        print(
            f"error: out of memory ({_reason(error)}) - close other programs, or use a larger machine", file=sys.stderr
        )
    return EXIT_ERROR


if __name__ == "__main__":
    distributed.end_process(run_cli(_door))
