"""One rate for the kernels is enough: the default step of Euclidean leaves suits it."""

import pytest

import fgsgd_jax as fg

pytest.importorskip("sklearn")  # digits
from fgsgd_jax.spec.networks._presets import PRESETS
from tests.benchmarks import euclidean_rates, preset_rates


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_a_network_learns_at_a_rate_that_suits_its_kernels(rate):
    # Chance is 90 % error. The bound is three times what the default reaches, 1.5 % at rate 1.
    assert euclidean_rates.trained("CNN", "default")(rate, seed=0) < 5


@pytest.mark.slow
def test_a_network_does_not_learn_if_its_head_takes_the_rate_of_the_kernels():
    assert euclidean_rates.trained("CNN", "SGD, rate")(1.0, seed=0) > 50


@pytest.mark.slow
def test_a_network_learns_at_the_rate_of_its_preset():
    task = preset_rates.TASKS["resnet, on digits"]
    # The bound is four times what the command prints for this rate.
    assert preset_rates.trained(task, fg.fgsgd)(PRESETS[task.preset].rate, seed=0) < 5
