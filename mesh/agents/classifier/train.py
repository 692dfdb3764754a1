"""Train the classifier's heads: logistic regressions on embeddings and surface, calibrated.

What is reported is measured on texts that the head never saw: a fifth of the data is held out
before anything is fitted. Calibration is fitted on out-of-fold predictions (isotonic for spam,
where thousands of examples are there; one temperature for the others, whose data is small and
would overfit more). The artefact is then fitted on everything. Deterministic by ``seed``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mesh.agents.classifier import corpus
from mesh.agents.classifier.artefact import Artefact
from mesh.agents.classifier.corpus import Message
from mesh.agents.classifier.features import inputs
from mesh.agents.classifier.head import Array, Head, calibration_error, softmax

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Texts to vectors of unit length; blocks."""
Progress = Callable[[str, int, int], None]
"""What is done, how much of it, of how much."""

SPAM_LABELS = ("fine", "spam")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How heads are fitted."""

    seed: int = 7
    held_out: float = 0.2
    """Share of the data that metrics are measured on."""
    folds: int = 5
    """For calibration."""
    c: float = 3.0
    """Inverse regularisation of the small heads."""
    spam_c: float = 1.0
    """The same for spam."""
    seed_weight: float = 8.0
    """How much one of our own texts counts against one message of the corpus."""
    knots: int = 32
    """At most so many points of the isotonic map are kept."""


def train(
    messages: Sequence[Message],
    embed: Embed,
    embedding_model: str,
    options: TrainOptions = TrainOptions(),
    progress: Progress = lambda what, done, total: None,
) -> Artefact:
    """Fit every head. Blocks for as long as embedding ``messages`` takes, and some seconds."""
    seeds, spam = corpus.seeds(), corpus.spam_seeds()
    mail = _inputs([m.text for m in messages], embed, "messages", progress)
    own = _inputs([s.text for s in seeds], embed, "examples", progress)
    shouts = _inputs(spam, embed, "spam examples", progress)
    heads: dict[str, Head] = {}
    metrics: dict[str, Any] = {}
    for name in ("topic", "tone", "audience"):
        progress(f"fit {name}", 0, 1)
        labels = [str(getattr(seed, name)) for seed in seeds]
        heads[name], metrics[name] = _small(name, own, labels, options)
    progress("fit spam", 0, 1)
    x = np.concatenate([mail, own, shouts])
    y = np.array([int(m.spam) for m in messages] + [0] * len(own) + [1] * len(shouts))
    weight = np.array([1.0] * len(mail) + [options.seed_weight] * (len(own) + len(shouts)))
    heads["spam"], metrics["spam"] = _spam(x, y, weight, len(mail), options)
    digest = corpus.data_hash(list(messages))
    return Artefact(
        version=f"{digest[:10]}-{options.seed}",
        heads=heads,
        metadata={
            "data_sha256": digest,
            "corpus": corpus.CORPUS_SOURCE,
            "messages": len(messages),
            "examples": len(seeds) + len(spam),
            "embedding_model": embedding_model,
            "language": "en",
            "options": asdict(options),
            "metrics": metrics,
        },
    )


def _inputs(texts: Sequence[str], embed: Embed, what: str, progress: Progress) -> Array:
    """Texts of like length share a batch: the embedder pads to the longest."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors: list[Sequence[float]] = [()] * len(texts)
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        for index, vector in zip(part, embed([texts[i] for i in part]), strict=True):
            vectors[index] = vector
        progress(f"embed {what}", start + len(part), len(texts))
    return inputs(texts, vectors)


def _small(
    name: str, x: Array, labels: list[str], options: TrainOptions
) -> tuple[Head, dict[str, Any]]:
    from sklearn.model_selection import train_test_split

    known = tuple(sorted(set(labels)))
    y = np.array([known.index(label) for label in labels])
    fit, held = train_test_split(
        np.arange(len(y)), test_size=options.held_out, random_state=options.seed, stratify=y
    )
    probe = _softmax_head(name, known, x[fit], y[fit], options)
    predicted = probe.probabilities(x[held])
    answers = predicted.argmax(axis=1)
    right = answers == y[held]
    metrics = {
        "held_out": len(held),
        "classes": len(known),
        "accuracy": _rounded(right.mean()),
        "top2_accuracy": _rounded(
            (np.argsort(-predicted, axis=1)[:, :2] == y[held][:, None]).any(axis=1).mean()
        ),
        "macro_f1": _rounded(_macro_f1(y[held], answers, len(known))),
        "calibration_error": _rounded(calibration_error(predicted.max(axis=1), right)),
        "out_of_fold_accuracy": _rounded((_out_of_fold(x, y, options).argmax(axis=1) == y).mean()),
    }
    return _softmax_head(name, known, x, y, options), metrics


def _softmax_head(
    name: str, labels: tuple[str, ...], x: Array, y: Any, options: TrainOptions
) -> Head:
    model = _logistic(options.c, options).fit(x, y)
    out_of_fold = _out_of_fold(x, y, options)
    return Head(
        name,
        labels,
        model.coef_.astype(np.float32),
        model.intercept_.astype(np.float32),
        temperature=_temperature(out_of_fold, y),
    )


def _out_of_fold(x: Array, y: Any, options: TrainOptions) -> Array:
    """Logits for each text by a model that did not see it."""
    from sklearn.model_selection import StratifiedKFold

    folds = max(2, min(options.folds, int(np.bincount(y).min())))
    split = StratifiedKFold(folds, shuffle=True, random_state=options.seed)
    logits = np.zeros((len(y), int(y.max()) + 1), dtype=np.float32)
    for fit, held in split.split(x, y):
        logits[held] = _logistic(options.c, options).fit(x[fit], y[fit]).decision_function(x[held])
    return logits


def _temperature(logits: Array, y: Any) -> float:
    """The one that makes the truth likeliest (Guo et al. 2017), from a fixed grid."""
    grid = np.geomspace(0.2, 5.0, 81)
    losses = [
        -float(np.log(softmax(logits / np.float32(t))[np.arange(len(y)), y] + 1e-9).mean())
        for t in grid
    ]
    return round(float(grid[int(np.argmin(losses))]), 4)


def _spam(
    x: Array, y: Any, weight: Any, corpus_size: int, options: TrainOptions
) -> tuple[Head, dict[str, Any]]:
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
    from sklearn.model_selection import train_test_split

    fit, held = train_test_split(
        np.arange(len(y)), test_size=options.held_out, random_state=options.seed, stratify=y
    )
    probe = _spam_head(x[fit], y[fit], weight[fit], options)
    predicted = probe.probabilities(x[held])[:, 1]
    flagged = predicted >= 0.5
    truth = y[held] == 1
    own = held >= corpus_size
    metrics = {
        "held_out": len(held),
        "accuracy": _rounded((flagged == truth).mean()),
        "precision": _rounded(truth[flagged].mean()),
        "recall": _rounded(flagged[truth].mean()),
        "roc_auc": _rounded(roc_auc_score(truth, predicted)),
        "average_precision": _rounded(average_precision_score(truth, predicted)),
        "brier": _rounded(brier_score_loss(truth, predicted)),
        "calibration_error": _rounded(
            calibration_error(np.maximum(predicted, 1 - predicted), flagged == truth)
        ),
        "own_examples_held_out": int(own.sum()),
        "own_examples_accuracy": _rounded((flagged == truth)[own].mean()),
    }
    return _spam_head(x, y, weight, options), metrics


def _spam_head(x: Array, y: Any, weight: Any, options: TrainOptions) -> Head:
    from sklearn.isotonic import IsotonicRegression
    from sklearn.model_selection import StratifiedKFold

    logits = np.zeros(len(y))
    split = StratifiedKFold(options.folds, shuffle=True, random_state=options.seed)
    for fit, held in split.split(x, y):
        part = _logistic(options.spam_c, options).fit(x[fit], y[fit], sample_weight=weight[fit])
        logits[held] = part.decision_function(x[held])
    isotonic = IsotonicRegression(y_min=0.001, y_max=0.999, out_of_bounds="clip")
    isotonic.fit(logits, y, sample_weight=weight)
    model = _logistic(options.spam_c, options).fit(x, y, sample_weight=weight)
    return Head(
        "spam",
        SPAM_LABELS,
        model.coef_.astype(np.float32),
        model.intercept_.astype(np.float32),
        knots=_thinned(isotonic.X_thresholds_, isotonic.y_thresholds_, options.knots),
    )


def _thinned(x: Any, y: Any, most: int) -> Array:
    """A few points of the map: it stays monotonic, and small."""
    picked = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))
    return np.stack([x[picked], y[picked]]).astype(np.float32)


def _logistic(c: float, options: TrainOptions) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        C=c, class_weight="balanced", max_iter=2_000, random_state=options.seed
    )


def _macro_f1(truth: Any, answers: Any, classes: int) -> float:
    scores = []
    for label in range(classes):
        hit = float(((answers == label) & (truth == label)).sum())
        said, there = float((answers == label).sum()), float((truth == label).sum())
        scores.append(2 * hit / (said + there) if said + there else 0.0)
    return float(np.mean(scores))


def _rounded(value: Any) -> float:
    return round(float(value), 4)
