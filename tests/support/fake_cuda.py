"""A GPU that is not there: PyTorch's fake tensors, with what they lack on a machine without a driver.

Fake tensors (torch._subclasses.fake_tensor) have a device, a type and a shape, and no values: every operation checks
what it is given and says what it would yield. PyTorch's engine for the reverse pass asks the driver for its streams, and
cuDNN and CTC are called past the fake tensors' reach; they are stood in for here, with checks of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

try:
    from torch._subclasses.fake_tensor import FakeTensorMode
except ImportError:
    FakeTensorMode = None

CUDA = torch.device("cuda", 0)


class Watch(TorchDispatchMode):
    """Notes each operation for which the host would wait for the GPU, and the type that each GRU was given.

    `waits` grows by the operation's name; `grus` by (input's type, weights' type).
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.grus: list[tuple[torch.dtype, torch.dtype]] = []
        self._page_locked: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_unique2") and args[0].is_cuda:
            self.waits.append(name)
            if name == "_local_scalar_dense":
                return 1.0
        if name == "nonzero":
            # The largest possible number of rows: fake tensors have no values to count.
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        if _hidden_wait(name, args):
            self.waits.append(name)
        if name.startswith("_fused_"):
            return _fused_update(args, kwargs)
        out = func(*args, **kwargs)
        if kwargs.get("pin_memory"):
            self.page_lock(out)
        elif any(argument.name == "non_blocking" for argument in func._schema.arguments):
            given = {
                argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)
            } | kwargs
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], out)
            if isinstance(source, Tensor):
                self._copied(source, target, given.get("non_blocking", False))
        return out

    def page_lock(self, value: Tensor) -> Tensor:
        """Mark a tensor in host memory as page-locked."""
        self._page_locked[value.untyped_storage()._cdata] = value
        return value

    def is_page_locked(self, value: Tensor) -> bool:
        """Whether the memory of this tensor is marked as page-locked."""
        return value.untyped_storage()._cdata in self._page_locked

    def _copied(self, source: Tensor, target: Tensor, non_blocking: bool) -> None:
        if source.is_cuda == target.is_cuda:
            return
        on_host = target if source.is_cuda else source
        if not non_blocking or not self.is_page_locked(on_host):
            self.waits.append(f"copy {source.device.type} to {target.device.type}")


@contextmanager
def fake_gpu(bf16_in_cudnn: bool = True) -> Iterator[Watch]:
    """Inside, tensors on `cuda` are fake, and so are all others; skips the test where this PyTorch cannot."""
    if FakeTensorMode is None:
        pytest.skip("this PyTorch has no fake tensors")
    watch = Watch()
    with (
        FakeTensorMode(),
        watch,
        mock.patch.object(Tensor, "backward", _backward),
        mock.patch.object(Tensor, "pin_memory", lambda value: watch.page_lock(value.clone())),
        mock.patch.object(Tensor, "is_pinned", lambda value: watch.is_page_locked(value)),
        mock.patch.object(torch, "gru", _gru_noted_by(watch)),
        mock.patch.object(functional, "ctc_loss", _ctc_loss),
        mock.patch("torch.cuda.Event", _Event),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("torch.cuda.get_device_name", return_value="no card"),
        mock.patch("torch._cudnn_rnn_flatten_weight"),
        mock.patch("torch.nn.GRU.flatten_parameters"),
        mock.patch("reference_model.model.gru.bf16_in_cudnn", return_value=bf16_in_cudnn),
    ):
        yield watch


def _hidden_wait(name: str, args: Any) -> bool:
    """Operations whose kernels wait or copy where no copy is to be seen: places by a mask, a number out of plain memory."""
    if name.startswith("index_put") or name == "index":
        masks = [each for each in args[1] if isinstance(each, Tensor) and each.dtype == torch.bool]
        return args[0].is_cuda and bool(masks)
    tensors = [each for each in args if isinstance(each, Tensor)]
    return name == "where" and len({each.is_cuda for each in tensors}) == 2


def _fused_update(args: Any, kwargs: Any) -> None:
    """What PyTorch's fused optimizers ask of weights, gradients and state; fake tensors have no values to update."""
    lists = [each for each in args if isinstance(each, list) and each]
    for weight, *others in zip(*(each for each in lists if len(each) == len(lists[0])), strict=True):
        wanted = (CUDA, weight.dtype, weight.stride())
        for other in others:
            # AdamW's step counters have no dimension.
            assert other.dim() == 0 or (other.device, other.dtype, other.stride()) == wanted
    assert kwargs["found_inf"].device == CUDA and kwargs["found_inf"].dtype == torch.float32


class _Event:
    def record(self) -> None:
        """There is nothing to mark."""

    def synchronize(self) -> None:
        """There is nothing to wait for."""


def _gru_noted_by(watch: Watch) -> Any:
    def gru(
        x: Tensor, start: Tensor, weights: list[Tensor], biases: bool, layers: int, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        """Every weight takes part, as it would in cuDNN, which wants all of one type on one device."""
        _, _, both, batch_first = rest
        assert biases and not batch_first and len(weights) == 4 * layers * (1 + both)
        assert {(each.dtype, each.device) for each in (start, *weights)} == {(x.dtype, x.device)}, (
            "cuDNN wants one type"
        )
        assert not torch.is_autocast_enabled("cuda"), "autocast would hand cuDNN fp16"
        watch.grus.append((x.dtype, weights[0].dtype))
        width = weights[1].shape[1]
        y = x
        for layer in range(layers):
            of_layer = weights[4 * layer * (1 + both) : 4 * (layer + 1) * (1 + both)]
            gates = [
                y @ w_ih.t() + b_ih + b_hh + (y.new_zeros(1, width) @ w_hh.t())
                for w_ih, w_hh, b_ih, b_hh in zip(*(of_layer[place::4] for place in range(4)), strict=True)
            ]
            y = torch.cat([each[..., :width].tanh() for each in gates], 2)
        return y, start

    return gru


def _ctc_loss(
    log_probabilities: Tensor, labels: Tensor, frames: Tensor, label_lengths: Tensor, blank: int, reduction: str
) -> Tensor:
    """PyTorch's own waits for the GPU, as the documentation says; lengths on the host at least are not asked of it."""
    assert log_probabilities.is_cuda and log_probabilities.dtype == torch.float32
    assert labels.is_cuda and not frames.is_cuda and not label_lengths.is_cuda
    return log_probabilities.sum() * labels.sum()


def _backward(loss: Tensor) -> None:
    """The reverse pass over PyTorch's own graph, node by node, with what the engine checks of gradients."""
    users = _users(loss.grad_fn)
    incoming: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    incoming[loss.grad_fn][0] = torch.ones_like(loss)
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        given = incoming.pop(node, {})
        if hasattr(node, "variable"):
            _keep(node.variable, given[0])
            continue
        gradients = [_as_expected(given.get(place), about) for place, about in enumerate(node._input_metadata)]
        with torch.no_grad():
            found = node(*gradients) if callable(node) else node.apply(*gradients)
        found = found if isinstance(found, tuple) else (found,)
        # A function of our own answers for what is no tensor, too: such arguments come first.
        for (user, place), gradient in zip(node.next_functions, found[-len(node.next_functions) :], strict=True):
            if gradient is not None and user is not None:
                before = incoming[user].get(place)
                incoming[user][place] = gradient if before is None else before + gradient
            users[user] -= 1
            if user is not None and not users[user]:
                ready.append(user)


def _users(root: Any) -> dict[Any, int]:
    """How many edges of the graph under `root` lead to each node."""
    users: dict[Any, int] = defaultdict(int)
    seen, todo = {root}, [root]
    while todo:
        for node, _ in todo.pop().next_functions:
            users[node] += 1
            if node is not None and node not in seen:
                seen.add(node)
                todo.append(node)
    return users


def _as_expected(gradient: Tensor | None, about: Any) -> Tensor:
    """The gradient as a node wants it: of its result's shape, which may have been widened, type and device."""
    if gradient is None:
        return torch.zeros(tuple(about.shape), dtype=about.dtype, device=about.device)
    assert gradient.device == about.device
    return gradient.sum_to_size(tuple(about.shape)).to(about.dtype)


def _keep(weight: Tensor, gradient: Tensor) -> None:
    """The gradient becomes the weight's, in the weight's memory layout."""
    gradient = gradient.sum_to_size(weight.shape)
    assert (gradient.dtype, gradient.device) == (weight.dtype, weight.device)
    weight.grad = torch.empty_like(weight).copy_(gradient)
