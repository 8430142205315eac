"""The command that a failed chain prints does the rest of the chain."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from stdet import api, stages
from stdet.errors import QuantizationError
from stdet.interfaces.reporter import SilentReporter

CONFIG = """\
operation_mode: chain_tqe
general: {{ logger: null }}
model: {{ model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 64, 64] }}
dataset: {{ dataset_name: synthetic, class_names: [disc, square], num_images: 16, image_size: 64, num_workers: 0 }}
training: {{ batch_size: 8, epochs: 1, no_aug_epochs: 0, device: cpu }}
postprocessing: {{ plot_metrics: False }}
quantization: {{ onnx_quant_parameters: {{ calibrate_method: MinMax }} }}
hydra: {{ run: {{ dir: "{folder}/my run" }} }}
"""


def test_a_failed_chain_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path))

    def fail(run: object) -> None:
        raise QuantizationError("no room")

    monkeypatch.setitem(stages.WORK, "quantize", fail)
    with pytest.raises(QuantizationError) as caught:
        api.run(api.load_config(tmp_path / "config.yaml"), SilentReporter())
    monkeypatch.undo()
    *_, command = caught.value.__notes__[0].splitlines()
    stdet, run, config, *overrides = shlex.split(command)
    assert (stdet, run) == ("stdet", "run")
    result = api.run(api.load_config(Path(config), overrides), SilentReporter())
    assert result.run_dir == tmp_path / "my run_1"
    assert list(result.document["stages"]) == ["evaluate_float", "export", "quantize", "evaluate_int8"]
    assert result.document["stages"]["evaluate_int8"]["metrics"]["AP50"] is not None
    page = (result.run_dir / "report.html").read_text()
    assert "st_yolodv2milli_actrelu_pt, int8</h1>" in page
    assert "against float" in page
