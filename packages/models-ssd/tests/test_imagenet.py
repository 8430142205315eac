"""ImageNet backbones: mapped where shapes allow, with the same activations where the architecture is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from stdet.errors import ModelError
from stdet_models_ssd.detector import Ssd
from stdet_models_ssd.imagenet import load_backbone

Make = Callable[..., Ssd]


def disturbed(model: nn.Module) -> nn.Module:
    """Random statistics too, so that a BatchNorm which went elsewhere shows."""
    torch.manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                assert value is not None
                value.data.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("name", ["ssd_mobilenetv2_pt", "ssdlite_mobilenetv2_pt"])
@pytest.mark.parametrize("width_mult", [1.0, 0.5])
def test_mobilenet_v2_gives_the_activations_of_torchvision(name: str, width_mult: float, make: Make) -> None:
    theirs = disturbed(torchvision.models.mobilenet_v2(weights=None, width_mult=width_mult))
    model = make(name, width_mult=width_mult).eval()
    report = load_backbone(model, theirs.state_dict())
    assert len(report.mapped) == 52 * 5
    assert report.fresh == ()
    assert report.unused == ("classifier.1.weight", "classifier.1.bias")
    images = torch.randn(2, 3, 101, 130)
    with torch.no_grad():
        first, last = model.base_net(images)
        wanted = theirs.features(images)
        stage = theirs.features[:14](images)
        expanded = theirs.features[14].conv[0](stage)
    torch.testing.assert_close(last, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first, expanded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "build", "mapped", "fresh"),
    [
        ("ssdlite_mobilenetv3small_pt", torchvision.models.mobilenet_v3_small, 34, 1 + 9 * 2 + 1),
        ("ssdlite_mobilenetv3large_pt", torchvision.models.mobilenet_v3_large, 43, 0),
    ],
)
def test_mobilenet_v3_takes_what_fits_and_reports_the_rest(
    name: str, build: Callable[..., nn.Module], mapped: int, fresh: int, make: Make
) -> None:
    theirs = disturbed(build(weights=None)).state_dict()
    model, untouched = make(name), make(name).state_dict()
    report = load_backbone(model, theirs)
    base = [k for k in untouched if k.startswith("base_net.") and not k.endswith("num_batches_tracked")]
    assert sorted((*report.mapped, *report.fresh)) == sorted(base)
    assert len(report.mapped) == 5 * mapped
    if fresh:
        assert len(report.fresh) == 5 * fresh
    own = model.state_dict()
    torch.testing.assert_close(own["base_net.0.weight"], theirs["features.0.0.weight"])
    torch.testing.assert_close(own["base_net.4.conv2.weight"], theirs["features.2.block.1.0.weight"])
    torch.testing.assert_close(own["base_net.3.bn3.bias"], theirs[_last_norm(theirs, "features.1.") + ".bias"])
    assert all(torch.equal(own[key], untouched[key]) for key in report.fresh)
    assert "classifier.0.weight" in report.unused
    assert any(".fc1." in key for key in report.unused)


def _last_norm(state: dict[str, torch.Tensor], prefix: str) -> str:
    return [k for k in state if k.startswith(prefix) and k.endswith("running_var")][-1].rpartition(".")[0]


def test_the_stem_of_mobilenet_v3_computes_the_same_in_spite_of_another_epsilon(make: Make) -> None:
    theirs = disturbed(torchvision.models.mobilenet_v3_large(weights=None))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1e-3)  # as large as the epsilon
    model = make("ssdlite_mobilenetv3large_pt").eval()
    load_backbone(model, theirs.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs.features[0](images)
        got = images
        for layer in list(model.base_net)[:3]:
            got = layer(got)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_published_base_net_loads_whole(name: str, make: Make) -> None:
    source = {
        k.removeprefix("base_net."): v + 1 for k, v in make(name).state_dict().items() if k.startswith("base_net.")
    }
    model = make(name)
    report = load_backbone(model, source)
    assert report.fresh == report.unused == ()
    own = model.state_dict()
    assert all(torch.equal(own[key], source[key.removeprefix("base_net.")]) for key in report.mapped)
    assert f"{len(report.mapped)} of {len(report.mapped)}" in report.summary()


def test_the_convolutions_outside_the_backbone_start_as_xavier_uniform(name: str, make: Make) -> None:
    model = make(name)
    source = {k.removeprefix("base_net."): v for k, v in model.state_dict().items() if k.startswith("base_net.")}
    biases = {k: v.clone() for k, v in model.state_dict().items() if k.endswith("bias")}
    load_backbone(model, source)
    for part in (model.extras, model.classification_headers, model.regression_headers):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                area = module.kernel_size[0] * module.kernel_size[1]
                fans = module.weight.shape[0] * area + module.weight.shape[1] * area
                bound = (6 / fans) ** 0.5
                assert float(module.weight.detach().abs().max()) <= bound
                assert float(module.weight.detach().abs().max()) > 0.9 * bound
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in biases.items())


def test_weights_of_another_network_are_refused_and_change_nothing(make: Make) -> None:
    model = make("ssdlite_mobilenetv2_pt")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for build in (torchvision.models.mobilenet_v3_large, torchvision.models.resnet18):
        with pytest.raises(ModelError, match="no backbone for ssdlite_mobilenetv2_pt"):
            load_backbone(model, build(weights=None).state_dict())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
