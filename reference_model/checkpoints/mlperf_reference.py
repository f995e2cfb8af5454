"""Reads checkpoints of the MLPerf speech reference and of TBD.

Their format is a package pickled by `torch.save`: a dictionary with `state_dict`, `hidden_size`, `hidden_layers`,
`rnn_type`, `labels`, `audio_conf` and the training history (`DeepSpeech.serialize` in the reference's model.py). The
network's shape is derived from the weights themselves, and the package's own statements must agree with it. Files of
other trainers of the same network (a bare state_dict, or one in another dictionary) state less; the rest is assumed to
be as in the reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.params import FeatureParams, ModelParams
from common.errors import UserError
from common.files import sha256_of
from datasets.geometry import SMALLEST_BINS, output_bins
from reference_model.checkpoints.trained_network import Trained
from reference_model.model.alphabet import LABELS
from reference_model.model.features import Features

PLAIN_TYPES: tuple[Any, ...] = (
    # The history holds numpy scalars (error rates per epoch). Constructing them runs no code from the file.
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
)
REFERENCE_AUDIO = {"sample_rate": 16_000, "window_size": 0.02, "window_stride": 0.01, "window": "hamming"}
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
"""The keys under which trainers save the weights; `module` is DeepSpeed's."""
WRAPPERS = frozenset(
    {
        *("module", "_orig_mod"),  # DataParallel, DDP and AveragedModel; torch.compile
        *("model", "net", "network"),  # a LightningModule's attribute
        *("_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),  # Lightning, FSDP, recomputation
    }
)
"""Parts of weight names that come from wrappers of the network or of its modules. The network's own names have none."""
_REMEDY = "give a DeepSpeech2 package of the MLPerf speech reference or of TBD, or one of our own checkpoints"


def trained_from_package(package: object, path: Path) -> Trained:
    """The network in a package; UserError that says what is missing or not supported."""
    if not isinstance(package, dict):
        raise _unknown_format(path)
    weights = _weights(_state_dict(package, path), path)
    model, bins = _shape(weights, path)
    _check_statements(package, model, path)
    features = _features(package.get("audio_conf") or {}, path)
    ours = max(Features(features).bins, SMALLEST_BINS)
    if bins is not None and bins != output_bins(ours):
        raise UserError(
            f"the first GRU takes {bins} bins a channel, {output_bins(ours)} fit the audio_conf", where=path
        )
    epoch = package.get("epoch")
    trained = Trained(
        model=model,
        features=features,
        precision="fp32",
        weights=weights,
        source=f"{path.name}, {_kind(package)}",
        source_sha256=sha256_of(path),
        epoch=epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None,
    )
    trained.network()  # raises a UserError that names a missing or misshapen weight
    return trained


def _unknown_format(path: Path) -> UserError:
    return UserError("not a checkpoint of a known format: it holds no state_dict", where=path, remedy=_REMEDY)


def _kind(package: Mapping[Any, Any]) -> str:
    if "state_dict" in package and "audio_conf" in package:
        return "a package of the MLPerf speech reference or TBD"
    return "weights of another trainer"


def _state_dict(package: Mapping[Any, Any], path: Path) -> Mapping[Any, Any]:
    """The weights in a package, or the package itself where it is a bare state_dict."""
    if package and all(isinstance(value, Tensor) for value in package.values()):
        return package
    held = [key for key in CONTAINERS if isinstance(package.get(key), Mapping)]
    held = [key for key in held if any(isinstance(value, Tensor) for value in package[key].values())]
    if not held:
        raise _unknown_format(path)
    if len(held) > 1:
        raise UserError(
            f"it holds several networks ({', '.join(held)})", where=path, remedy="save only the one that you mean"
        )
    return package[held[0]]


def _our_name(name: str) -> str:
    """A weight's name without the parts that wrappers add (WRAPPERS), and with the `module` that our names contain."""
    bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    return re.sub(r"^(fc\.0|rnns\.\d+\.batch_norm)\.", r"\1.module.", bare)


def _weights(state_dict: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The weights under our names, wrappers removed, missing batch counters added."""
    weights: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError("its state_dict is not names and tensors", where=path, remedy=_REMEDY)
        ours = _our_name(name)
        if ours in theirs:
            raise UserError(f"{theirs[ours]} and {name} are both the weight {ours}", where=path)
        if ours != "n_averaged":  # AveragedModel's counter
            weights[ours], theirs[ours] = value.detach(), name
    for name in list(weights):
        weights[name] = weights[name].float() if weights[name].is_floating_point() else weights[name]
        if name.endswith("running_mean"):
            # PyTorch before 0.4.1 had no such counter; evaluation does not use it.
            weights.setdefault(name.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    broken = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise UserError(f"the weight {broken[0]} holds values that are not numbers", where=path)
    return weights


def _shape(weights: Mapping[str, Tensor], path: Path) -> tuple[ModelParams, int | None]:
    """The network's shape, derived from its weights, and the bins per channel that its first GRU takes."""
    first, recurrent = weights.get("conv.0.weight"), weights.get("rnns.0.rnn.weight_hh_l0")
    inputs = weights.get("rnns.0.rnn.weight_ih_l0")
    if first is None or recurrent is None or inputs is None or first.dim() != 4 or recurrent.dim() != 2:
        raise UserError(
            f"its weights are not DeepSpeech2's (conv.0.weight, rnns.0.rnn...) but {', '.join(sorted(weights)[:3])}...",
            where=path,
            remedy=_REMEDY,
        )
    gates, hidden = recurrent.shape
    if gates != 3 * hidden:
        kind = {1: "a plain RNN", 4: "an LSTM"}.get(gates // max(1, hidden), "not a GRU")
        raise UserError(f"its recurrent layers are {kind}; only GRUs are supported", where=path)
    layers = len({name.split(".")[1] for name in weights if name.startswith("rnns.") and "weight_hh_l0" in name})
    model = ModelParams(
        conv_channels=first.shape[0],
        rnn_hidden=hidden,
        rnn_layers=layers,
        bidirectional="rnns.0.rnn.weight_hh_l0_reverse" in weights,
        batch_norm_between="rnns.1.batch_norm.module.weight" in weights,
        mask_padding=False,
        sync_batch_norm=False,
    )
    channels = first.shape[0]
    return model, inputs.shape[1] // channels if inputs.dim() == 2 and inputs.shape[1] % channels == 0 else None


def _check_statements(package: Mapping[str, Any], model: ModelParams, path: Path) -> None:
    labels = package.get("labels", LABELS)
    found_labels = (
        "".join(labels) if isinstance(labels, list | tuple) and all(isinstance(c, str) for c in labels) else labels
    )
    if found_labels != LABELS:
        raise UserError("its labels are not the reference's", where=path, remedy=f"they must be {list(LABELS)}")
    kind = package.get("rnn_type", "gru")
    if kind != "gru":
        raise UserError(f"its rnn_type is {kind!r}; only gru is supported", where=path)
    for key, found in (("hidden_size", model.rnn_hidden), ("hidden_layers", model.rnn_layers)):
        if package.get(key, found) != found:
            raise UserError(f"it states {key} {package[key]!r}, its weights have {found}", where=path)


def _features(audio: object, path: Path) -> FeatureParams:
    if not isinstance(audio, Mapping):
        raise UserError("its audio_conf is not a dictionary", where=path, remedy=_REMEDY)
    conf: dict[str, Any] = REFERENCE_AUDIO | {key: audio[key] for key in REFERENCE_AUDIO if key in audio}
    if conf["window"] != "hamming":
        raise UserError(f"its window is {conf['window']!r}; only hamming is supported", where=path)
    if not all(isinstance(conf[key], int | float) for key in ("sample_rate", "window_size", "window_stride")):
        raise UserError("its audio_conf does not hold numbers", where=path, remedy=_REMEDY)
    try:
        return FeatureParams(
            kind="spectrogram",
            sample_rate_hz=int(conf["sample_rate"]),
            window_s=float(conf["window_size"]),
            hop_s=float(conf["window_stride"]),
            mfcc_coefficients=13,
        )
    except UserError as error:
        raise UserError(f"its audio_conf cannot be used: {error}", where=path) from None
