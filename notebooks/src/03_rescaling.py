# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Re-scaling: which norm should a component have?
#
# On a sphere every slice of a kernel has norm 1. The paper gives each slice another norm, s = γ/λ:
# γ is chosen once, from the shape of the kernel, and λ is the standard deviation of the features
# that enter it, measured once per epoch. What does s change in a network with batch normalization,
# and does it change which learning rate is best? We look on handwritten digits, in under a minute.
#
# To run it: `pip install -e ".[notebooks]"` in a clone of the repository.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import fgsgd_jax as fg
import fgsgd_jax.nnx

SEED = 0
EPOCHS = 4
BATCH_SIZE = 50
RATES = (0.001, 0.01, 0.1, 1.0)

# %% [markdown]
# ## Data and model
#
# 600 of scikit-learn's digits and a small network: two convolutions, each with batch normalization
# and ReLU, and a dense layer.

# %%
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(SEED).permutation(len(labels))[:600]
images = jnp.asarray((pixels - pixels.mean()) / pixels.std())[order].reshape(-1, 8, 8, 1)
labels = jnp.asarray(labels)[order]


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), use_bias=False, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.norm2 = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(4 * 4 * 32, 10, rngs=rngs)

    def __call__(self, x, training):
        x = nnx.relu(self.norm1(self.conv1(x), use_running_average=not training))
        x = nnx.relu(self.norm2(self.conv2(x), use_running_average=not training))
        return self.head(x.reshape(len(x), -1))


graph, start, statistics = nnx.split(CNN(nnx.Rngs(SEED)), nnx.Param, nnx.BatchStat)


def logits_and_statistics(params, statistics, images):
    """What the network computes in training mode, and its new running statistics."""
    model = nnx.merge(graph, params, statistics, copy=True)
    logits = model(images, training=True)
    return logits, nnx.state(model, nnx.BatchStat)


# %% [markdown]
# ## γ: a scale from the shape of the kernel
#
# `scale="geometric"` is γ = (fan-in + fan-out)^−½. The scale may also be a number or an array, and
# one `pom` may have a scale of its own.

# %%
kernels = fg.pom("PO", fg.Sphere())


def spec_of(scale):
    return fg.collection(start, ("conv*/kernel", kernels), default=None, scale=scale)


spec = spec_of("geometric")
print(spec, "\n")
params = fg.project(start, spec)

# %% [markdown]
# ## λ: a scale from the features
#
# `feature_std` runs the model as it is, without editing it, and returns one standard deviation for
# each input channel of each kernel. `set_feature_std` writes them into the state of the optimizer,
# and the next update moves the weights to their new norms. Here the gradient is zero, so the
# update does nothing else.

# %%
model = nnx.merge(graph, params, statistics)
stds = fgsgd_jax.nnx.feature_std(model, images, spec=spec, training=True)
for path, std in stds.items():
    print(f"{path}: λ from {std.min():.2f} to {std.max():.2f}")

tx = fg.fgsgd(0.1, spec)
zeros = jax.tree.map(jnp.zeros_like, params)


def rescaled(pooled):
    """The weights after an update that only re-scales them, and λ as the optimizer has it."""
    state = fg.set_feature_std(tx.init(params), stds, min_std=0.1, pooled=pooled)
    updates, state = tx.update(zeros, state, params)
    return optax.apply_updates(params, updates), fg.get_feature_std(state)


# %% [markdown]
# Batch normalization divides by the norm of what enters it. So a factor that all slices of an
# output channel share changes nothing that the network computes: γ, and a single λ for the whole
# kernel (`pooled=True`). A λ that differs between input channels weighs them differently, and
# changes the function. (What is left of the change by a single λ is the ε that batch normalization
# adds to the variance.)

# %%
before, _ = logits_and_statistics(params, statistics, images)
for pooled in (True, False):
    after, _ = logits_and_statistics(rescaled(pooled)[0], statistics, images)
    change = jnp.abs(after - before).max() / jnp.abs(before).max()
    name = "one λ per kernel" if pooled else "one λ per input channel"
    print(f"{name:>24}: largest relative change of a logit {change:.0e}")

# %% [markdown]
# `report` measures the weights and the next step. With λ = 1 no group of scheme PI or PO has a norm
# above 1 under the geometric scale; a small λ may break that, and the last lines say where.


# %%
def loss_of(params, statistics, images, labels):
    logits, statistics = logits_and_statistics(params, statistics, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), statistics


moved, current = rescaled(pooled=False)
gradients, _ = jax.grad(loss_of, has_aux=True)(moved, statistics, images, labels)
print(fg.report(moved, spec, gradients=gradients, feature_std=current))

# %% [markdown]
# ## On which sphere is a step taken?
#
# The paper can be read in two ways. `coordinates="unit"`, the default, takes each step on the unit
# sphere and multiplies the result by s, so the learning rate means the same angle whatever s is.
# `coordinates="scaled"`, the literal reading, takes it on the sphere of radius s, where a step of
# the same length is a larger angle if s is small. (A number gives the radius itself.) We train with
# both, at scales a factor of ten apart and with four learning rates.


# %%
def optimizer(rate, spec, coordinates):
    dense = optax.sgd(0.05, momentum=0.9)
    return fg.fgsgd(rate, spec, momentum=0.9, coordinates=coordinates, euclidean=dense)


def training_losses(spec, coordinates):
    """For each rate, the mean training loss of the last epoch."""

    @jax.jit
    def step(rate, params, statistics, state, images, labels):
        (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            params, statistics, images, labels
        )
        updates, state = optimizer(rate, spec, coordinates).update(gradients, state, params)
        return optax.apply_updates(params, updates), statistics, state, loss

    def train(rate):
        params = fg.project(start, spec)
        run = params, statistics, optimizer(rate, spec, coordinates).init(params)
        shuffle = np.random.default_rng(SEED)
        for _ in range(EPOCHS):
            losses = []
            for batch in shuffle.permutation(len(labels)).reshape(-1, BATCH_SIZE):
                *run, loss = step(rate, *run, images[batch], labels[batch])
                losses.append(loss)
        return float(jnp.mean(jnp.stack(losses)))

    return [train(rate) for rate in RATES]


def at_scale(factor):
    """The kernels at `factor` times their geometric scale."""

    def rule(name, inputs, outputs):
        gamma = (9 * inputs + 9 * outputs) ** -0.5
        return f"{name}/kernel", fg.pom("PO", fg.Sphere(), scale=factor * gamma)

    return fg.collection(start, rule("conv1", 1, 16), rule("conv2", 16, 32), default=None)


# %%
FACTORS = {10.0: "#1f4e79", 1.0: "#b5541c", 0.1: "#5b8c5a"}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for panel, coordinates in zip(panels, ("unit", "scaled"), strict=True):
    for factor, color in FACTORS.items():
        losses = training_losses(at_scale(factor), coordinates)
        panel.plot(RATES, losses, "o-", markersize=4, color=color, label=f"s = {factor:g} γ")
        best = RATES[int(np.argmin(losses))]
        print(f"{coordinates:>6}, s = {factor:4g} γ: best rate {best:g}, loss {min(losses):.3f}")
    panel.set(xlabel="learning rate", title=f'coordinates="{coordinates}"')
    panel.set(xscale="log", yscale="log")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("training loss, last epoch")
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# With unit coordinates the curves of the three scales nearly coincide, and one rate is best for all
# of them. With literal steps the smaller scales need smaller rates.
#
# ## The same over seeds
#
# `python -m fgsgd_jax study coordinates` does this with more care, on all digits: seven rates for
# each scale, the best of them by validation images, ten seeds
# ([table](studies/coordinates-digits/table.md)).
#
# | steps on | best rate at 10 γ, γ, 0.1 γ | test error, % |
# | --- | --- | --- |
# | unit spheres | 1, 1, 1 | 0.8, 0.9, 0.8 |
# | scaled spheres, the literal reading | 0.5, 0.015, 0.0015 | 0.9, 1.1, 2.1 |
# | spheres of radius 0.05 | 0.015, 0.005, 0.015 | 1.4, 1.3, 1.4 |
#
# ![Validation error by learning rate, for each scale](studies/coordinates-digits/figure.png)
#
# With unit coordinates the curves of the three scales coincide. With literal steps the best rate
# falls with s, and at 0.1 γ they err more (p = 0.0002). On spheres of one radius, 0.05, one rate is
# good for all scales too, but the errors are larger than with unit coordinates by half a point (p
# from 0.01 to 0.08).
#
# ## Does re-scaling lower the error?
#
# `python -m fgsgd_jax study scales` tunes the rate of every variant in the same way
# ([table](studies/scales-digits/table.md)). "literal" is eq. (2) with feature-map sizes;
# "λ of channels ≥ 1" is `min_std=1`; "λ of kernels" is `pooled=True`. The bounds are those of the
# paper's Table 1.
#
# ![Test errors and logarithms of the bounds](studies/scales-digits/figure.png)
#
# The logarithms of the bounds on groups fall by hundreds, and errors do not follow them: all seven
# variants err by 0.7 to 0.9 %, and none differs clearly from plain SGD (p from 0.2 to 1).

# %% [markdown]
# ## To take home
#
# * Followed by batch normalization, a scale γ changes nothing that the network computes, nor does a
#   λ per kernel. A λ per input channel does.
# * Keep `coordinates="unit"`: then the best learning rate does not depend on s.
# * Norms and bounds shrink with γ, test errors do not. Use the scale if you need the bounds, or if
#   your network has no normalization; do not expect fewer errors from it.
