"""labelwise: train on partly wrong labels, and find out which labels are wrong.

>>> import labelwise
>>> result = labelwise.fit("digits", noise="instance:0.4", method="dividemix")  # doctest: +SKIP
>>> result.labels.query("is_suspect")  # doctest: +SKIP

Importing the package is fast: everything that needs PyTorch is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelwise.audit.decisions import apply_decisions
    from labelwise.audit.pred_probs import from_cleanlab, to_cleanlab, write_pred_probs
    from labelwise.diagnosis import Diagnosis, diagnose
    from labelwise.estimator import Interrupted, Result, fit, load_run, resume
    from labelwise.methods.ce import CrossEntropy
    from labelwise.methods.coteaching import CoTeaching
    from labelwise.methods.coteaching_plus import CoTeachingPlus
    from labelwise.methods.dividemix import DivideMix
    from labelwise.methods.mixup import MixUp
    from labelwise.methods.quick import Quick
    from labelwise.pretrained import Pretrained, pretrain

__version__ = "0.1.0"

_WHERE = {
    "fit": "labelwise.estimator",
    "resume": "labelwise.estimator",
    "load_run": "labelwise.estimator",
    "Result": "labelwise.estimator",
    "Interrupted": "labelwise.estimator",
    "apply_decisions": "labelwise.audit.decisions",
    "from_cleanlab": "labelwise.audit.pred_probs",
    "to_cleanlab": "labelwise.audit.pred_probs",
    "write_pred_probs": "labelwise.audit.pred_probs",
    "CrossEntropy": "labelwise.methods.ce",
    "MixUp": "labelwise.methods.mixup",
    "CoTeaching": "labelwise.methods.coteaching",
    "CoTeachingPlus": "labelwise.methods.coteaching_plus",
    "DivideMix": "labelwise.methods.dividemix",
    "Quick": "labelwise.methods.quick",
    "pretrain": "labelwise.pretrained",
    "Pretrained": "labelwise.pretrained",
    "Diagnosis": "labelwise.diagnosis",
    "diagnose": "labelwise.diagnosis",
}

__all__ = [
    "CoTeaching",
    "CoTeachingPlus",
    "CrossEntropy",
    "Diagnosis",
    "DivideMix",
    "Interrupted",
    "MixUp",
    "Pretrained",
    "Quick",
    "Result",
    "apply_decisions",
    "diagnose",
    "fit",
    "from_cleanlab",
    "load_run",
    "pretrain",
    "resume",
    "to_cleanlab",
    "write_pred_probs",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module 'labelwise' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
