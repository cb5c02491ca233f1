"""A second copy of the package, with one piece of its source replaced: what the checks must catch.

Functions of the backward are captured where modules are imported, in tuples such as `Calculus` and
`Cell`. So the whole package is imported once more under another name. The copy has classes of its
own, and `translate` takes values to their counterparts in it.
"""

import sys
from functools import cache, partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from lstm_jax.cells.passes import Layout
from lstm_jax.gradients import GradFn, bptt

PACKAGE, COPY = "lstm_jax", "mutant"
Modules = dict[str, ModuleType]  # by the names of their counterparts


@cache
def compiled(path: str, old: str, new: str) -> CodeType:
    """A module of the copy."""
    source = Path(path).read_text().replace(old, new)
    return compile(source.replace(PACKAGE, COPY), path, "exec")


class Importer:
    """Finds and loads the modules of the copy, one of them with a piece of it replaced."""

    def __init__(self, broken: str, old: str, new: str) -> None:
        self.broken, self.change = broken, (old, new)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.split(".")[0] != COPY:
            return None
        spec = find_spec(name.replace(COPY, PACKAGE, 1))
        is_package = spec.submodule_search_locations is not None
        return spec_from_loader(name, self, origin=spec.origin, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: ModuleType) -> None:
        path = module.__spec__.origin
        change = self.change if path == self.broken else ("", "")
        exec(compiled(path, *change), vars(module))


def load(broken: ModuleType, old: str, new: str, wanted: ModuleType) -> Modules:
    """`wanted` and all that it imports, in a copy in which a piece of `broken` is replaced."""
    count = Path(broken.__file__).read_text().count(old)
    assert count == 1, f"{old!r} stands {count} times in {broken.__name__}"
    importer = Importer(broken.__file__, old, new)
    sys.meta_path.insert(0, importer)
    try:
        import_module(wanted.__name__.replace(PACKAGE, COPY, 1))
    finally:
        sys.meta_path.remove(importer)
        names = [name for name in sys.modules if name.split(".")[0] == COPY]
        found = {name.replace(COPY, PACKAGE, 1): sys.modules.pop(name) for name in names}
    assert broken.__name__ in found, f"{wanted.__name__} does not import {broken.__name__}"
    return found


def translate(value: Any, modules: Modules) -> Any:
    """The counterpart of a function, or of NamedTuples and what is in them; else the value."""
    if isinstance(value, FunctionType):
        module = modules.get(value.__module__)  # None: a function of JAX
        return value if module is None else getattr(module, value.__name__)
    if not isinstance(value, tuple):
        return value
    parts = [translate(part, modules) for part in value]
    if not hasattr(value, "_fields"):
        return tuple(parts)
    return getattr(modules[type(value).__module__], type(value).__name__)(*parts)


def mutate(layout: Layout, broken: ModuleType, old: str, new: str) -> GradFn:
    """`bptt.value_and_grad` in a layout, with a piece of one module's source replaced."""
    there = load(broken, old, new, wanted=bptt)
    back = {module.__name__: sys.modules[name] for name, module in there.items()}
    gradient = partial(translate(bptt.value_and_grad, there), layout=translate(layout, there))

    def value_and_grad(*problem: Any, **options: Any) -> Any:
        options = {name: translate(value, there) for name, value in options.items()}
        return translate(gradient(*translate(problem, there), **options), back)

    return value_and_grad
