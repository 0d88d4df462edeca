"""The measures, each in a file of its own; importing this package registers them all in engine.evaluation.measure.MEASURES."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
