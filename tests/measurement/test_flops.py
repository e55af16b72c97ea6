"""Products counted in a jaxpr: closed forms, and each construct that a program may be made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from vit_jax import create_model
from vit_jax.measurement.attention_cost import attention_cost, attention_lines
from vit_jax.measurement.flops import model_flops, product_flops

WIDTH, DEPTH, HEADS, MLP, CLASSES, SIDE, PATCH = 16, 3, 2, 24, 5, 16, 4
TOKENS = (SIDE // PATCH) ** 2 + 1

PATCHES = 2 * (TOKENS - 1) * PATCH**2 * 3 * WIDTH
ATTENTION = 2 * 2 * TOKENS**2 * WIDTH
LAST_PRODUCT = 2 * TOKENS * MLP * WIDTH
BLOCK = 4 * 2 * TOKENS * WIDTH**2 + ATTENTION + 2 * LAST_PRODUCT
FORWARD = PATCHES + DEPTH * BLOCK + 2 * WIDTH * CLASSES

SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)
ONE = 2 * 4**3
"""What the product of two such matrices takes."""


def vit(**fields):
    """Returns a small ViT and its abstract variables."""
    sizes = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "mlp_dim": MLP, "num_classes": CLASSES}
    model = create_model("vit", patch_size=PATCH, **(sizes | fields))
    return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_forward_pass_by_hand(remat, scan_layers):
    products = model_flops(*vit(remat=remat, scan_layers=scan_layers), (SIDE, SIDE))
    assert products.flops == FORWARD
    assert products.batched == DEPTH * ATTENTION
    assert not products.notes


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize(
    ("remat", "again"), [("none", 0), ("dots", DEPTH * ATTENTION), ("full", DEPTH * (BLOCK - LAST_PRODUCT))]
)
def test_gradient_by_hand(remat, again, scan_layers):
    """Three forward passes, but for the gradient by the images, and what is recomputed.

    Of a block that is recomputed the last product is not needed, as its result is the block's, which is kept.
    """
    model, variables = vit(remat=remat, scan_layers=scan_layers)
    images = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.float32)
    products = product_flops(jax.grad(lambda v, x: model.apply(v, x, train=True).sum()), variables, images)
    head = 2 * WIDTH * CLASSES  # the logits themselves are not needed for the gradient of their sum
    assert products.flops == 2 * (3 * FORWARD - PATCHES - head + again)


@pytest.mark.parametrize("attention", ["full", "local", "axial", "sparse", "linear", "performer"])
def test_attention_tells_what_its_products_take(attention):
    """And the line of a summary says it."""
    options = {"attention_window": 3} if attention in ("local", "sparse") else {}
    model, variables = vit(attention=attention, **options)
    cost = attention_cost(model, variables, (SIDE, SIDE))
    assert model_flops(model, variables, (SIDE, SIDE)).flops == FORWARD - DEPTH * ATTENTION + cost.flops
    assert cost.flops == DEPTH * model.attention_kind.cost((4, 4), 1, HEADS, WIDTH // HEADS).flops
    (line,) = attention_lines(model, variables, (SIDE, SIDE))
    assert line.startswith(f"attention {attention!r}: {cost.flops / 1e9:.3g} GFLOP an image")


def test_models_without_kinds_of_attention_tell_nothing():
    model = create_model("mixer_s16")
    assert attention_lines(model, {}, (SIDE, SIDE)) == []


def test_attention_kernel_does_not_matter_to_the_model():
    model, variables = vit()
    assert model_flops(model.clone(attention_kernel="cudnn"), variables, (SIDE, SIDE)).flops == FORWARD


def test_scan_counts_its_length():
    def scanned(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, None, length=7)[0]

    assert product_flops(scanned, SQUARE).flops == 7 * ONE


def test_what_nothing_reads_does_not_count():
    assert product_flops(lambda x: (x @ x, x + 1)[1], SQUARE).flops == 0

    def body(carry, _):
        wanted, unwanted = carry
        return (wanted @ wanted, unwanted @ unwanted), None

    assert product_flops(lambda x: jax.lax.scan(body, (x, x), None, length=5)[0][0], SQUARE).flops == 5 * ONE

    def crossed(carry, _):
        wanted, read = carry
        return (wanted @ read, read @ read), None

    assert product_flops(lambda x: jax.lax.scan(crossed, (x, x), None, length=5)[0][0], SQUARE).flops == 10 * ONE


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.custom_jvp, jax.custom_vjp])
def test_functions_inside_functions(wrap):
    """Forward twice in a row, and the gradient of one, whose forward product nothing reads."""
    inner = wrap(lambda x: x @ x)
    if wrap is jax.custom_vjp:
        inner.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))
    elif wrap is jax.custom_jvp:
        inner.defjvp(lambda primals, tangents: (primals[0] @ primals[0], primals[0] @ tangents[0] * 2))
    gradients = 1 if wrap is jax.custom_jvp else 2
    assert product_flops(lambda x: inner(inner(x)), SQUARE).flops == 2 * ONE
    assert product_flops(jax.grad(lambda x: inner(x).sum()), SQUARE).flops == gradients * ONE


def test_while_counts_once_and_says_so():
    def looped(x):
        return jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: x @ x @ x, x)

    products = product_flops(looped, SQUARE)
    assert products.flops == 2 * ONE
    assert "counted once" in next(iter(products.notes))
    assert not product_flops(lambda x: jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: x + 1, x), SQUARE).notes


def test_cond_counts_the_largest_branch():
    branches = (lambda x: x, lambda x: x @ x @ x, lambda x: x @ x)
    assert product_flops(lambda x: jax.lax.switch(x.sum().astype(int), branches, x), SQUARE).flops == 2 * ONE


def test_shard_map_counts_all_devices():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("rows", "other"))
    split = jax.shard_map(
        lambda x: x @ x.T, mesh=mesh, in_specs=PartitionSpec("rows"), out_specs=PartitionSpec("rows"), check_vma=False
    )
    # Each of four devices multiplies [2, 4] by [4, 2]; over the second axis they do the same work twice.
    assert product_flops(split, SQUARE).flops == 4 * 2 * 2 * 4 * 2


def test_batched_products():
    left, right = jax.ShapeDtypeStruct((3, 4, 5), jnp.float32), jax.ShapeDtypeStruct((3, 5, 6), jnp.float32)
    products = product_flops(jnp.matmul, left, right)
    assert products.flops == products.batched == 2 * 3 * 4 * 5 * 6


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 2), (4, 1)])
def test_convolution_and_its_gradients(stride, groups):
    """The gradient by weights takes as many products as the convolution, that by images as many but at the border."""
    images, kernel = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32), jax.ShapeDtypeStruct((4, 4, 4 // groups, 6), "f4")

    def convolved(x, w):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), "VALID", dimension_numbers=dimensions, feature_group_count=groups
        )

    places = ((8 - 4) // stride + 1) ** 2
    forward = 2 * 2 * places * 6 * 4 * 4 * 4 // groups
    assert product_flops(convolved, images, kernel).flops == forward
    by_kernel = product_flops(jax.grad(lambda w, x: convolved(x, w).sum()), kernel, images)
    by_images = product_flops(jax.grad(lambda x, w: convolved(x, w).sum()), images, kernel)
    assert by_kernel.flops == forward
    border = by_images.flops / forward  # of the images, which lie under fewer windows, but count like others
    assert 1 <= border < 4


def test_cudnn_attention_by_name(monkeypatch):
    """Traced without the GPU that it needs to run: two products forward, five backward."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91200)
    query, key = (jax.ShapeDtypeStruct((2, tokens, 4, 8), jnp.bfloat16) for tokens in (16, 32))
    product = 2 * 2 * 4 * 16 * 32 * 8

    def attend(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn").astype(jnp.float32)

    forward = product_flops(attend, query, key, key)
    assert forward.flops == forward.batched == 2 * product
    gradient = jax.grad(lambda *qkv: attend(*qkv).sum(), argnums=(0, 1, 2))
    assert product_flops(gradient, query, key, key).flops == 7 * product


def test_any_architecture():
    for name in ("mixer_s16", "r_ti16", "deit_ti16_distilled"):
        model = create_model(name, depth=1, num_classes=3)
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        assert model_flops(model, variables, (32, 32)).flops > 0
