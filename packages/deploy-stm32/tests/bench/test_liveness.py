"""What is alive when, against a step-by-step run in plain Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdet.errors import ModelError
from stdet_deploy_stm32.bench import liveness
from stdet_deploy_stm32.bench.kernels import kernels
from stdet_deploy_stm32.bench.liveness import moments
from stdet_deploy_stm32.bench.neural_art import place
from stdet_deploy_stm32.onnx_graph.view import Graph, Layer


def network(edges: list[list[int]], sizes: list[int], outputs: set[int]) -> Graph:
    """Layer i reads the tensors `edges[i]` (0 is the input, i + 1 what layer i writes)."""
    layers = tuple(
        Layer(f"l{i}", "Any", tuple(f"t{j}" for j in sources), (f"t{i + 1}",), {}) for i, sources in enumerate(edges)
    )
    shapes = {f"t{i}": (size,) for i, size in enumerate(sizes)}
    return Graph(("t0",), tuple(f"t{i}" for i in sorted(outputs)), layers, shapes, {}, frozenset())


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 9))
    edges = [draw(st.lists(st.integers(0, i), min_size=1, max_size=3, unique=True)) for i in range(count)]
    sizes = [draw(st.integers(1, 50)) for _ in range(count + 1)]
    outputs = draw(st.sets(st.integers(1, count), min_size=1))
    return network(edges, sizes, outputs | {count})


def simulated(graph: Graph) -> list[int]:
    """Runs the layers one by one; after each, forgets every tensor that no later layer and no caller wants."""
    memory, held = {"t0"}, []
    for index, layer in enumerate(graph.layers):
        memory |= set(layer.outputs)
        held.append(sum(graph.size(name) for name in memory))
        memory &= set(graph.outputs).union(*(later.inputs for later in graph.layers[index + 1 :]))
    return held


@given(networks())
def test_what_is_alive_is_what_a_step_by_step_run_holds(graph: Graph) -> None:
    alive = [sum(moment.alive.values()) for moment in moments(graph, kernels(graph))]
    assert alive[:-1] == simulated(graph)
    assert alive[-1] == sum(graph.size(name) for name in graph.outputs)


@given(networks(), st.lists(st.integers(0, 80), min_size=1, max_size=3))
def test_every_activation_is_placed_once_and_no_region_overflows(graph: Graph, regions: list[int]) -> None:
    placement = place(graph, kernels(graph), regions)
    alive = [sum(m.alive.values()) for m in moments(graph, kernels(graph), inputs_stay=True)]
    for use, total in zip(placement.uses, alive, strict=True):
        assert all(used <= size for used, size in zip(use.inside, regions, strict=True))
        assert sum(use.inside) + use.outside == total
    if max(alive) <= min(regions):
        assert not placement.outside


@given(networks())
def test_what_fits_nowhere_is_outside_and_each_read_of_it_is_slow(graph: Graph) -> None:
    placement = place(graph, kernels(graph), [0])
    read = sum(graph.elements(name) for kernel in kernels(graph) for name in kernel.inputs)
    assert placement.slow_elements == read
    assert placement.inside_bytes == 0


def test_an_absurd_number_of_live_tensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "MAX_WORK", 100)
    wide = network([[0]] * 30, [1] * 31, set(range(1, 31)))
    with pytest.raises(ModelError, match="activations are alive"):
        list(moments(wide, kernels(wide)))


def test_outputs_that_leave_as_floats_are_there_twice_at_the_end() -> None:
    graph = network([[0]], [10, 7], {1})
    last = list(moments(Graph(**vars(graph) | {"float_outputs": ("t1",)}), kernels(graph)))[-1]
    assert sum(last.alive.values()) == 7 + 4 * 7
