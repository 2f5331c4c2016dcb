"""The methods by name, for the command line and for studies."""

from importlib import import_module
from typing import Any

from patchclamp.core.arguments import check_held
from patchclamp.core.errors import InputError, check_choice, unknown
from patchclamp.directions.base import DirectionEstimator

METHODS = {
    "mean": "mean_difference:MeanDifference",
    "leace": "leace:LEACE",
    "rlace": "rlace:RLACE",
    "inlp": "inlp:INLP",
    "logistic": "logistic:LogisticDirection",
    "sal": "sal:SAL",
    "pca": "pca_difference:PCADifference",
    "actadd": "activation_addition:ActivationAddition",
    "gradient": "gradient:GradientDirection",
    "random": "random:RandomDirection",
}
"""The ``module:class`` of each name, in this package."""


def method_of(method: DirectionEstimator | str, **options: Any) -> DirectionEstimator:
    """An estimator, by name or as it is.

    Raises:
        InputError: There is no such method, or it has no such option.
    """
    if isinstance(method, DirectionEstimator):
        if options:
            raise InputError(
                f"{type(method).__name__} is made already, so it takes no options; got {', '.join(options)}"
            )
        check_held(method)
        return method
    if not isinstance(method, str):
        raise InputError(
            f"a method is an estimator, as LEACE(), or one of the names {list(METHODS)}; got {method!r:.80}"
        )
    names_by_class = {path.partition(":")[2].lower(): method_name for method_name, path in METHODS.items()}
    method_name = names_by_class.get(method.lower(), method.lower())
    if method_name not in METHODS:
        raise InputError(unknown("method", method, METHODS))
    module, _, name = METHODS[method_name].partition(":")
    estimator_class = getattr(import_module(f"{__package__}.{module}"), name)
    valid = estimator_class._get_param_names()
    for option in options:
        check_choice(f"option of {name}", option, valid)
    estimator: DirectionEstimator = estimator_class(**options)
    return estimator
