"""The study `language`: its text, its network, and what is kept on manifolds."""

import functools
import math
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg
from fgsgd_jax.experiments.study import language, language_methods
from fgsgd_jax.experiments.study.language_network import (
    RARE,
    Size,
    Text,
    initial,
    load_text,
    loss_of,
    loss_of_counts,
    network,
)

SIZE, TOKENS = Size(width=8, layers=2, heads=2, context=6), 11


# --- the text ---------------------------------------------------------------------------------


def test_the_text_has_every_paragraph_of_the_reference_once():
    text = load_text()
    split = [part for name in sorted(topics) for part in topics[name].split("\n\n")]
    whole = [part.strip("\n") for part in split if part.strip("\n")]
    once = sorted(set(whole), key=whole.index)
    assert len(once) < len(whole)  # topics such as "compound" contain others
    characters = np.array(list("\n\n".join(once)))
    tokens = np.concatenate([text.train, text.validation, text.test])
    assert len(tokens) == len(characters)
    kinds, counts = np.unique(characters, return_counts=True)
    common = kinds[counts >= RARE]
    assert text.tokens == len(common) + 1
    known = tokens < len(common)
    np.testing.assert_array_equal(known, np.isin(characters, common))
    np.testing.assert_array_equal(common[tokens[known]], characters[known])


def test_a_tenth_of_the_text_is_held_out():
    _, *held_out = text = load_text()[:3]
    total = sum(map(len, text))
    for part in held_out:
        assert len(part) == pytest.approx(total / 20, abs=1)


# --- the network ------------------------------------------------------------------------------


def in_numpy(params, inputs, heads):
    """The network by loops over layers, sequences, heads and places."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden, others = params["hidden"], params["others"]

    def normalized(x, factors):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * factors

    def one(tokens):
        x = others["embedding"][tokens] + others["positions"]
        for layer, norms in enumerate(others["norms"]):
            w = {name: stack[layer] for name, stack in hidden.items()}
            h = normalized(x, norms[0])
            q, k, v = (np.split(h @ w[name], heads, -1) for name in ("query", "key", "value"))
            mixed = np.zeros_like(x)
            size = x.shape[1] // heads
            for head in range(heads):
                for place in range(len(x)):
                    scores = k[head][: place + 1] @ q[head][place] / math.sqrt(size)
                    shares = np.exp(scores) / np.exp(scores).sum()
                    mixed[place, head * size : (head + 1) * size] = shares @ v[head][: place + 1]
            x = x + mixed @ w["out"]
            x = x + np.maximum(normalized(x, norms[1]) @ w["up"], 0) @ w["down"]
        return normalized(x, others["last_norm"]) @ others["head"]

    return np.stack([one(tokens) for tokens in inputs])


@pytest.mark.slow
def test_the_network_is_its_formula_and_sees_no_later_tokens():
    params = initial(jax.random.key(0), TOKENS, SIZE)
    windows = np.random.default_rng(0).integers(0, TOKENS, (3, SIZE.context + 1))
    logits = jax.jit(network, static_argnums=2)(params, windows[:, :-1], SIZE.heads)
    expected = in_numpy(params, windows[:, :-1], SIZE.heads)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    shares = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    losses = -np.log(np.take_along_axis(shares, windows[:, 1:, None], -1))
    loss = jax.jit(loss_of, static_argnums=2)(params, windows, SIZE.heads)
    np.testing.assert_allclose(loss, losses.mean(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["MuonH", "manifold_muon", "riemannian_adam"])
def test_every_matrix_has_a_norm_that_keeps_the_mean_square_times_the_gain(method):
    gain = 0.5
    params = initial(jax.random.key(0), TOKENS, SIZE, gain)
    projected = fg.project(params, language_methods.spec(method, params, gain))
    for kernels in (params, projected):
        for stack in kernels["hidden"].values():
            norms = np.linalg.norm(np.asarray(stack, np.float64), axis=(1, 2))
            np.testing.assert_allclose(norms, gain * math.sqrt(stack.shape[2]), rtol=1e-5)
    moved = {
        name
        for name, stack in projected["hidden"].items()
        if np.abs(stack - params["hidden"][name]).max() > 1e-4
    }
    assert moved == ({"up"} if method == "riemannian_adam" else set())


# --- the study --------------------------------------------------------------------------------


def test_every_method_has_seven_settings_and_five_rates_over_two_decades():
    for settings in language_methods.methods().values():
        assert len(settings) == 7
        rates = sorted({setting["rate"] for setting in settings})
        assert len(rates) == 5
        assert rates[-1] / rates[0] == pytest.approx(100)
        (other,) = set(settings[0]) - {"rate"}
        assert len({(setting["rate"], setting[other]) for setting in settings}) == 7


@pytest.mark.slow
@pytest.mark.parametrize("method", language_methods.methods())
def test_every_method_trains_the_same_weights(method):
    problem = language._Problem(SIZE, 20)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    train = functools.partial(problem._train, method, 1.0)
    params, losses = jax.eval_shape(train, problem.shapes, jax.random.key(0), number, number)
    assert params == problem.shapes
    assert losses.shape == (20,)


@pytest.mark.parametrize("steps", [40, 300])
def test_the_rate_rises_for_a_twentieth_of_the_steps_and_falls_to_zero(steps):
    schedule = language_methods.schedule(3.0, steps)
    rates = [float(schedule(step)) for step in range(steps + 1)]
    up = steps // 20
    assert rates[:up] == pytest.approx([3 * (step + 1) / up for step in range(up)])
    assert rates[up:] == pytest.approx(np.linspace(3, 0, steps - up + 1))


def rows_of(losses, **others):
    return [
        {"rate": rate, "seed": 0, "validation_loss": loss} | others for rate, loss in losses.items()
    ]


@pytest.mark.parametrize("usual", [{"decay": 0.1}, {"gain": 1.0}])
def test_the_width_is_where_the_loss_crosses_a_twentieth_above_the_lowest(usual):
    # Between 0.1 and 1 the loss falls from 2.2 to 2: 2.1 is half a decade before 1.
    # Between 1 and 10 it rises to 2.4: 2.1 is a quarter of a decade after 1.
    rows = rows_of({0.1: 2.2, 1.0: 2.0, 10.0: 2.4}, **usual)
    assert language.width(rows) == pytest.approx(0.75, abs=1e-3)
    rows += rows_of({1.0: 1.0}, **{name: 7.0 for name in usual})  # another decay or gain
    rows += rows_of({1.0: 1.0}, **usual, **{"seed": 1})  # a later seed
    assert language.width(rows) == pytest.approx(0.75, abs=1e-3)


def test_a_run_that_diverged_counts_as_guessing():
    rows = rows_of({0.1: 2.0, 1.0: None, 10.0: 70.0}, gain=1.0)
    assert language.curve(rows) == {0.1: 2.0, 1.0: language.WORST, 10.0: language.WORST}
    slope = (language.WORST - 2.0) / 1.0  # a decade
    assert language.width(rows) == pytest.approx(0.1 / slope, abs=1e-3)


def test_counts_predict_as_they_do_by_hand():
    train, test = np.array([0, 1, 0, 1, 1]), np.array([0, 1])
    text = Text(train, test, test, 2, "")
    single = (3 + 1 / 2) / (4 + 1)  # of the four that end a pair, 1 0 1 1, three are 1
    after_0 = (2 + single) / (2 + 1)  # of the pairs 01 10 01 11, two begin with 0, both are 01
    assert loss_of_counts(text, 2) == pytest.approx(-np.log(after_0))
