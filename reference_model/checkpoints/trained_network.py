"""A trained network as inference needs it, and the metadata that our files carry about the network in them.

`checkpoints.loading.load_trained` makes one from a file of any known format.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark.params import FeatureParams, ModelParams, plain
from common.errors import UserError
from common.formats import EXPORTED, decode
from reference_model.model.alphabet import LABELS
from reference_model.model.features import Features
from reference_model.model.network import DeepSpeech2


@dataclass(frozen=True)
class Trained:
    """A network's shape, features and weights, and the file that they came from.

    `precision` is the one that training evaluated with; `wer` (percent) is the result of that evaluation. `source`
    describes the file and its kind, `source_sha256` is its hash. What a file does not state is None.
    """

    model: ModelParams
    features: FeatureParams
    precision: str
    weights: dict[str, Tensor]
    source: str
    source_sha256: str
    variant: str | None = None
    epoch: int | None = None
    wer: float | None = None

    def network(self) -> DeepSpeech2:
        """The network in evaluation mode. Padding never changes an utterance's result.

        In a bidirectional network that was trained without masks (`librispeech_5bi`) the padding is masked here; in all
        others it follows the utterance and cannot affect it.
        """
        network = self._network()
        load_weights(network, self.weights, self.source)
        return network.eval()

    def check_weights(self) -> None:
        """UserError naming the first weight that is missing, unknown or of another shape."""
        check_weights(self._network("meta"), self.weights, self.source)

    def _network(self, device: str = "cpu") -> DeepSpeech2:
        shape = dataclasses.replace(self.model, mask_padding=self.model.bidirectional, sync_batch_norm=False)
        bins = Features(self.features).bins
        with torch.device(device):
            return DeepSpeech2(shape, bins)

    def metadata(self) -> dict[str, str]:
        """Everything but the weights, as the flat strings that safetensors and ONNX files carry."""
        about = {
            "labels": LABELS,
            "model": plain(self.model),
            "features": plain(self.features),
            "precision": self.precision,
            "variant": self.variant,
            "epoch": self.epoch,
            "wer": self.wer,
            "source": self.source,
            "source_sha256": self.source_sha256,
        }
        return {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in EXPORTED.with_version(about).items()
        }


def load_weights(network: DeepSpeech2, weights: Mapping[str, Tensor], where: object) -> None:
    """Load `weights` into `network`; UserError as check_weights."""
    check_weights(network, weights, where)
    network.load_state_dict(weights)


def check_weights(network: DeepSpeech2, weights: Mapping[str, Tensor], where: object) -> None:
    """UserError naming missing or unknown weights, or the first of another shape or with non-finite values."""
    expected = network.state_dict()
    faults = []
    if missing := [name for name in expected if name not in weights]:
        faults.append(f"the weight {missing[0]} is missing{_and_others(missing)}")
    if unknown := sorted(set(weights) - set(expected)):
        faults.append(f"the weight {unknown[0]} is not part of this network{_and_others(unknown)}")
    if faults:
        raise UserError("; ".join(faults), where=where)
    for name, tensor in expected.items():
        found_tensor = weights[name]
        if not isinstance(found_tensor, Tensor) or found_tensor.layout != torch.strided or found_tensor.is_complex():
            raise UserError(f"the weight {name} is not a plain tensor of numbers", where=where)
        if weights[name].shape != tensor.shape:
            found, wanted = tuple(weights[name].shape), tuple(tensor.shape)
            raise UserError(f"the weight {name} has the shape {found}, not {wanted}", where=where)
        if not found_tensor.isfinite().all():
            raise UserError(f"the weight {name} holds values that are not numbers", where=where)


def _and_others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


@dataclass(frozen=True, kw_only=True)
class _About:
    """The metadata of a file of ours, decoded."""

    labels: str
    model: dict
    features: dict
    precision: Literal["fp32", "tf32", "bf16"]
    source: str
    source_sha256: str
    variant: str | None = None
    epoch: int | None = None
    wer: float | None = None


_REMEDY = "give a file that `reference_model.checkpoint import` or `reference_model.export_onnx` wrote"


def from_metadata(texts: Mapping[str, str], weights: dict[str, Tensor], where: object) -> Trained:
    """The Trained whose `metadata` is `texts`, of this or an older version; UserError naming the fault."""
    about = EXPORTED.read(_About, {key: value_of(key, text) for key, text in texts.items()}, where, _REMEDY)
    if about.labels != LABELS:
        raise UserError("its labels are not ours", where=where)
    try:
        # An unknown parameter would change the network: parameters at their neutral default are left out of files.
        model = decode(ModelParams, about.model, strict=True, name="model")
        features = decode(FeatureParams, about.features, strict=True, name="features")
    except UserError as error:
        raise UserError(f"{error.where}: {error.what}", where=where, remedy=error.remedy) from None
    return Trained(
        model=model,
        features=features,
        precision=about.precision,
        weights=weights,
        source=about.source,
        source_sha256=about.source_sha256,
        variant=about.variant,
        epoch=about.epoch,
        wer=about.wer,
    )


def value_of(key: str, text: str) -> Any:
    """The value of the text under `key` in `Trained.metadata`."""
    if key in ("labels", "precision", "source", "source_sha256"):
        return text
    if key == "variant":
        return None if text == "null" else text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
