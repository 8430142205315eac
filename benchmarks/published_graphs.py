"""Networks of published figures whose graphs aren't kept in the shared folder, rebuilt from their papers' layer tables.

Weights are random: only shapes count. YOLOv8n follows the layer table of Ultralytics' `yolov8.yaml` at scale n; ResNet8 is
MLPerf Tiny's CIFAR-10 network; ResNet18 x 0.25 narrows all of He et al.'s layers but the last, as pytorchcv does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


def conv_silu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.SiLU())


class Bottleneck(nn.Module):
    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_silu(channels, channels, 3), conv_silu(channels, channels, 3))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class C2f(nn.Module):
    def __init__(self, inputs: int, outputs: int, depth: int, residual: bool) -> None:
        super().__init__()
        self.half = outputs // 2
        self.enter = conv_silu(inputs, outputs)
        self.blocks = nn.ModuleList(Bottleneck(self.half, residual) for _ in range(depth))
        self.leave = conv_silu((2 + depth) * self.half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).split([self.half, self.half], 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class SpatialPyramid(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.leave = conv_silu(channels, channels // 2), conv_silu(channels * 2, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class YoloV8n(nn.Module):
    """With box decoding in the graph, as Ultralytics exports it."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.to_p3 = nn.Sequential(conv_silu(3, 16, 3, 2), conv_silu(16, 32, 3, 2), C2f(32, 32, 1, True),
                                   conv_silu(32, 64, 3, 2), C2f(64, 64, 2, True))  # fmt: skip
        self.to_p4 = nn.Sequential(conv_silu(64, 128, 3, 2), C2f(128, 128, 2, True))
        self.to_p5 = nn.Sequential(conv_silu(128, 256, 3, 2), C2f(256, 256, 1, True), SpatialPyramid(256))
        self.up4, self.up3 = C2f(384, 128, 1, False), C2f(192, 64, 1, False)
        self.down4, self.down5 = conv_silu(64, 64, 3, 2), conv_silu(128, 128, 3, 2)
        self.out4, self.out5 = C2f(192, 128, 1, False), C2f(384, 256, 1, False)
        self.upsample = nn.Upsample(scale_factor=2)
        wide = max(64, min(classes, 100))
        self.boxes = nn.ModuleList(self.head(c, 64, 64) for c in (64, 128, 256))
        self.scores = nn.ModuleList(self.head(c, wide, classes) for c in (64, 128, 256))
        self.distribution = nn.Conv2d(16, 1, 1, bias=False)
        self.classes = classes

    @staticmethod
    def head(channels: int, wide: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv_silu(channels, wide, 3), conv_silu(wide, wide, 3), nn.Conv2d(wide, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.to_p3(x)
        p4 = self.to_p4(p3)
        p5 = self.to_p5(p4)
        n4 = self.up4(torch.cat([self.upsample(p5), p4], 1))
        n3 = self.up3(torch.cat([self.upsample(n4), p3], 1))
        m4 = self.out4(torch.cat([self.down4(n3), n4], 1))
        m5 = self.out5(torch.cat([self.down5(m4), p5], 1))
        joined = [torch.cat([self.boxes[i](m), self.scores[i](m)], 1).flatten(2) for i, m in enumerate((n3, m4, m5))]
        boxes, scores = torch.cat(joined, 2).split([64, self.classes], 1)
        count = boxes.shape[2]
        sides = self.distribution(boxes.view(1, 4, 16, count).transpose(2, 1).softmax(1)).view(1, 4, count)
        near, far = sides.chunk(2, 1)
        anchors = torch.ones(1, 2, count)
        low, high = anchors - near, anchors + far
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * 8, scores.sigmoid()], 1)


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1)
        )
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.short(x) + self.body(x))


def resnet18_quarter() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 16
    for stage, channels in enumerate(((16, 16), (32, 32), (64, 64), (128, 512))):
        for unit, outputs in enumerate(channels):
            layers.append(Residual(inputs, outputs, 2 if stage and not unit else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AvgPool2d(7), nn.Flatten(), nn.Linear(512, 1000))


def resnet8() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2),
        nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1),
    )  # fmt: skip


BUILDERS = {"yolov8n": YoloV8n, "resnet18_quarter": resnet18_quarter, "resnet8": resnet8}


def write(name: str, size: int, path: Path) -> None:
    """Write the network `name` for square images of `size` pixels as ONNX."""
    network = BUILDERS[name]().eval()
    torch.onnx.export(network, (torch.zeros(1, 3, size, size),), str(path), dynamo=False, opset_version=17)
