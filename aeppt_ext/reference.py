"""The perturbation search in plain PyTorch: oracle in float64, fallback, and speed baseline.

It follows section 3 of ``docs/design.md`` line by line. Rows are processed together; a row that has
finished is dropped from the work, so this is also the fastest plain-PyTorch form we know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .options import (
    BUDGET_STEPS,
    CUT_SHIFT,
    EXACT_SUM,
    FINEST_CUT,
    LOG_FLOOR,
    LONGEST_STEP,
    OVERSHOOT,
    SPARE_CUTS,
    SUM_TOLERANCE,
    SearchOptions,
    SearchResult,
    Status,
)

#: Rows are searched in chunks of about this many probabilities, which bounds the memory in use.
CHUNK_ELEMENTS = 1 << 20

Layers = Sequence[Tensor]
Step = Callable[..., tuple[Tensor, Tensor, Tensor]]


def feature_width(features: str, k: int) -> int:
    """How many inputs a substitute on ``features`` has for rows of ``k`` classes."""
    return {"top3": min(3, k), "sorted_raw": 2 * k}.get(features, k)


def extract_features(probs: Tensor, features: str) -> tuple[Tensor, Tensor | None]:
    """The substitute's input φ(p) [n, d], and the column each ranked input came from [n, r].

    The ranked inputs come first; those of ``raw``, and the last k of ``sorted_raw``, are the row.
    """
    if features == "raw":
        return probs, None
    values, order = probs.sort(dim=1, descending=True, stable=True)
    if features == "sorted_raw":
        return torch.cat([values, probs], dim=1), order
    d = feature_width(features, probs.shape[1])
    return values[:, :d], order[:, :d]


def _forward(inputs: Tensor, weights: Layers, biases: Layers) -> tuple[Tensor, list[Tensor]]:
    activations = []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        inputs = torch.addmm(bias, inputs, weight.T).relu_()
        activations.append(inputs)
    return torch.addmm(biases[-1], inputs, weights[-1].T)[:, 0], activations


def score(probs: Tensor, weights: Layers, biases: Layers, features: str) -> Tensor:
    """The substitute's logit [n] at ``probs`` [n, k]; positive means "member"."""
    inputs, _ = extract_features(probs, features)
    return _forward(inputs, weights, biases)[0]


def score_and_gradient(
    probs: Tensor, weights: Layers, biases: Layers, features: str
) -> tuple[Tensor, Tensor]:
    """The logit [n] and its gradient with respect to the probabilities [n, k]."""
    inputs, order = extract_features(probs, features)
    logit, activations = _forward(inputs, weights, biases)
    gradient = weights[-1].expand(probs.shape[0], -1)
    for weight, activation in zip(reversed(weights[:-1]), reversed(activations), strict=True):
        gradient = torch.mm(gradient * (activation > 0), weight)
    if order is not None:
        ranked, as_it_stands = gradient.tensor_split([order.shape[1]], dim=1)
        gradient = torch.zeros_like(probs).scatter_(1, order, ranked)
        if features == "sorted_raw":
            gradient = gradient + as_it_stands
    return logit, gradient


def retract(points: Tensor, label: Tensor, tie_gap: float) -> Tensor:
    """The nearest point of {q ≥ 0, Σq = 1, q_label ≥ q_j + tie_gap}, exactly.

    The projection first meets the label's constraint, by capping the other entries at the u that
    solves u + tie_gap = y_label + Σ max(0, y_j - u), and then the simplex, by subtracting the τ
    that solves Σ max(0, z_j - τ) = 1 (Held, Wolfe & Crowder 1974). ``docs/design.md`` proves that
    the two in sequence are the joint projection. Both roots are rounded to 2^-44, so that engines
    that add in another order still agree on them. Rows that are there already are left alone.
    """
    if torch.compiler.is_compiling():  # a graph treats all rows alike
        return _project(points, label, tie_gap)
    column = label.unsqueeze(1)
    lead = points.gather(1, column) - points.scatter(1, column, -torch.inf).amax(1, keepdim=True)
    excess = (points.sum(1, dtype=torch.float64) - 1).abs()
    outside = (lead[:, 0] < tie_gap) | (points.amin(1) < 0) | ~(excess <= _sum_noise(points))
    rows = outside.nonzero()[:, 0]
    if len(rows) == len(points):
        return _project(points, label, tie_gap)
    return points.index_copy(0, rows, _project(points[rows], label[rows], tie_gap))


def _project(points: Tensor, label: Tensor, tie_gap: float) -> Tensor:
    k = points.shape[1]
    label = label.unsqueeze(1)
    y_label = points.gather(1, label).double()
    others = points.scatter(1, label, -torch.inf)
    others = others.sort(dim=1, descending=True).values[:, : k - 1].double()
    count = torch.arange(1, k + 1, dtype=torch.float64, device=points.device)

    # u is the largest of the averages that pool the label with the m greatest others, m = 0…k-1.
    floor = y_label - tie_gap
    averages = (floor + others.cumsum(1)) / count[1:]
    cap = _round_root(torch.maximum(floor, averages.amax(1, keepdim=True)))
    total = torch.cat([cap + tie_gap, torch.minimum(others, cap)], dim=1).cumsum(1)
    tau = _round_root(((total - 1) / count).amax(1, keepdim=True))

    capped = torch.minimum(points.double(), cap).scatter(1, label, cap + tie_gap)
    # Where the sum is one to the dtype's rounding, tau is noise, and would swallow tiny entries.
    active = (capped > tau).sum(1, keepdim=True)
    noise = tau.abs() * active <= _sum_noise(points)
    tau = torch.where(noise, 0.0, tau)
    # Subtracted before it is rounded: a rounded tau would be wrong by the same amount k times.
    return (capped - tau).clamp_min_(0).to(points.dtype)


def _sum_noise(points: Tensor) -> float:
    return 2 * torch.finfo(points.dtype).eps


def _round_root(root: Tensor) -> Tensor:
    return (root * 2.0**44).round() * 2.0**-44


def step_length(distance: Tensor, dual_norm: Tensor, options: SearchOptions) -> Tensor | float:
    """How long the next step is, [n, 1] in float64 where it differs between rows.

    To first order the score falls by the length times the direction's dual norm [n, 1].
    """
    if options.method == "step":
        return options.step_size
    away = OVERSHOOT * distance.double().unsqueeze(1) / dual_norm
    longest = LONGEST_STEP * options.step_size
    return torch.where(away > options.step_size, away.clamp_max(longest), options.step_size)


def move(
    probs: Tensor, descent: Tensor, distance: Tensor, label: Tensor, options: SearchOptions
) -> Tensor:
    """One step along ``descent`` [n, k], before retraction.

    ``distance`` [n] is how far the score is from the border. The direction is taken on the
    simplex: its mean is removed in probability space, where a constant cannot change a point whose
    sum is fixed; through the soft-max in logit space.
    """
    if options.space == "logit":
        probs = probs.clamp_min(LOG_FLOOR)
        # Relative to the label's entry, else the mean cancels all digits when p_label is near 1.
        descent = descent - descent.gather(1, label.unsqueeze(1))
        mean = (probs * descent).sum(1, keepdim=True, dtype=torch.float64)
        descent = probs * (descent - mean.to(probs.dtype))
    else:
        mean = descent.mean(1, keepdim=True, dtype=torch.float64)
        descent = descent - mean.to(probs.dtype)

    if options.norm == "linf":
        length = step_length(distance, descent.abs().sum(1, True, dtype=torch.float64), options)
        change = (length * descent.sign().nan_to_num_(0)).to(probs.dtype)
    else:
        norm = descent.double().square().sum(1, keepdim=True).sqrt().to(probs.dtype)
        usable = (norm > 0) & norm.isfinite()  # an overflowing gradient has no direction
        length = step_length(distance, norm.double(), options)
        scale = torch.as_tensor(length, dtype=probs.dtype, device=probs.device) / norm
        change = torch.where(usable, scale * descent, 0.0)

    if options.space == "prob":
        return probs + change
    weighted = probs * (change - change.amax(1, keepdim=True)).exp()
    return weighted / weighted.sum(1, keepdim=True, dtype=torch.float64).to(probs.dtype)


def step(
    points: Tensor,
    logit: Tensor,
    gradient: Tensor,
    side: Tensor,
    label: Tensor,
    weights: Layers,
    biases: Layers,
    options: SearchOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """One gradient step of all rows: the new points, and the logit and gradient there."""
    descent, distance = -side.unsqueeze(1) * gradient, side * logit + options.margin
    points = move(points, descent, distance, label, options)
    points = retract(points, label, options.tie_gap)
    return points, *score_and_gradient(points, weights, biases, options.features)


def interpolate(
    start: Tensor, end: Tensor, t: Tensor, label: Tensor, options: SearchOptions
) -> Tensor:
    """The retracted point at ``t`` [n] of the way from ``start`` to ``end``."""
    t = t.unsqueeze(1)
    if options.space == "prob":
        point = start + t * (end - start)
    else:
        start = start.clamp_min(LOG_FLOOR)
        point = start * (t * (end.clamp_min(LOG_FLOOR) / start).log()).exp()
        point = point / point.sum(1, keepdim=True, dtype=torch.float64).to(point.dtype)
    return retract(point, label, options.tie_gap)


def next_cut(
    low: Tensor, high: Tensor, low_goal: Tensor, high_goal: Tensor, unit: int, cuts_left: int
) -> Tensor:
    """Where to look next for the border between ``low`` and ``high`` [n], in cells of a segment.

    The ITP method (Oliveira & Takahashi 2020, ACM TOMS 47, Algorithm 3) on the ``unit`` cells of
    the segment: where the line through both ends' goals crosses zero, shifted a little towards the
    middle, and so that ``cuts_left`` further evaluations suffice in any case. The cell that it
    ends in is that of bisection wherever the border is crossed once.
    """
    half = (low + high) / 2
    share = high_goal.double() / (high_goal.double() - low_goal.double())
    cut = high - (high - low) * share
    shift = CUT_SHIFT * (high - low).square() / unit
    cut = torch.where((half - cut).abs() <= shift, half, cut + shift * (half - cut).sign())
    room = 2.0**cuts_left
    least, most = torch.maximum(low + 1, high - room), torch.minimum(high - 1, low + room)
    return torch.minimum(torch.maximum(cut.round().nan_to_num_(nan=0.0), least), most)


def l1_distance(left: Tensor, right: Tensor) -> Tensor:
    """Sum of absolute differences per row, in float64."""
    return (left - right).abs().sum(1, dtype=torch.float64)


def is_distribution(probs: Tensor) -> Tensor:
    """Which rows [n] are finite, non-negative and sum to one within ``SUM_TOLERANCE``."""
    total = probs.sum(1, dtype=torch.float64)
    entries = (probs.isfinite() & (probs >= 0)).all(1)
    return entries & ((total - 1).abs() <= SUM_TOLERANCE)


def invalid_row_message(
    probs: Tensor,
    row: int,
    first_row: int = 0,
    mend: str = 'mend or remove the row, or pass on_invalid="passthrough"',
) -> str:
    """Says what is wrong with ``probs[row]``, where rows are counted from ``first_row``."""
    values = probs[row].tolist()
    reason = f"it sums to {sum(values):.6g} (must be 1 within {SUM_TOLERANCE:g})"
    for column, value in enumerate(values):
        if not 0 <= value < float("inf"):
            reason = f"column {column} is {value:g} (must be finite and not negative)"
            break
    return f"probs row {first_row + row} is not a probability vector: {reason}; {mend}"


def check_probs(probs: Tensor) -> None:
    """Refuse what is not rows of at least two classes in float32 or float64."""
    if probs.ndim != 2:
        raise ValueError(f"probs must be [n, k], got {list(probs.shape)}")
    if probs.shape[1] < 2:
        raise ValueError(f"probs must have at least 2 classes, got {list(probs.shape)}")
    if probs.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"probs must be float32 or float64, got {probs.dtype}")


def check_arguments(probs: Tensor, weights: Layers, biases: Layers, features: str) -> None:
    """Refuse shapes and dtypes that do not fit, in the words of ``csrc/ops/perturb_search.cpp``."""
    check_probs(probs)
    k = probs.shape[1]
    if not weights or len(weights) != len(biases):
        raise ValueError(
            "the substitute needs as many weights as biases, at least one; got "
            f"{len(weights)} and {len(biases)}"
        )
    width = feature_width(features, k)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.ndim != 2 or weight.shape[1] != width or weight.shape[0] < 1:
            raise ValueError(
                f"weight {layer} of the substitute must be [out, {width}] for {k} classes, got "
                f"{list(weight.shape)}"
            )
        if bias.shape != weight.shape[:1]:
            raise ValueError(
                f"bias {layer} of the substitute must be [{weight.shape[0]}], got "
                f"{list(bias.shape)}"
            )
        if not probs.dtype == weight.dtype == bias.dtype:
            raise TypeError(
                f"the substitute must have the dtype of probs, {probs.dtype}, got "
                f"{weight.dtype} and {bias.dtype}"
            )
        width = weight.shape[0]
    if width != 1:
        raise ValueError(f"the substitute's last layer must have one output, got {width}")


def perturb_search(
    probs: Tensor,
    weights: Layers,
    biases: Layers,
    options: SearchOptions,
    step: Step = step,
) -> SearchResult:
    """Move each row of ``probs`` [n, k] until the substitute is misled, its label unchanged.

    Parameters
    ----------
    probs : Tensor [n, k], float32 or float64
    weights, biases : sequence of Tensor [out, in], [out]
        The substitute's dense layers; the last has one output. ReLU stands between them.
    options : SearchOptions
    step : callable
        The gradient step; a compiled form of :func:`step` may be passed in its place.

    Raises
    ------
    ValueError
        A shape does not fit, or a row is not a probability vector and ``options.on_invalid`` is
        ``"raise"``.
    TypeError
        ``probs`` is neither float32 nor float64, or the substitute's dtype differs.
    """
    check_arguments(probs, weights, biases, options.features)
    if options.on_invalid == "raise":
        bad = (~is_distribution(probs)).nonzero()
        if len(bad):
            raise ValueError(invalid_row_message(probs, int(bad[0])))
    chunk = max(1, CHUNK_ELEMENTS // probs.shape[1])
    parts = [_search(rows, weights, biases, options, step) for rows in probs.split(chunk)]
    return SearchResult(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _search(
    given: Tensor, weights: Layers, biases: Layers, options: SearchOptions, step: Step
) -> SearchResult:
    n = given.shape[0]
    features, margin = options.features, options.margin
    valid = is_distribution(given)
    label_all = given.argmax(1)  # the first index on ties
    probs = given.clone(memory_format=torch.contiguous_format)
    inexact = valid & ((given.sum(1, dtype=torch.float64) - 1).abs() > EXACT_SUM)
    if inexact.any():
        probs[inexact] = retract(probs[inexact], label_all[inexact], options.tie_gap)

    score_before = score(probs, weights, biases, features)
    side_all = torch.where(score_before > 0, 1.0, -1.0).to(probs.dtype)
    if options.direction == "member":
        side_all = torch.ones_like(side_all)
        selected = valid & (score_before > -margin)
    else:
        selected = valid.clone()

    out = probs.clone()
    status = torch.where(valid, int(Status.UNCHANGED), int(Status.INVALID)).to(torch.int8)
    steps = torch.zeros(n, dtype=torch.int32, device=given.device)
    score_after = score_before.clone()

    # Gradient steps. `best` is each row's least side * score so far.
    best_goal = side_all * score_before
    rows = selected.nonzero()[:, 0]
    status[rows] = int(Status.EXHAUSTED)
    met = torch.zeros(n, dtype=torch.bool, device=given.device)
    met[rows] = best_goal[rows] <= -margin  # direction="both" on the border itself
    rows = rows if options.constant_time else rows[~met[rows]]
    if options.max_steps > 0 and len(rows):
        points, label, side = probs[rows], label_all[rows], side_all[rows]
        logit, gradient = score_and_gradient(points, weights, biases, features)
        for _ in range(options.max_steps):
            points, logit, gradient = step(
                points, logit, gradient, side, label, weights, biases, options
            )
            goal = side * logit
            steps[rows] += (~met[rows]).int()
            better = (goal < best_goal[rows]) & ~met[rows]
            improved = rows[better]
            out[improved] = points[better]
            best_goal[improved] = goal[better]
            score_after[improved] = logit[better]
            met[improved] = goal[better] <= -margin
            if options.constant_time:
                continue
            open_ = ~met[rows]
            if not bool(open_.all()):
                rows = rows[open_]
                if len(rows) == 0:
                    break
                points, logit, gradient = points[open_], logit[open_], gradient[open_]
                side, label = side[open_], label[open_]

    # Refine: look on the segment for the least movement that still meets the goal.
    status[met] = int(Status.SUCCESS)
    goal = side_all * score_before + margin
    rows = (met & (goal > 0)).nonzero()[:, 0]
    start, end, label, side = probs[rows], out[rows], label_all[rows], side_all[rows]
    unit = 2 ** min(options.refine_steps, FINEST_CUT)
    low, low_goal = torch.zeros_like(side, dtype=torch.float64), goal[rows]
    high, high_goal = torch.full_like(low, unit), side * score_after[rows] + margin
    cuts_left = min(options.refine_steps, FINEST_CUT) + SPARE_CUTS
    while True:
        open_ = high - low > 1
        if not bool(open_.any()):
            break
        rows, start, end, label, side = (x[open_] for x in (rows, start, end, label, side))
        low, high, low_goal, high_goal = (x[open_] for x in (low, high, low_goal, high_goal))
        cuts_left -= 1
        cut = next_cut(low, high, low_goal, high_goal, unit, cuts_left)
        points = interpolate(start, end, (cut / unit).to(probs.dtype), label, options)
        logit = score(points, weights, biases, features)
        goal = side * logit + margin
        reached = goal <= 0
        high, high_goal = torch.where(reached, cut, high), torch.where(reached, goal, high_goal)
        low, low_goal = torch.where(reached, low, cut), torch.where(reached, low_goal, goal)
        out[rows[reached]] = points[reached]
        score_after[rows[reached]] = logit[reached]

    if options.max_l1 is not None:
        rows = (selected & (l1_distance(out, probs) > options.max_l1)).nonzero()[:, 0]
        if len(rows):
            start, end, label = probs[rows], out[rows], label_all[rows]
            inside = start.clone()
            low, high = torch.zeros_like(side_all[rows]), torch.ones_like(side_all[rows])
            for _ in range(BUDGET_STEPS):
                middle = (low + high) / 2
                points = interpolate(start, end, middle, label, options)
                fits = l1_distance(points, start) <= options.max_l1
                inside[fits] = points[fits]
                low = torch.where(fits, middle, low)
                high = torch.where(fits, high, middle)
            out[rows] = inside
            score_after[rows] = score(inside, weights, biases, features)
            reached = side_all[rows] * score_after[rows] <= -margin
            status[rows] = torch.where(reached, int(Status.SUCCESS), int(Status.BUDGET)).to(
                torch.int8
            )

    l1 = l1_distance(out, probs).to(probs.dtype)
    for column, value in ((score_before, torch.nan), (score_after, torch.nan), (l1, 0.0)):
        column[~valid] = value
    return SearchResult(out, status, steps, score_before, score_after, l1)
