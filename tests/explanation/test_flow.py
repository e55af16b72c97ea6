import collections
import itertools

import numpy as np
import pytest

from tests.explanation.examples import random_attention
from vit_jax.explanation.flow import attention_flow

TOKENS, DEPTH = 4, 3
MAPS = [random_attention(2, 2, TOKENS, TOKENS, seed=i) for i in range(DEPTH)]


def capacities_of(maps, image, readout):
    """Returns the edges of the network of one image: (layer, token) to (layer - 1, token), and a source."""
    edges = collections.defaultdict(float)
    for token, share in enumerate(readout):
        edges["source", (DEPTH, token)] = float(share)
    for layer, weights in enumerate(maps):
        step = (weights[image].astype(np.float64).mean(0) + np.eye(TOKENS)) / 2
        for higher, lower in itertools.product(range(TOKENS), repeat=2):
            edges[(layer + 1, higher), (layer, lower)] = float(step[higher, lower])
    return edges


def ford_fulkerson(edges, sink) -> float:
    """Returns the maximum flow, along shortest paths that are left (Edmonds & Karp 1972)."""
    left, flow = collections.defaultdict(float, edges), 0.0
    neighbours = collections.defaultdict(set)
    for start, end in edges:
        neighbours[start].add(end)
        neighbours[end].add(start)
    while True:
        before, waiting = {"source": None}, collections.deque(["source"])
        while waiting and sink not in before:
            here = waiting.popleft()
            for there in neighbours[here]:
                if there not in before and left[here, there] > 1e-12:
                    before[there] = here
                    waiting.append(there)
        if sink not in before:
            return flow
        path = [sink]
        while before[path[-1]] is not None:
            path.append(before[path[-1]])
        steps = list(zip(path[1:], path, strict=False))
        room = min(left[step] for step in steps)
        flow += room
        for start, end in steps:
            left[start, end] -= room
            left[end, start] += room


@pytest.mark.parametrize("readout", [[1, 0, 0, 0], [0, 0.5, 0.25, 0.25]])
def test_is_the_maximum_flow_to_each_token(readout):
    readout = np.tile(np.array(readout, np.float32), (2, 1))
    found = attention_flow(MAPS, readout)
    for image in range(2):
        edges = capacities_of(MAPS, image, readout[image])
        expected = [ford_fulkerson(edges, (0, token)) for token in range(TOKENS)]
        np.testing.assert_allclose(found[image], expected, atol=1e-6)
    assert np.ptp(found) > 0.05


def test_a_bottleneck_in_the_middle_counts():
    """Token 1 is fully attended to below, but hardly reached above: less flows than either end would take."""
    below, above = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    below[:] = [0, 1, 0]
    above[0] = [0.98, 0.02, 0]
    maps = [below[None, None], np.eye(3, dtype=np.float32)[None, None], above[None, None]]
    only_first = np.array([[1, 0, 0]], np.float32)
    found = attention_flow(maps, only_first)[0]
    np.testing.assert_allclose(found, [0.5, 0.51, 0.0], atol=1e-6)


def test_tokens_before_the_patches_are_left_out():
    readout = np.eye(TOKENS, dtype=np.float32)[:1].repeat(2, 0)
    np.testing.assert_array_equal(attention_flow(MAPS, readout, prefix=1), attention_flow(MAPS, readout)[:, 1:])
