"""Convolutions that give the output of a network, and those that only seem to be read by none."""

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg


def kernels(**shapes):
    """Flat paths to kernels, with two underscores for each slash."""
    return {
        f"{name.replace('__', '/')}/kernel": jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in shapes.items()
    }


def may_be_outputs(spec):
    """The paths that the sentence below the table has for possible outputs."""
    text = next((line for line in str(spec).splitlines() if "may give the output" in line), "")
    return {path for path in spec if f"'{path}'" in text.split("may give")[0]}


def images_of(channels):
    """Networks that give images, with the path of the last convolution."""
    vae = kernels(encoder__Conv_0=(3, 3, channels, 32), encoder__Dense_0=(3136, 20))
    vae |= kernels(decoder__Dense_0=(20, 3136), decoder__Conv_0=(3, 3, 32, 32))
    gan = kernels(D__Conv_0=(4, 4, channels, 64), D__Conv_1=(4, 4, 64, 128), D__Dense_0=(6272, 2))
    gan |= kernels(G__Dense_0=(64, 6272), G__ConvTranspose_0=(4, 4, 128, 128))
    slope = {"decoder/PReLU_0/negative_slope": jax.ShapeDtypeStruct((1,), jnp.float32)}
    return {
        "VAE": (vae | kernels(decoder__Conv_1=(3, 3, 32, channels)), "decoder/Conv_1/kernel"),
        "one slope": (
            vae | slope | kernels(decoder__Conv_1=(3, 3, 32, channels)),
            "decoder/Conv_1/kernel",
        ),
        "GAN": (
            gan | kernels(G__ConvTranspose_1=(4, 4, 128, channels)),
            "G/ConvTranspose_1/kernel",
        ),
    }


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("name", ["VAE", "one slope", "GAN"])
def test_an_image_of_few_channels_may_be_an_output_whatever_the_dense_layers_read(name, channels):
    params, path = images_of(channels)[name]
    assert may_be_outputs(fg.collection(params, preset="resnet")) == {path}


@pytest.mark.parametrize("times", [4, 9, 16])
def test_a_convolution_before_a_pixel_shuffle_is_not_the_last(times):
    params = kernels(stem__conv=(3, 3, 3, 64), body__conv=(3, 3, 64, 64))
    params |= kernels(upsample__conv=(3, 3, 64, 64 * times), out__conv=(3, 3, 64, 3))
    spec = fg.collection(params, preset="resnet")
    assert spec["upsample/conv/kernel"] is not None
    assert spec["out/conv/kernel"] is None
    assert may_be_outputs(spec) == set()


def test_a_convolution_whose_outputs_are_concatenated_is_not_the_last():
    params = kernels(down__Conv_0=(3, 3, 1, 32), down__Conv_1=(3, 3, 32, 64))
    params |= kernels(up__Conv_0=(3, 3, 96, 32), up__Conv_1=(1, 1, 32, 2))
    spec = fg.collection(params, preset="resnet")
    assert {path for path, _ in spec.on_manifolds()} == set(params) - {"up/Conv_1/kernel"}
    assert may_be_outputs(spec) == set()


def test_where_no_other_is_the_last_a_rearranged_convolution_may_be():
    params = kernels(a__conv=(3, 3, 3, 16), b__conv=(3, 3, 16, 16), c__conv=(3, 3, 16, 64))
    spec = fg.collection(params, preset="resnet")
    assert spec["c/conv/kernel"] is not None
    assert may_be_outputs(spec) == {"c/conv/kernel"}
