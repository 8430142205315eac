"""Q/DQ nodes are placed, and the graph is brought into the form."""

from __future__ import annotations

import dataclasses
from typing import Any

from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.steps.step import Step, Work


class Placement(Step[Options]):
    options = Options

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.onnx_graph.surgery import sort_nodes
        from stdet_deploy_stm32.onnx_graph.tail import unlike_joins
        from stdet_deploy_stm32.quantize.form.insert import insert_qdq
        from stdet_deploy_stm32.quantize.form.rewrite import rewrite_into_form

        settings, model = work.settings, work.floating if work.rounded is None else work.rounded
        # An integer output needs the whole tail quantized; a float one is better off without.
        whole = settings.output_type != "float" or settings.nodes
        joins = () if whole else unlike_joins(work.floating, work.ranges)
        settings = dataclasses.replace(
            settings,
            exclude=(*settings.exclude, *joins),
            weight_overrides=work.rounded_scales or settings.weight_overrides,
        )
        work.quantized = insert_qdq(model, work.ranges, settings)
        sort_nodes(work.quantized)
        rewrite_into_form(work.quantized, settings.quantize_bias)
        return {"float_joins": list(joins)}
