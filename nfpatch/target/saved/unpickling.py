"""Reading what `torch.save` wrote without running code of the file."""

from __future__ import annotations

import collections
import errno
import inspect
import pickle
import re
import sys
from typing import Any

from ..source import numbers_of, release
from .allowed import allowed_globals, dictionary_of_lightning
from .refusals import Refusal, WantsToRunCode, in_short

# The first torch whose restricted unpickler takes an object together with the name that stands for it.
FIRST_TORCH_THAT_RESTRICTS = (2, 6)


def unpickled(path: str, trust: bool) -> Any:
    """What `torch.save` wrote, its tensors on the CPU; without trust, by an unpickler that runs no code of the file."""
    import torch

    try:
        if trust:
            arguments = {"weights_only": False} if "weights_only" in inspect.signature(torch.load).parameters else {}
            return torch.load(path, map_location="cpu", **arguments)
        allowed = allowed_globals()
        if numbers_of(torch.__version__) >= FIRST_TORCH_THAT_RESTRICTS:
            return unpickled_by_torch(path, allowed)
        return torch.load(path, map_location="cpu", pickle_module=restricted_pickle(allowed))
    except pickle.UnpicklingError as error:
        raise refused_pickle(error) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which a place beyond the end of the file gives
            raise
        raise Refusal("is damaged or truncated, or no file of torch: " + in_short(error)) from error


def unpickled_by_torch(path: str, allowed: dict[str, Any]) -> Any:
    """What torch's restricted unpickler reads. It fills no dictionaries but three kinds, so others begin as one."""
    import torch

    attribute_dict = dictionary_of_lightning()
    begun: list[Any] = []

    class Begun:
        """Makes what becomes an AttributeDict in the end."""

        def __new__(cls) -> Any:
            begun.append(collections.Counter())
            return begun[-1]

    stand_ins = {name: Begun if value is attribute_dict else value for name, value in allowed.items()}
    with torch.serialization.safe_globals([(value, name) for name, value in stand_ins.items()]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    for each in begun:
        each.__class__ = attribute_dict
    return content


def restricted_pickle(allowed: dict[str, Any]) -> Any:
    """A stand-in for the module `pickle`, for releases of torch that cannot restrict their own."""
    import torch

    own = [collections.OrderedDict, set, torch.Size, torch.device, torch.Tensor, torch.nn.Parameter]
    rebuilding = [value for name, value in vars(torch._utils).items() if re.match("_rebuild_(tensor|parameter)", name)]
    types = {"torch." + name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    names = {value.__module__ + "." + value.__name__: value for value in own + rebuilding}
    known = dict(allowed, **names, **types)

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = known.get(module.replace("__builtin__", "builtins") + "." + name)
            if found is None:
                raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
            return found

    class Pickle:
        pass

    Pickle.Unpickler = Unpickler  # type: ignore[attr-defined]
    Pickle.load = staticmethod(lambda file, **options: Unpickler(file, **options).load())  # type: ignore[attr-defined]
    return Pickle


def refused_pickle(error: Exception) -> Refusal:
    """What to say when an unpickler refuses a file, after the name that it gives."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is not None:
        module_name, _, name = found.group(1).rpartition(".")
        if module_name.startswith("neuralforecast.") and not hasattr(sys.modules.get(module_name), name):
            return Refusal(f"holds `{found.group(1)}`, which neuralforecast {release()} does not have")
    elif "reduce" not in str(error) and "new object" not in str(error):
        # torch says a lot before that
        words = str(error).rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0]
        return Refusal("is damaged, or no file that torch.save wrote: " + words)
    what = "a function that it makes itself" if found is None else f"`{found.group(1)}`"
    return WantsToRunCode(f"wants to use {what}, which nfpatch does not know to be harmless")
