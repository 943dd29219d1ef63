"""Limits that a user got wrong: each judges nothing, and a checker that accepts it passes whatever it is given.

The arrays differ by 4 to 5 in every element, in another direction, and decide otherwise in two of four rows.
"""

from __future__ import annotations

import math

import numpy as np

from .protocol import Limited

ONE = np.full((4, 1), 5.0)

CASES = (
    Limited("limit-none-given", "No limit at all.", {}, "fp32 = { cosine = false, rel_rms = false }"),
    Limited("limit-misspelt", "A limit on a metric that does not exist.", {"cosin": 0.99}, "fp32 = { cosin = 0.99 }"),
    Limited("limit-other-case", "A metric in capitals.", {"Cosine": 0.99}, "fp32 = { Cosine = 0.99 }"),
    Limited("limit-nan", "The limit is NaN.", {"max_abs": math.nan}, "fp32 = { max_abs = nan }"),
    Limited("limit-inf", "The limit is infinite.", {"max_abs": math.inf}, "fp32 = { max_abs = inf }"),
    Limited("limit-overflow", "The limit is written so large that it is infinite.", {"max_abs": float("1e999")},
            "fp32 = { max_abs = 1e999 }"),
    Limited("limit-minus-inf", "At least minus infinity.", {"cosine": -math.inf}, "fp32 = { cosine = -inf }"),
    Limited("limit-text", "The limit is a text.", {"max_abs": "0.1"}, 'fp32 = { max_abs = "0.1" }'),
    Limited("limit-true", "The limit is true, which counts as 1.", {"max_abs": True}, "fp32 = { max_abs = true }",
            got=np.eye(4, 3) + 0.9),
    Limited("limit-list", "The limit is a list.", {"max_abs": [0.1]}, "fp32 = { max_abs = [0.1] }"),
    Limited("limit-null", "The limit is None.", {"max_abs": None}),
    Limited("limit-of-cosine", "A cosine of at least -1 holds for anything.", {"cosine": -1.0},
            "fp32 = { cosine = -1 }"),
    Limited("limit-below-cosine", "A cosine of at least -2: the sign was a mistake.", {"cosine": -2.0},
            "fp32 = { cosine = -2 }"),
    Limited("limit-of-top1", "At least 0 % of rows must agree.", {"top1": 0.0}, "fp32 = { top1 = 0 }"),
    Limited("limit-of-sqnr", "A ratio of at least -400 dB holds for anything.", {"sqnr": -400.0},
            "fp32 = { sqnr = -400 }"),
    Limited("limit-of-drop", "Accuracy may drop by all there is.", {"decision_flips": math.inf},
            "fp32 = { top1_drop = 1 }"),
    Limited("limit-of-one-class", "Decisions between one class.", {"top1": 0.5}, got=ONE, want=-ONE),
    Limited("limit-of-five-classes", "The best five of three classes.", {"top5": 0.5}),
    Limited("limit-of-no-scope", "The limit is set for a precision that nothing has.", {}, "fp23 = { cosine = 0.99 }"),
    Limited("limit-of-no-output", "The limit is set for an output that the model lacks.", {},
            '"m-plain-fp32".logit = { cosine = 0.99 }'),
    Limited("metric-nan", "The user's metric gives NaN.", {"own": 1.0}, metric=lambda got, want: math.nan),
    Limited("metric-inf", "The user's metric gives infinity in a sense that likes it.", {"own_min": 1.0},
            metric=lambda got, want: math.inf),
    Limited("metric-none", "The user's metric gives None.", {"own": 1.0}, metric=lambda got, want: None),
    Limited("metric-raises", "The user's metric fails.", {"own": 1.0}, metric=lambda got, want: 1 / 0),
)  # fmt: skip

HONEST = (
    Limited("limit-kept", "An ordinary limit that is kept.", {"cosine": 0.99, "max_abs": 0.1},
            "fp32 = { cosine = 0.99, max_abs = 0.1 }", got=np.eye(4, 3) + 1e-4, honest=True),
    Limited("limit-zero", "Equality is a limit.", {"max_abs": 0.0}, "fp32 = { max_abs = 0 }", got=np.eye(4, 3),
            honest=True),
)  # fmt: skip
