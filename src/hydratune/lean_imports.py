"""Import large libraries without the parts of them that a run may never use.

Some libraries import others for a single rare function: PEFT imports bitsandbytes, which imports
torch's compiler; transformers imports SciPy's optimizers for losses of object detection;
torchmetrics, which Lightning imports, brings SciPy's signal processing and Matplotlib. The modules
that do so get a stand-in, which imports the real module as soon as anything of it is used. No
behaviour is lost, and a version of such a library that uses more of it at once only starts more
slowly. Only these modules get the stand-ins: ``sys.modules`` never holds one.
"""

import builtins
import gc
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_BITSANDBYTES = "bitsandbytes"
_CHECKS = ("is_bnb_available", "is_bnb_4bit_available")
_LIBRARIES = ("peft", "torchmetrics", "transformers")
_PLOTS = "torchmetrics.utilities.plot"
_DETECTION = tuple(
    f"transformers.loss.loss_{name}"
    for name in (
        *("deformable_detr", "for_object_detection", "grounding_dino"),
        *("lw_detr", "rf_detr", "rt_detr"),
    )
)
_SPEECH = ("torchmetrics", "torchmetrics.audio", "torchmetrics.functional.audio")
Attributes = Mapping[str, object]


class StandIn(ModuleType):
    """A module that is imported when an attribute is read other than those it was given."""

    def __init__(self, name: str, attributes: Attributes) -> None:
        super().__init__(name)
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> object:
        """Return the attribute of the real module."""
        return getattr(importlib.import_module(vars(self)["__name__"]), name)


def _deferred_call(module: str, function: str) -> Callable[..., object]:
    """Return a function that imports ``module`` and calls its ``function``."""

    def call(*args: object, **kwargs: object) -> object:
        return getattr(importlib.import_module(module), function)(*args, **kwargs)

    return call


def _deferred(importing: str) -> dict[str, Attributes]:
    """Return what the module ``importing`` imports without need.

    With each module stand the attributes that are read at once.
    """
    if importing == "peft.helpers":
        return {_BITSANDBYTES: {}}
    if importing in _DETECTION:
        function = "linear_sum_assignment"
        return {"scipy.optimize": {function: _deferred_call("scipy.optimize", function)}}
    if importing in _SPEECH:
        # They restore this old name, which a package that measures speech uses.
        return {"scipy.signal": {"hamming": _deferred_call("scipy.signal.windows", "hamming")}}
    return {}


def _import_with(deferred: Mapping[str, Attributes]) -> Callable[..., ModuleType]:
    """Return an ``__import__`` that gives stand-ins for installed modules in ``deferred``."""

    def import_(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        package, _, rest = name.partition(".")
        is_deferred = level == 0 and name in deferred and name not in sys.modules
        if not is_deferred or importlib.util.find_spec(package) is None:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = StandIn(name, deferred[name])
        if fromlist or not rest:
            return module
        return StandIn(package, {rest: module})  # import a.b is the import of a

    return import_


def _checks_for_layers_of_bitsandbytes(importing: str) -> bool:
    """Whether a module of PEFT imports bitsandbytes to find out if a layer is one of its layers."""
    is_method = importing.startswith("peft.tuners.") and importing.endswith(".model")
    return is_method or importing == "peft.utils.quantization_utils"


def _if_imported(is_available: Callable[[], bool]) -> Callable[[], bool]:
    """Return a check that says no while bitsandbytes is not imported: no layer can be of it."""

    @wraps(is_available)
    def check() -> bool:
        return _BITSANDBYTES in sys.modules and is_available()

    return check


def _defer_plots(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    """Return what prepares torchmetrics' module of plots, which imports Matplotlib when it is used.

    Every metric's module imports names of it.
    """
    lock = threading.RLock()

    def prepare(module: ModuleType) -> None:
        names = vars(module)

        def attribute(name: str) -> object:
            if name.startswith("__"):  # Python looks for __path__, which only packages have
                raise AttributeError(name)
            with lock:
                if "__getattr__" in names:
                    execute(module)
                    names.pop("__getattr__", None)
            return getattr(module, name)

        def deferred(name: str) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                return attribute(name)(*args, **kwargs)  # type: ignore[operator]  # a function

            return call

        for function in ("plot_confusion_matrix", "plot_curve", "plot_single_or_multi_val"):
            names[function] = deferred(function)
        # In annotations, as torchmetrics defines them where there is no Matplotlib.
        names.update(_AX_TYPE=object, _CMAP_TYPE=object, _PLOT_OUT_TYPE=tuple[object, object])
        names["__getattr__"] = attribute

    return prepare


def _read_each_file_once(import_utils: ModuleType) -> None:
    """Have transformers read the names in its 1,600 files once, not twice, when it is imported.

    It remembers the last 128 folders of more than 500.
    """
    name = "create_import_structure_from_path"
    if read := getattr(vars(import_utils).get(name), "__wrapped__", None):
        vars(import_utils)[name] = cache(read)


def _look_for_layers_of_bitsandbytes_only_if_imported(module: ModuleType) -> None:
    for name in {*_CHECKS} & {*vars(module)}:
        vars(module)[name] = _if_imported(vars(module)[name])


def _executed_with(
    deferred: Mapping[str, Attributes], execute: Callable[[ModuleType], None]
) -> Callable[[ModuleType], None]:
    """Return what executes a module that gets stand-ins for ``deferred``."""

    def execute_with_stand_ins(module: ModuleType) -> None:
        own_import = {"__import__": _import_with(deferred)}
        # exec() takes the builtins from the namespace if it has some
        vars(module)["__builtins__"] = {**vars(builtins), **own_import}
        execute(module)

    return execute_with_stand_ins


def _executed_and_changed(
    change: Callable[[ModuleType], None], execute: Callable[[ModuleType], None]
) -> Callable[[ModuleType], None]:
    """Return what executes a module and then changes it."""

    def execute_and_change(module: ModuleType) -> None:
        execute(module)
        change(module)

    return execute_and_change


def _executing_less(
    execute: Callable[[ModuleType], None], importing: str
) -> Callable[[ModuleType], None] | None:
    """Return what executes the module ``importing`` with less imports, None for most modules."""
    if importing == _PLOTS:
        return _defer_plots(execute)
    if deferred := _deferred(importing):
        return _executed_with(deferred, execute)
    if importing == "transformers.utils.import_utils":
        return _executed_and_changed(_read_each_file_once, execute)
    if _checks_for_layers_of_bitsandbytes(importing):
        return _executed_and_changed(_look_for_layers_of_bitsandbytes_only_if_imported, execute)
    return None


class Finder(MetaPathFinder):
    """Finds modules where Python does, and has those import less that import without need."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the usual spec of a module that is to import less, None for any other."""
        if fullname.partition(".")[0] not in _LIBRARIES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = _executing_less(spec.loader.exec_module, fullname)
        if execute is None:
            return None
        # On the instance: libraries recognise a loader by its class.
        vars(spec.loader)["exec_module"] = execute
        return spec


def install() -> None:
    """Import large libraries this way from now on, in this process."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


@contextmanager
def garbage_collection_paused() -> Iterator[Callable[[], None]]:
    """Pause garbage collection for a while in which few objects become garbage.

    Yields a function that ends the pause earlier.
    """
    was_enabled = gc.isenabled()

    def resume() -> None:
        if was_enabled:
            gc.enable()

    gc.disable()
    try:
        yield resume
    finally:
        resume()


def load(name: str) -> ModuleType:
    """Import a command's module, with the large libraries that it imports.

    Python would search the modules for garbage again and again, although they live to the end of
    the process. They are left out of garbage collection, as is what exists before.
    """
    if name in sys.modules:
        return sys.modules[name]
    with garbage_collection_paused():
        install()
        module = importlib.import_module(name)
        freeze()
    return module


_has_frozen: list[bool] = []  # once there is something in it


def freeze() -> None:
    """Leave all objects that exist now out of garbage collection."""
    gc.freeze()
    _has_frozen.append(True)


def has_frozen() -> bool:
    """Return whether ``freeze`` was called; ``gc.get_freeze_count`` would count a million objects,
    for 50 ms.
    """
    return bool(_has_frozen)
