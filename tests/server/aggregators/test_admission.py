"""Which uploads are refused before they are aggregated, and why."""

import numpy as np
import pytest

from fedstill.common.errors import ExchangeError
from fedstill.server.aggregators import check_upload
from fedstill.server.aggregators.admission import MAX_LOGIT


def upload(value=0.0, dtype=np.float32):
    logits = np.zeros((4, 3), dtype)
    logits[2, 1] = value
    return logits


@pytest.mark.parametrize("value", [0.0, 30.0, -MAX_LOGIT, MAX_LOGIT])
def test_logits_of_any_plausible_size_are_admitted(value):
    check_upload(upload(value), num_samples=4, num_classes=3)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_any_float_is_admitted(dtype):
    check_upload(upload(1.5, dtype), num_samples=4, num_classes=3)


def test_a_node_may_answer_nothing():
    check_upload(np.zeros((0, 3), np.float32), num_samples=0, num_classes=3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    with pytest.raises(ExchangeError, match="1 of 12 logits are not finite"):
        check_upload(upload(value), num_samples=4, num_classes=3)


@pytest.mark.parametrize("value", [2e6, -2e6])
def test_absurdly_large_logits_are_refused(value):
    with pytest.raises(ExchangeError, match=r"a logit of size 2e\+06, where 1e\+06 is the most"):
        check_upload(upload(value), num_samples=4, num_classes=3)


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (12,), (1, 4, 3)])
def test_logits_of_another_shape_are_refused(shape):
    with pytest.raises(ExchangeError, match=r"expected logits of shape \(4, 3\), got"):
        check_upload(np.zeros(shape, np.float32), num_samples=4, num_classes=3)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64, object])
def test_what_is_not_a_float_is_refused(dtype):
    with pytest.raises(ExchangeError, match="expected logits as floats, got"):
        check_upload(upload(0, dtype), num_samples=4, num_classes=3)
