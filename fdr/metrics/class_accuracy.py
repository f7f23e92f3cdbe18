"""Class accuracy: the share of samples that a classifier gives the class that they were made for.

The classifier is the encoder, where it has an output "logits" for the classes of the samples, or one that is fitted on
the features of the reference. It sees wrong labels, but not that the samples of a class are all alike.
"""

from __future__ import annotations

import numpy as np

from fdr.errors import InputError
from fdr.metrics.base import CollectedFeatures, Context, Labelled, Metric, Score
from fdr.metrics.classes import class_keys, in_order, match_classes
from fdr.metrics.feature_cas import L2, accuracy_score, predicted_classes


def class_accuracy(samples: Labelled, reference: None, context: Context) -> Score:
    """The share of samples whose largest logit is that of their class; class k is the logit k.

    Raises `InputError` unless the classifier has as many classes as the samples.
    """
    logits, labels = samples.collected, samples.labels
    names = samples.class_names
    num_classes = max(len(names or ()), int(labels.max()) + 1)
    if logits.shape[1] != num_classes or labels.min() < 0:
        raise InputError(
            f"{context.names[0]} needs a classifier of the {num_classes} classes of {samples.source}, in their order, "
            f"and the encoder has {logits.shape[1]} logits; take an encoder for these classes, or "
            "class_accuracy_linear, which fits a classifier on the reference."
        )
    (keys,), _ = class_keys([samples])
    shown = dict(zip(labels.tolist(), keys, strict=True))
    order = in_order(shown.values())
    is_right = logits.argmax(1) == labels
    named = np.array([order.index(shown[label]) for label in sorted(shown)])
    return accuracy_score(is_right, named[np.searchsorted(sorted(shown), labels)], order, "n")


def linear_class_accuracy(samples: Labelled, reference: Labelled, context: Context) -> Score:
    """The share of samples that get their class from logistic regression on the reference's standardised features.

    It is the classifier of `cas_linear` with the two sets exchanged.
    """
    classes = match_classes(samples, reference, context.names[0])
    if len(np.unique(classes.reference)) < 2:
        raise InputError(f"{context.names[0]} needs a reference of at least two classes; {reference.source} has one.")
    fitted = (reference.collected, classes.reference)
    predicted = predicted_classes(*fitted, samples.collected, len(classes.names), context.device)
    score = accuracy_score(predicted == classes.samples, classes.samples, classes.names, "n")
    return Score(score.value, score.stderr, details=score.details, notes=classes.notes)


CLASS_ACCURACY = Metric(class_accuracy, CollectedFeatures, output="logits", needs_reference=False, labels=("samples",))
CLASS_ACCURACY_LINEAR = Metric(
    linear_class_accuracy, CollectedFeatures, labels=("samples", "reference"), settings={"l2": str(L2)}
)
