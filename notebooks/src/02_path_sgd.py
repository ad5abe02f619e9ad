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
# # Path-SGD: does an optimizer notice how the units are scaled?
#
# Multiply the weights into a hidden ReLU unit by ten and divide the weights out of it by ten: the
# network computes the same function. Yet SGD, started from there, learns another function. Path-SGD
# learns the same one, as we show on handwritten digits.
#
# To run it: `pip install -e ".[notebooks]"` in a clone of the repository.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import fgsgd_jax as fg

jax.config.update("jax_enable_x64", True)  # so that equal curves stay equal
SEED = 0
UNITS = 128
EPOCHS = 15
BATCH_SIZE = 100

# %% [markdown]
# ## One network, two starts
#
# Two hidden layers on the 64 pixels of scikit-learn's digits. The balanced start has normal weights
# of standard deviation $1/\sqrt{\text{fan-in}}$. For the unbalanced one, `unbalance` draws a
# quarter of the units, with replacement, multiplies the weights into each by $10c$, with log-normal
# $c$, and divides the weights out of it by the same number.

# %%
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(SEED).permutation(len(labels))
pixels = jnp.asarray((pixels - pixels.mean()) / pixels.std())[order]
labels = jnp.asarray(labels)[order]
train_pixels, train_labels = pixels[:1500], labels[:1500]
test_pixels, test_labels = pixels[1500:], labels[1500:]


def network(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def balanced_start(key):
    sizes = [64, UNITS, UNITS, 10]
    keys = jax.random.split(key, 3)
    return [
        {
            "kernel": jax.random.normal(k, (inputs, outputs)) / np.sqrt(inputs),
            "bias": jnp.zeros(outputs),
        }
        for k, inputs, outputs in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


balanced = balanced_start(jax.random.key(SEED))
unbalanced = fg.unbalance(jax.random.key(SEED + 1), balanced)

difference = jnp.abs(network(balanced, pixels) - network(unbalanced, pixels)).max()
print(f"largest difference of their outputs: {difference:.0e}")
for name, params in (("balanced", balanced), ("unbalanced", unbalanced)):
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)))
    path_norm = fg.path_norm(network, params, input_shape=(64,))
    print(f"{name:>10}: norm of the weights {norm:6.1f}, path norm {path_norm:.6f}")

# %% [markdown]
# The Euclidean norm of the weights, which defines the steps of SGD, differs between the two. The
# *path norm*
#
# $$\varphi_p(w) = \Big(\sum_{\text{paths}} \prod_{e \in \text{path}} |w_e|^p\Big)^{1/p}$$
#
# does not: a path that enters a rescaled unit also leaves it. Path-SGD divides the gradient of each
# weight by the part of the path norm that the weight is multiplied with,
#
# $$\kappa_e = \Big(\sum_{\text{paths} \ni e} \prod_{e' \neq e} |w_{e'}|^p\Big)^{2/p},$$
#
# One forward and one backward pass over a single example compute κ for all weights, however many
# paths there are.

# %%
paths = 64 * UNITS * UNITS * 10
kappa = fg.path_scales(network, unbalanced, input_shape=(64,))
spread = jnp.log10(kappa[0]["kernel"]).ravel()
print(f"{paths:,} paths from the pixels; κ of the unbalanced first layer spans")
print(f"{spread.max() - spread.min():.1f} powers of ten")

# %% [markdown]
# ## Ten lines
#
# `path_sgd` is an Optax transformation. It takes the network as a function of parameters and a
# batch, and the shape of one example. For each optimizer and each start we choose the best of four
# rates, all powers of ten, by the training loss after three epochs.


# %%
def curve(tx, params, epochs):
    """The training loss before training and after each epoch, and the losses at single steps."""

    def loss_of(params, batch):
        logits = network(params, train_pixels[batch])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, train_labels[batch])
        return losses.mean()

    @jax.jit
    def epoch(params, state, batches):
        def step(carry, batch):
            params, state = carry
            loss, gradient = jax.value_and_grad(loss_of)(params, batch)
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), loss

        (params, state), steps = jax.lax.scan(step, (params, state), batches)
        return params, state, steps, loss_of(params, jnp.arange(1500))

    state, everything = tx.init(params), jnp.arange(1500)
    losses, steps = [float(loss_of(params, everything))], []
    for number in range(epochs):
        shuffled = np.random.default_rng((SEED, number)).permutation(1500)
        batches = jnp.asarray(shuffled.reshape(-1, BATCH_SIZE))
        params, state, new, loss = epoch(params, state, batches)
        losses.append(float(loss))
        steps.extend(map(float, new))
    return np.array(losses), np.array(steps), params


OPTIMIZERS = {
    "SGD": optax.sgd,
    "AdaGrad": optax.adagrad,
    "Path-SGD": lambda rate: fg.path_sgd(rate, network, input_shape=(64,)),
}
results = {}
for name, optimizer in OPTIMIZERS.items():
    for start, params in (("balanced", balanced), ("unbalanced", unbalanced)):
        rates = [10.0**-exponent for exponent in range(4)]
        short = [np.nan_to_num(curve(optimizer(r), params, 3)[0][-1], nan=np.inf) for r in rates]
        rate = rates[int(np.argmin(short))]
        results[name, start] = curve(optimizer(rate), params, EPOCHS)
        last = results[name, start][0][-1]
        print(f"{name:>8}, {start:<10} rate {rate:6g}  training loss at the end {last:.4f}")

# %%
COLORS = {"SGD": "#1f4e79", "AdaGrad": "#b5541c", "Path-SGD": "#3a7d44"}
figure, axis = plt.subplots(figsize=(6, 4))
for (name, start), (losses, _, _) in results.items():
    wide = start == "balanced"
    axis.plot(
        losses,
        color=COLORS[name],
        linestyle="-" if wide else (0, (2, 1.5)),
        linewidth=4 if wide else 1.8,
        alpha=0.45 if wide else 1,
        label=f"{name}, {start}",
    )
axis.set(xlabel="epoch", ylabel="training cross-entropy", yscale="log")
axis.grid(alpha=0.25)
axis.spines[["top", "right"]].set_visible(False)
_ = axis.legend(frameon=False, fontsize=8)
# %% [markdown]
# Path-SGD has the same curve from both starts; the others do worse from the unbalanced one. How
# exact is "the same"? The losses of all steps, and the functions learned, agree to rounding:

# %%
(_, one, first), (_, other, second) = (
    results["Path-SGD", start] for start in ("balanced", "unbalanced")
)
print(f"largest relative difference of the loss at a step: {np.max(np.abs(one / other - 1)):.0e}")
logits = network(first, test_pixels), network(second, test_pixels)
apart = jnp.abs(logits[0] - logits[1]).max()
print(f"largest difference of a test logit:                {apart:.0e}")
errors = [float(jnp.mean(each.argmax(-1) != test_labels)) for each in logits]
print(f"test errors: {errors[0]:.2%} and {errors[1]:.2%}")

# %% [markdown]
# ## To take home
#
# * Give `path_sgd` any network of weights, ReLU, pooling and skip connections as a function; Flax
#   models go through `fgsgd_jax.nnx.path_sgd` and `fgsgd_jax.linen.path_sgd`. Other networks are
#   refused with an error that names the operation.
# * Momentum and decoupled weight decay keep the invariance. Adam after it, L2 decay, or clipping by
#   a global norm do not.
# * It must be the outermost transformation: paths run through all layers.
# * `python -m fgsgd_jax paths --data mnist --data-dir DIR` draws the three figures of the paper.
