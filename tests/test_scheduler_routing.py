"""Which experts rows share: running estimates and forecasts against sets."""

import numpy as np
import pytest

from scheduler.forecast import RoutingForecast
from scheduler.recency import ExpertRecency
from scheduler.regression import OnlineRegression
from scheduler.token_experts import TokenExperts
from scheduler.truncation import Truncation, new_by_layer
from scheduler.union import UnionEstimate

L, E, K = 3, 32, 4


def route(rng: np.random.Generator, num_layers: int = L, num_experts: int = E) -> np.ndarray:
    """A row's experts (L, K), without repetition."""
    return np.argsort(rng.random((num_layers, num_experts)), axis=1)[:, :K]


def naive_new(rows: list[np.ndarray], layer: int) -> float:
    """Share of the last row's experts that none of the others has."""
    before = {int(e) for row in rows[:-1] for e in row[layer]}
    return len({int(e) for e in rows[-1][layer]} - before) / K


def test_recency_equals_sets_over_the_rows_before() -> None:
    rng = np.random.default_rng(0)
    recency, rows = ExpertRecency(L, E), []
    for position in range(40):
        rows.append(route(rng))
        new_LM = recency.new_shares(rows[-1], position, 5)
        for layer in range(L):
            for m in range(1, 6):
                assert new_LM[layer, m - 1] == naive_new(rows[max(0, position - m) :], layer)
        recency.use(rows[-1], position)


def test_a_copy_of_recency_is_independent() -> None:
    recency = ExpertRecency(1, E)
    recency.use(np.array([[0, 1, 2, 3]]), 5)
    recency.copy().use(np.array([[4, 5, 6, 7]]), 6)
    assert recency.new_shares(np.array([[0, 1, 4, 5]]), 7, 2).tolist() == [[1.0, 0.5]]


def test_union_starts_at_random_routing_and_comes_to_the_truth() -> None:
    rng = np.random.default_rng(1)
    union = UnionEstimate(L, E, K, 3)
    assert union.new_LM[0] == pytest.approx([(7 / 8), (7 / 8) ** 2, (7 / 8) ** 3])
    truth = np.array([[0.5, 0.4, 0.2], [0.9, 0.8, 0.7], [0.1, 0.1, 0.0]])
    for _ in range(2000):
        union.observe((rng.random((L, 3)) < truth).astype(float))
    assert union.new_LM == pytest.approx(truth, abs=0.12)
    before = union.new_LM.copy()
    union.observe(np.zeros((L, 1)))  # a row with one row before it says nothing of longer steps
    assert (union.new_LM[:, 0] < before[:, 0]).all()
    assert np.array_equal(union.new_LM[:, 1:], before[:, 1:])


def test_new_by_layer_equals_sets() -> None:
    rng = np.random.default_rng(2)
    ids_LTK = np.stack([route(rng, num_experts=8) for _ in range(5)], axis=1)
    new_LT = new_by_layer(ids_LTK)
    rows = list(ids_LTK.transpose(1, 0, 2))
    for t in range(5):
        assert new_LT[:, t].tolist() == [naive_new(rows[: t + 1], layer) for layer in range(L)]


def test_the_table_of_tokens_is_bounded_and_forgets_the_oldest() -> None:
    rng = np.random.default_rng(3)
    table, routes = TokenExperts(L, K, capacity=8), [route(rng) for _ in range(20)]
    for token_id in (0, 1, 2, 3, 4, 5, 6, 7, 0, 8, 9):
        table.store(token_id, routes[token_id])
    assert len(table) == 8
    assert [t for t in range(10) if table.look_up(t) is None] == [1, 2]  # 0 was stored again
    for token_id in (0, 5, 9):
        found = table.look_up(token_id)
        assert found is not None
        assert np.array_equal(found, routes[token_id])
    table.store(5, routes[11])
    found = table.look_up(5)
    assert found is not None
    assert np.array_equal(found, routes[11])


def forecast_errors(by_token: float, by_block: bool) -> tuple[RoutingForecast, list[float]]:
    """Runs steps of three rows; a token keeps its experts with chance `by_token`, drawn anew otherwise.

    The MTP block's experts are the trunk's of layer 0 if `by_block`, else random.
    """
    rng = np.random.default_rng(4)
    forecast = RoutingForecast(L, K, np.ones(L), 4)
    own = [route(rng, num_experts=12) for _ in range(50)]
    last: list[float] = []
    mean = [0.66, 0.45]
    for step in range(1500):
        tokens = rng.integers(0, 50, 3).tolist()
        rows = [own[t] if rng.random() < by_token else route(rng, num_experts=12) for t in tokens]
        mtp = [row[0] if by_block else route(rng)[0] for row in rows[1:]]
        signs = forecast.signs(tokens, mtp)
        shares = forecast.shares(mean, signs)
        found = [float(np.mean([naive_new(rows[: j + 1], layer) for layer in range(L)])) for j in (1, 2)]
        forecast.observe(mean, signs, found)
        for token_id, row in zip(tokens, rows, strict=True):
            forecast.tokens.store(token_id, row)
        if step > 1000:
            last.extend(abs(a - b) for a, b in zip(shares, found, strict=True))
    return forecast, last


def test_a_token_that_keeps_its_experts_is_foretold() -> None:
    forecast, last = forecast_errors(by_token=1.0, by_block=False)
    assert np.mean(last) < 0.03
    assert forecast.regression.error < 0.3 * forecast.regression.error_without
    assert forecast.regression.slopes[0] == pytest.approx(1, abs=0.1)
    assert abs(forecast.regression.slopes[1]) < 0.1


def test_routing_that_has_no_pattern_leaves_the_mean() -> None:
    forecast, _ = forecast_errors(by_token=0.0, by_block=False)
    assert max(abs(slope) for slope in forecast.regression.slopes) < 0.1
    assert forecast.regression.error < 1.03 * forecast.regression.error_without


def test_the_block_that_drafted_is_a_sign_too() -> None:
    forecast, _ = forecast_errors(by_token=0.0, by_block=True)
    assert forecast.regression.slopes[1] > 0.15
    assert forecast.regression.error < 0.98 * forecast.regression.error_without  # it tells of one layer in three


def test_unknown_tokens_have_no_sign() -> None:
    rng = np.random.default_rng(5)
    forecast = RoutingForecast(L, K, np.ones(L), 4)
    forecast.tokens.store(1, route(rng))
    forecast.tokens.store(3, route(rng))
    known, behind = forecast.signs([1, 3, 2, 1], [])[0][0], forecast.signs([1, 3, 2, 1], [])[2][0]
    assert known is not None
    assert behind is None  # what the row between loads is not known
    assert forecast.shares([0.5, 0.4, 0.3], forecast.signs([2, 1, 1, 1], [])) == [0.5, 0.4, 0.3]


def test_regression_against_least_squares() -> None:
    rng = np.random.default_rng(6)
    regression = OnlineRegression(2)
    x = 0.2 * rng.standard_normal((2000, 2))
    y = x @ [0.8, -0.3] + 0.1 * rng.standard_normal(2000)
    for features, target in zip(x.tolist(), y.tolist(), strict=True):
        regression.observe(features, target)
    assert regression.slopes == pytest.approx(np.linalg.lstsq(x, y, rcond=None)[0], abs=0.06)
    assert regression.error == pytest.approx(0.1, rel=0.15)
    assert OnlineRegression(1).predict([1.0]) == 0.0


@pytest.mark.parametrize("common", [1.0, 0.0])
def test_truncation_learns_whether_early_layers_tell_of_late_ones(common: float) -> None:
    """Deviations of a row that all its layers share are foretold; those that each layer has for itself are not."""
    rng = np.random.default_rng(7)
    num_layers = 40
    weight_L = np.full(num_layers, 1 / num_layers)
    truncation, mean_L = Truncation(weight_L), np.full(num_layers, 0.5)
    assert truncation.checkpoints == [2, 6, 14]
    for _ in range(800):
        own = 0.2 * rng.standard_normal(num_layers)
        truncation.learn(own * (1 - common) + common * 0.2 * rng.standard_normal())
    dear_L = np.full(14, 0.5 + 0.3)
    expected = 0.8 / 40 + 26 / 40 * (0.5 + 0.3 * common)
    assert truncation.remaining(dear_L, mean_L) == pytest.approx(expected, abs=0.03)
    error, error_without = truncation.errors()[2][1:]
    assert (error < 0.2 * error_without) == bool(common)
