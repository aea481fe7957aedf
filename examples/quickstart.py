"""The shortest way: a trained network, a recipe, a file, and the file run without the network's class.

Run ``python examples/quickstart.py``; about half a minute.
"""

import torch

from gossamer import Subject, compress, evaluate, freeze, load
from gossamer.datasets import load as data
from gossamer.recipe import Gauge
from gossamer.targets import OnnxRuntime
from gossamer.zoo import build


def main() -> None:
    """Compress the network for handwritten digits and use the file in two ways."""
    torch.set_num_threads(1)
    network, digits = build("mlp-digits", pretrained=True), data("digits")
    gauge = Gauge(ship="self-contained")
    result = compress(network, digits, "deep-compression-small", out="small.goss", gauge=gauge, progress=False)

    report = result.report
    print(f"{report.dense.value:,} bytes dense, {report.end.weights_only.value:,} bytes in the file without the graph")
    for name, figure in report.test_after.items():
        print(f"{name}: {report.test_before[name].value:.4f} before, {figure.value:.4f} after, on the test split")

    # In torch: a fresh instance of the class, filled from the file.
    again = load("small.goss").into(build("mlp-digits"))
    print(f"loaded into a fresh network: accuracy {evaluate(again, digits, 'test')['accuracy']:.4f}")

    # Without torch or the class: the file carries its graph.
    args, kwargs = digits.example
    outputs = OnnxRuntime().run("small.goss", [args[0].numpy()])
    print(f"on ONNX Runtime the first digit is read as {next(iter(outputs.values())).argmax()}")

    # What a report is made of can be asked for at any time.
    subject = Subject.of(again, *args, **kwargs)
    print(f"{subject.graph.macs:,} multiply-accumulates, {len(freeze(subject).tensors)} tensors")


if __name__ == "__main__":
    main()
