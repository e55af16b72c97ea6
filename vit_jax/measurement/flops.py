"""Floating-point operations of a traced program: the products in its jaxpr, two for each multiply-add.

XLA's cost analysis counts elementwise work too, a loop's body once whatever its length, and nothing inside a custom
call. Here only matrix products and convolutions count, as in the literature (Kaplan et al. 2020, section 2.1; Chowdhery
et al. 2022, appendix B), wherever in the program they are, and those alone whose result is used.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params

TRAINING_PASSES = 3
"""Forward passes that a training step counts as: gradients by activations and by weights take one each. What is
recomputed is not counted (Chowdhery et al. 2022, appendix B)."""

ATTENTION_PRODUCTS = {"dot_product_attention_fwd": 2, "dot_product_attention_bwd": 5}
"""Products of queries, keys and values inside cuDNN's fused attention; the backward pass forms the scores again."""

OPAQUE = ("pallas_call", "ffi_call", "tpu_custom_call")
"""Primitives whose inside is not looked into."""


@dataclasses.dataclass(frozen=True)
class Products:
    """What the products of a program take.

    Attributes:
      flops: all of them, for all devices together.
      batched: the part of products with batch axes, which in a ViT are attention's q·kᵀ and p·v and their gradients.
      notes: what could not be counted as it is run.
    """

    flops: float = 0.0
    batched: float = 0.0
    notes: frozenset[str] = frozenset()

    def __add__(self, other: "Products") -> "Products":
        return Products(self.flops + other.flops, self.batched + other.batched, self.notes | other.notes)

    def __mul__(self, times: float) -> "Products":
        return Products(self.flops * times, self.batched * times, self.notes)


def product_flops(function: Callable, *args) -> Products:
    """Returns the products that a call takes, traced with arrays or abstract arrays and without running it."""
    return products_of(jax.make_jaxpr(function)(*args))


def products_of(closed: ClosedJaxpr) -> Products:
    """Returns the products of a traced program, all of whose results are used."""
    return _walk(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


def _walk(jaxpr: Jaxpr, used: Sequence[bool]) -> tuple[Products, list[bool]]:
    """Returns the products that the used results need, and which inputs they need.

    From the end to the beginning, as what nothing reads, such as the gradient by the images, is dropped by XLA too.
    """
    needed = {v for v, wanted in zip(jaxpr.outvars, used, strict=True) if wanted and not isinstance(v, Literal)}
    total = Products()
    for equation in reversed(jaxpr.eqns):
        wanted = [v in needed for v in equation.outvars]
        if not any(wanted):
            continue
        products, inputs = _equation(equation, wanted)
        total += products
        needed |= {v for v, read in zip(equation.invars, inputs, strict=True) if read and not isinstance(v, Literal)}
    return total, [v in needed for v in jaxpr.invars]


def _equation(equation: JaxprEqn, wanted: list[bool]) -> tuple[Products, list[bool]]:
    name, everything = equation.primitive.name, [True] * len(equation.invars)
    if name in LEAVES:
        return LEAVES[name](equation), everything
    if name in LOOPS:
        return LOOPS[name](equation, wanted)
    fused = ATTENTION_PRODUCTS.get(name.removesuffix("_wrapper"))
    if fused is not None:
        return _fused_attention(equation, fused), everything
    if name in OPAQUE:
        return Products(notes=frozenset({f"products inside {name} are not counted"})), everything
    inner = list(jaxprs_in_params(equation.params))
    if len(inner) == 1 and len(inner[0].invars) == len(everything) and len(inner[0].outvars) == len(wanted):
        return _walk(inner[0], wanted)
    return sum((_walk(jaxpr, [True] * len(jaxpr.outvars))[0] for jaxpr in inner), Products()), everything


def _dot_general(equation: JaxprEqn) -> Products:
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    result, left = equation.outvars[0].aval.shape, equation.invars[0].aval.shape
    flops = 2.0 * math.prod(result) * math.prod(left[axis] for axis in contracted)
    return Products(flops, flops if batch else 0.0)


def _convolution(equation: JaxprEqn) -> Products:
    """Counts border pixels like others, but not the zeros that the gradient of a strided convolution spreads."""
    params = equation.params
    _, inputs, *window = params["dimension_numbers"].rhs_spec
    kernel, result = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    products = math.prod(result) * kernel[inputs] * math.prod(kernel[axis] for axis in window)
    return Products(2.0 * products / math.prod(params["lhs_dilation"]))


def _fused_attention(equation: JaxprEqn, products: int) -> Products:
    """Counts `products` products of [batch, heads] matrices; layout 0 is [batch, tokens, heads, head_dim]."""
    query, key = (v.aval.shape for v in equation.invars[:2])
    keys = key[1 if equation.params["layout"] == 0 else 2]
    flops = 2.0 * products * math.prod(query) * keys
    return Products(flops, flops)


def _scan(equation: JaxprEqn, wanted: list[bool]) -> tuple[Products, list[bool]]:
    """A carry is needed as well where the next round's needed results read it."""
    params = equation.params
    body, consts, carry = params["jaxpr"].jaxpr, params["num_consts"], params["num_carry"]
    wanted = list(wanted)
    while True:
        products, inputs = _walk(body, wanted)
        read = [a or b for a, b in zip(wanted[:carry], inputs[consts : consts + carry], strict=True)]
        if read == wanted[:carry]:
            inputs[consts : consts + carry] = read
            return products * params["length"], inputs
        wanted[:carry] = read


def _while(equation: JaxprEqn, wanted: list[bool]) -> tuple[Products, list[bool]]:
    inner = (equation.params[part].jaxpr for part in ("cond_jaxpr", "body_jaxpr"))
    products = sum((_walk(jaxpr, [True] * len(jaxpr.outvars))[0] for jaxpr in inner), Products())
    if products.flops:
        products += Products(
            notes=frozenset({"a while loop's products are counted once: how often it runs is not known"})
        )
    return products, [True] * len(equation.invars)


def _cond(equation: JaxprEqn, wanted: list[bool]) -> tuple[Products, list[bool]]:
    """Counts the branch that takes most."""
    branches = [_walk(branch.jaxpr, wanted) for branch in equation.params["branches"]]
    inputs = [any(reads) for reads in zip(*(inputs for _, inputs in branches), strict=True)]
    return max((products for products, _ in branches), key=lambda products: products.flops), [True, *inputs]


def _shard_map(equation: JaxprEqn, wanted: list[bool]) -> tuple[Products, list[bool]]:
    """Its inside has the shapes of one device."""
    params = equation.params
    parts = math.prod(size for axis, size in params["mesh"].shape.items() if axis in params["newly_manual_axes"])
    products, inputs = _walk(params["jaxpr"], wanted)
    return products * parts, inputs


LEAVES = {"dot_general": _dot_general, "conv_general_dilated": _convolution}
LOOPS = {"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map}


def model_flops(model, variables, image_size: tuple[int, int]) -> Products:
    """Returns what the forward pass of one image takes, without recomputation and with attention written out.

    Args:
      variables: of the module, maybe abstract.
      image_size: height and width in pixels.
    """
    plain = {"remat": "none", "attention_kernel": "plain"}
    model = model.clone(**{field: value for field, value in plain.items() if hasattr(model, field)})
    return product_flops(model.apply, variables, jax.ShapeDtypeStruct((1, *image_size, 3), "float32"))
