from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stdet_deploy_stm32.bench.arena import live_ranges, plan
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


def simulated_peak(graph: Graph) -> int:
    """Runs the layers one by one; after each, forgets every tensor that no later layer and no caller wants."""
    memory = {"t0"}
    peak = graph.size("t0")
    for index, layer in enumerate(graph.layers):
        memory |= set(layer.outputs)
        peak = max(peak, sum(graph.size(name) for name in memory))
        wanted = set(graph.outputs).union(*(later.inputs for later in graph.layers[index + 1 :]))
        memory &= wanted
    return peak


@given(networks())
def test_the_lower_bound_is_what_a_step_by_step_run_holds_at_most(graph: Graph) -> None:
    assert plan(graph).lower_bound == simulated_peak(graph)


@given(networks())
def test_buffers_that_are_alive_together_never_overlap(graph: Graph) -> None:
    arena = plan(graph)
    memory: dict[int, str] = {}
    for step in range(-1, len(graph.layers) + 1):
        memory.clear()
        for buffer in live_ranges(graph):
            if buffer.first <= step <= buffer.last:
                start = arena.offsets[buffer.name]
                for byte in range(start, start + buffer.size):
                    assert memory.setdefault(byte, buffer.name) == buffer.name
                    assert byte < arena.size
    assert arena.size >= arena.lower_bound


def test_a_chain_needs_its_largest_pair_of_neighbours() -> None:
    arena = plan(network([[0], [1], [2]], [10, 30, 5, 50], {3}))
    assert (arena.size, arena.worst_layer) == (55, "l2")


def test_a_residual_input_stays_alive_until_the_add() -> None:
    arena = plan(network([[0], [1], [2, 0]], [10, 30, 30, 10], {3}))
    assert arena.size == 10 + 30 + 30


def test_an_output_in_the_middle_of_the_graph_stays_alive_to_the_end() -> None:
    assert plan(network([[0], [1], [2]], [1, 7, 20, 20], {1, 3})).size == 47
