"""A complete trainer without a model, as a starting point: everything that docs/trainer.md requires.

    DEVICE=cpu sh run_and_time.sh --variant mini --trainer-module examples.plain_trainer

Learning and recognition are simulated: training sleeps for a hundredth of the audio's duration, and after epoch N
the evaluation misses every (N + 1)th word of an utterance. Its figures describe no model. Everything else is
as in any trainer.
"""

import json
import time

from benchmark import mllog
from benchmark import trainer_contract as contract
from benchmark.error_rates import score_of
from benchmark.params import load_params
from common.errors import run_cli
from datasets.dataset import read_dataset


def main() -> int:
    """Train until the target or the last epoch; returns the exit status."""
    args = contract.argument_parser("python -m examples.plain_trainer", __doc__).parse_args()
    params, log = load_params(args.params), mllog.LogWriter(contract.print_line)
    train, evaluation = map(read_dataset(args.data).manifest, (params.data.train_split, params.data.eval_split))
    epoch, wer = json.loads(args.resume.read_text()) if args.resume else (0, float("inf"))
    if args.resume:
        log.event(mllog.RESUMED, epoch)
    else:
        log.start(mllog.INIT_START)
        contract.log_parameters(log, params, seed=args.seed, train_samples=len(train), eval_samples=len(evaluation))
        log.end(mllog.INIT_STOP)
        log.start(mllog.RUN_START)  # from here on the clock runs, and audio may be read

    while wer > params.train.target_wer and epoch < params.train.max_epochs:
        epoch, start_s = epoch + 1, time.monotonic()
        log.start(mllog.EPOCH_START, epoch_num=epoch)
        contract.ProgressLine("train", epoch, 0, len(train)).print()  # repeat this during the epoch
        time.sleep(sum(each.duration_s for each in train) / 100)  # instead of training on train.audio_path(each)
        log.end(mllog.EPOCH_STOP, epoch_num=epoch)
        train_s = time.monotonic() - start_s
        stats = {"train_loss": 1 / epoch, "train_s": train_s, "utterances_per_s": len(train) / train_s}
        log.event(mllog.TRACKED_STATS, stats, epoch_num=epoch)

        log.start(mllog.EVAL_START, epoch_num=epoch)
        wer = contract.log_score(log, score_of((each.text, recognize(each.text, epoch)) for each in evaluation), epoch)
        log.end(mllog.EVAL_STOP, epoch_num=epoch)
        contract.save_checkpoint(args.run_dir, epoch, ".txt", json.dumps([epoch, wer]).encode())
    reached = wer <= params.train.target_wer
    contract.log_end(log, reached=reached, trained_samples=len(train) * epoch, epoch=epoch)
    return contract.exit_status(reached)


def recognize(text: str, epoch: int) -> str:
    """The text that is recognized for an utterance of `text` after `epoch`."""
    return " ".join(word for place, word in enumerate(text.split(), 1) if place % (epoch + 1))


if __name__ == "__main__":
    raise SystemExit(run_cli(main))
