"""The rules for NPU and core on layers small enough to count by hand, and against published figures of STM32N6570-DK."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, helper

from stdet_deploy_stm32.bench import cortex_m, neural_art
from stdet_deploy_stm32.bench.kernels import kernels
from stdet_deploy_stm32.onnx_graph.view import Graph, read_graph

Build = Callable[..., ModelProto]
node = helper.make_node
KIB = 1024
REGIONS = (1792 * KIB, 1024 * KIB)


def convolution(
    graph: Build, inputs: tuple[int, int], outputs: int, kernel: int, stride: int = 1, group: int = 1
) -> Graph:
    """One padded convolution; `inputs` is (channels, side)."""
    channels, side = inputs
    weight = {"w": np.ones((outputs, channels // group, kernel, kernel), np.float32)}
    made = node(
        "Conv", ["x", "w"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, group=group
    )
    shapes = {"x": [1, channels, side, side]}, {"y": [1, outputs, -(-side // stride), -(-side // stride)]}
    return read_graph(graph([made], weight, *shapes))


@pytest.mark.parametrize(("side", "stripes"), [(32, 1), (33, 2), (64, 2), (65, 3)])
def test_depthwise_weights_are_stored_once_for_each_stripe(graph: Build, side: int, stripes: int) -> None:
    view = convolution(graph, (32, side), 32, 3, group=32)
    (kernel,) = kernels(view)
    assert neural_art.stored_weights(view, kernel) == 32 * 9 * stripes + 32


def test_the_copies_of_a_five_by_five_depthwise_kernel_hold_nine_taps(graph: Build) -> None:
    view = convolution(graph, (64, 32), 64, 5, group=64)
    (kernel,) = kernels(view)
    assert neural_art.stored_weights(view, kernel) == 64 * 25 + 64 * 9 + 64


@pytest.mark.parametrize(
    ("size", "stride", "parts"), [(3, 1, 1), (5, 1, 2), (7, 1, 6), (7, 2, 3), (6, 1, 2), (1, 1, 1), (13, 2, 10)]
)
def test_a_large_kernel_is_computed_in_slices(graph: Build, size: int, stride: int, parts: int) -> None:
    view = convolution(graph, (4, 28), 4, size, stride)
    assert neural_art.slices(view, kernels(view)[0]) == parts


def stem(graph: Build, channels: int, side: int, wide: int) -> neural_art.Placement:
    """The beginning of a network of the figures: 1 x 1, then 7 x 7 with stride 2, 1 x 1, and a pool."""
    half = side // 2
    nodes = [
        node("Conv", ["x", "w0"], ["a"], kernel_shape=[1, 1]),
        node("Conv", ["a", "w1"], ["b"], kernel_shape=[7, 7], strides=[2, 2], pads=[3] * 4),
        node("Conv", ["b", "w2"], ["c"], kernel_shape=[1, 1]),
        node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    shapes = {"w0": (3, 3, 1, 1), "w1": (channels, 3, 7, 7), "w2": (wide, channels, 1, 1)}
    constants = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    ends = {"x": [1, 3, side, side]}, {"y": [1, wide, half // 2, half // 2]}
    view = read_graph(graph(nodes, constants, *ends))
    return neural_art.place(view, kernels(view), REGIONS)


@pytest.mark.parametrize(
    ("side", "wide", "outside_kib"), [(192, 32, 0), (256, 32, 0), (320, 32, 800), (256, 64, 0), (288, 64, 648)]
)
def test_the_partial_sums_that_find_no_room_are_those_of_published_figures(
    graph: Build, side: int, wide: int, outside_kib: int
) -> None:
    """External RAM of st_yolodv2milli (32 channels) and st_yolodv2tiny (64) in the STM32 AI model zoo, 4.0.0."""
    placement = stem(graph, 16, side, wide)
    assert placement.outside_bytes == outside_kib * KIB
    assert (placement.slow_elements > 0) == (outside_kib > 0)


def test_an_expanded_map_that_fits_no_bank_is_outside_as_published(graph: Build) -> None:
    """2109.38 KiB of 96 channels at 150 x 150: ssd_mobilenetv2_pt and ssdlite_mobilenetv2_pt at 300 px."""
    nodes = [
        node("Conv", ["x", "e"], ["a"], kernel_shape=[1, 1]),
        node("Conv", ["a", "d"], ["b"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, group=96),
        node("Conv", ["b", "p"], ["y"], kernel_shape=[1, 1]),
    ]
    shapes = {"e": (96, 16, 1, 1), "d": (96, 1, 3, 3), "p": (24, 96, 1, 1)}
    constants = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    view = read_graph(graph(nodes, constants, {"x": [1, 16, 150, 150]}, {"y": [1, 24, 75, 75]}))
    placement = neural_art.place(view, kernels(view), REGIONS)
    assert placement.outside == {"a"}
    assert round(placement.outside_bytes / KIB, 2) == 2109.38
    assert placement.slow_elements == 96 * 150 * 150


def test_a_stride_saves_the_npu_no_time_on_a_three_by_three_kernel(graph: Build) -> None:
    spatial = neural_art.COUNTS.index("spatial_products")
    counted = []
    for stride in (1, 2):
        view = convolution(graph, (8, 32), 8, 3, stride)
        counted.append(neural_art.counts(view, kernels(view)[0], 0)[spatial])
    assert counted == [8 * 8 * 9 * 32 * 32] * 2


def test_a_core_reuses_the_memory_of_an_input_that_nobody_reads_later(graph: Build) -> None:
    view = convolution(graph, (8, 10), 16, 3)
    peak, series = cortex_m.peak_bytes(view, kernels(view))
    assert series == [16 * 100, 16 * 100 + 4 * 16 * 100]
    assert peak == 5 * 16 * 100


def test_a_core_keeps_both_maps_of_a_depthwise_layer(graph: Build) -> None:
    view = convolution(graph, (8, 10), 8, 3, group=8)
    assert cortex_m.peak_bytes(view, kernels(view))[1][0] == 2 * 8 * 100


def test_a_core_pools_a_convolution_as_it_is_made(graph: Build) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    view = read_graph(
        graph(nodes, {"w": np.ones((16, 3, 3, 3), np.float32)}, {"x": [1, 3, 8, 8]}, {"y": [1, 16, 4, 4]})
    )
    assert cortex_m.peak_bytes(view, kernels(view))[1][:2] == [3 * 64, 16 * 16]
