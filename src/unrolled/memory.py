"""How much memory there is, and how many bytes of tensors a piece of code needs at once, counted as it runs, on any device."""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def capacity(device: torch.device) -> int | None:
    """The most bytes that this process could ever have on a device, used or not; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits: list[int] = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for of_container in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):
            limits.append(int(Path(of_container).read_text()))
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limits += [limit for limit in resource.getrlimit(resource.RLIMIT_AS)[:1] if limit != resource.RLIM_INFINITY]
    return min((limit for limit in limits if limit > 0), default=None)


class LiveBytes(TorchDispatchMode):
    """Counts, inside a `with`, the bytes of tensors that operators make: `live` now, `peak` the most at once.

    What a graph keeps for its backward pass counts for as long as the graph lives, and so do gradients. Tensors made
    before the `with` do not count, nor does what an operator allocates and frees within itself. Each operator costs
    some microseconds more while it is counted.

    >>> import torch
    >>> with LiveBytes() as bytes:
    ...     for _ in range(10):
    ...         x = torch.zeros(1000) + 1  # the zeros are freed at once, the last x is kept
    >>> bytes.live, bytes.peak
    (4000, 12000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its whole compiler at the first operator: 1.4 s and 60 MB for nothing

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            self._meet(value, is_new=False)
        result = func(*args, **kwargs)
        for value in tree_leaves(result):
            self._meet(value, is_new=True)
        return result

    def _meet(self, value: Any, *, is_new: bool) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()  # views share it, so each counts once
        if storage._cdata in self._known:
            return
        size = storage.nbytes() if is_new else 0
        self._known.add(storage._cdata)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage._cdata, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
