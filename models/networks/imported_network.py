"""A network of the user's own, named by the import path of a function that builds it.

    network: {factory: "my_package.networks:build", options: {width: 16}}

The function is called as `build(channels=…, classes=…, **options)`, background among the classes, and returns a module
that maps `[N, C, X, Y, Z]` to logits `[N, K+1, X, Y, Z]`. It is also called with other numbers of channels and classes,
and without memory (torch's meta device), to look at shapes.

Building it runs the user's code. Whoever runs a study wrote its configuration; a model folder may come from a stranger,
so its network is built only with consent (`network_code_allowed`): reading it imports nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, PrivateAttr

from data.errors import GraftError
from data.options import Options

if TYPE_CHECKING:
    from torch import nn

_PATH = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
_consent: ContextVar[bool] = ContextVar("network_code_allowed", default=False)


class NetworkCodeError(GraftError):
    """The code of a network outside Graft may not be run, is not there, or does not behave as required."""


@contextmanager
def network_code_allowed(allowed: bool = True) -> Iterator[None]:
    """Allows imported networks to be built whose options are read inside the block, also in workers."""
    token = _consent.set(allowed)
    try:
        yield
    finally:
        _consent.reset(token)


class ImportedNetworkOptions(Options):
    """A network of your own: the import path of a function that builds it, and what it is called with."""

    name: Literal["imported"] = "imported"
    factory: str = Field(
        pattern=_PATH,
        description="Import path of the function, `package.module:function`; it is called as "
        "`function(channels=…, classes=…, **options)`.",
    )
    options: dict[str, JsonValue] = Field(default_factory=dict, description="What else the function is called with.")
    source: str = Field(
        default="", description="SHA-256 of the package's Python files; filled in by Graft, so that results follow it."
    )
    # Private, so that no file can set it; it goes along to workers.
    _allowed: bool = PrivateAttr(default_factory=lambda: _consent.get())

    def __eq__(self, other: object) -> bool:
        # Consent to run the code is not part of the network's identity.
        return isinstance(other, ImportedNetworkOptions) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def require_code(self) -> Callable[..., Any]:
        """Imports the function.

        Raises:
            NetworkCodeError: running its code was not allowed, or it is not there.
        """
        if not self._allowed:
            raise NetworkCodeError(
                f"the network is code outside Graft, `{self.factory}`, which is run only with your consent",
                expected="your consent, if you trust where the model comes from",
                fix="add --allow-network-code to the command, or allow_code=True in Python",
            )
        module, _, name = self.factory.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            raise NetworkCodeError(
                f"the network `{self.factory}` cannot be imported (no module named {error.name!r})",
                expected="its package where Graft is installed, or its folder in PYTHONPATH",
                fix="install the package, or set PYTHONPATH",
            ) from error
        except Exception as error:
            raise NetworkCodeError(
                f"the network `{self.factory}` cannot be imported ({type(error).__name__}: {error})",
                expected=f"a function {name} in the module {module}",
                fix="correct the path or the module",
            ) from error
        if not callable(found):
            raise NetworkCodeError(
                f"`{self.factory}` is of the type {type(found).__name__}",
                expected="a function that builds a network",
                fix="correct the path",
            )
        function: Callable[..., Any] = found
        return function


@contextmanager
def run_without_values(options: object) -> Iterator[None]:
    """Reports the failure of an imported network that is run inside the block on the meta device.

    Raises:
        NetworkCodeError: it fails.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(options, ImportedNetworkOptions):
            raise
        raise NetworkCodeError(
            f"the network `{options.factory}` cannot be run without values ({type(error).__name__}: {error})",
            expected="a forward pass that works on torch's meta device, whatever the numbers are",
            fix="correct it, or set `filters.grouping` to layer or all",
        ) from error


def build_imported(options: ImportedNetworkOptions, in_channels: int, out_channels: int) -> nn.Module:
    """Calls the function.

    Raises:
        NetworkCodeError: its code may not be run, is not there, fails, or does not return a network in which every
            parameter has one name.
    """
    from torch import nn

    function = options.require_code()
    try:
        network = function(channels=in_channels, classes=out_channels, **options.options)
    except Exception as error:
        raise NetworkCodeError(
            f"the network `{options.factory}` cannot be built for {in_channels} channels and {out_channels} classes "
            f"({type(error).__name__}: {error})",
            expected="a function build(channels, classes, **options) that takes any number of both",
            fix="correct the function or `network.options`",
        ) from error
    if not isinstance(network, nn.Module):
        raise NetworkCodeError(
            f"`{options.factory}` returned something of the type {type(network).__name__}",
            expected="a torch.nn.Module",
            fix="correct the function",
        )
    names = {name for name, _ in network.named_parameters()}
    if tied := [name for name, _ in network.named_parameters(remove_duplicate=False) if name not in names]:
        raise NetworkCodeError(
            f"the network `{options.factory}` has the parameter {tied[0]} under another name too",
            expected="one name for each parameter",
            fix="register every module once",
        )
    return network
