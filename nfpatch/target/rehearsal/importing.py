"""Actions that are due as soon as some module has been imported."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable


class AfterImport:
    """A finder of modules that finds none itself, and lets an action see each module of these names once it is there.

    It stands first in `sys.meta_path`. The module keeps the loader that it would have had.
    """

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self._actions = actions

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The specification of a module of these names; None for all others, which the next finder is asked for."""
        action = self._actions.get(name)
        if action is None:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    act_after(spec.loader, action)
                return spec
        return None


def act_after(loader: Any, action: Callable[[ModuleType], None]) -> None:
    """Makes this loader, which is one module's own, call the action when it has run the module."""
    run = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        run(module)
        action(module)

    loader.exec_module = exec_module
