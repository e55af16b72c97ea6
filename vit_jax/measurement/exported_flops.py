"""Floating-point operations of exported programs: the products that their files hold, for one image.

They are counted as those of traced programs are (see `vit_jax.measurement.flops`), so that the same model counts the
same live and exported.
"""

import io
import math
import pathlib
import re
from collections.abc import Iterator, Sequence

import jax
from jax.extend.mlir import refine_polymorphic_shapes

from vit_jax.measurement.flops import Products

ELEMENT_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""Names of the types in StableHLO, and everywhere else."""

INDIRECT = ("func.call", "stablehlo.while", "stablehlo.case", "stablehlo.custom_call")
"""Operations of StableHLO that may hold products elsewhere. Once shapes are known, exported models have none."""


def stablehlo_products(lowered: jax.stages.Lowered) -> tuple[Products, str]:
    """Returns the products of a lowered program, and the type of the operands of most of them, such as `float32`.

    Args:
      lowered: for images of a known shape; inside, shapes may still be open.
    """
    module = lowered.compiler_ir("stablehlo")
    code = io.BytesIO()
    module.operation.write_bytecode(file=code)
    refined = refine_polymorphic_shapes(code.getvalue(), enable_shape_assertions=True, validate_static_shapes=True)
    total, by_type = Products(), {}
    for operation in _operations(type(module).parse(refined, module.context).operation):
        products = _of_operation(operation)
        total += products
        if products.flops:
            element = str(operation.operands[0].type.element_type)
            by_type[element] = by_type.get(element, 0.0) + products.flops
    most = max(by_type, key=by_type.get, default="f32")
    return total, ELEMENT_TYPES.get(most, most)


def _operations(operation) -> Iterator:
    for region in operation.regions:
        for block in region:
            for inner in block:
                yield inner.operation
                yield from _operations(inner.operation)


def _of_operation(operation) -> Products:
    name = operation.name
    if name == "stablehlo.dot_general":
        (left, _), result = (value.type.shape for value in operation.operands), operation.results[0].type.shape
        numbers = str(operation.attributes["dot_dimension_numbers"])
        contracted = math.prod(left[axis] for axis in _axes(numbers, "lhs_contracting_dimensions"))
        flops = 2.0 * math.prod(result) * contracted
        return Products(flops, flops if _axes(numbers, "lhs_batching_dimensions") else 0.0)
    if name == "stablehlo.convolution":
        kernel, result = operation.operands[1].type.shape, operation.results[0].type.shape
        _, layout, _ = re.findall(r"\[([^\]]*)\]", str(operation.attributes["dimension_numbers"]))
        features = kernel[layout.replace(" ", "").split(",").index("o")]
        return Products(2.0 * math.prod(result) * math.prod(kernel) / features)
    if name in INDIRECT:
        return Products(notes=frozenset({f"products inside {name} are not counted"}))
    return Products()


def _axes(numbers: str, which: str) -> list[int]:
    found = re.search(rf"{which} = \[([\d, ]*)\]", numbers)
    return [int(axis) for axis in found[1].split(",")] if found and found[1] else []


def onnx_products(file: pathlib.Path) -> Products | None:
    """Returns the products of an ONNX file for one image, or None where the package `onnx` is missing or their shapes
    cannot be told.
    """
    try:
        import onnx
    except ImportError:
        return None
    model = onnx.load(file, load_external_data=False)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [size.dim_value for size in value.type.tensor_type.shape.dim]
    total = Products()
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv", "Einsum"):
            continue
        left, right, result = (shapes.get(name) for name in (*node.input[:2], node.output[0]))
        if node.op_type == "Einsum" or not (left and right and result and all(left + right + result)):
            return None
        total += _of_node(node, left, right, result)
    return total


def _of_node(node, left: Sequence[int], right: Sequence[int], result: Sequence[int]) -> Products:
    if node.op_type == "Conv":
        return Products(2.0 * math.prod(result) * math.prod(right[1:]))
    turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    flops = 2.0 * math.prod(result) * left[-2 if turned else -1]
    return Products(flops, flops if len(left) > 2 and len(right) > 2 else 0.0)
