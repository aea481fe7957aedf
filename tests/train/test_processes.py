"""Training in two processes takes the same steps as training in one with batches of twice the size."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from pathlib import Path
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from gossamer.task import Task
from gossamer.train import Training, train

processes = int(sys.argv[1])
fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto")
fabric.launch()
torch.manual_seed(0)
x = torch.randn(96, 5)
task = Task.regression("sum", (x, x.sum(1, keepdim=True)), (x[:32], x[:32].sum(1, keepdim=True)))
model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
training = Training(epochs=3, lr=0.05, optimizer="sgd", batch_size=24 // processes, clip=1.0)
train(model, task, training, fabric=fabric, folder=Path(sys.argv[2]) / "work")
if fabric.is_global_zero:
    save_file(model.state_dict(), f"{sys.argv[2]}/{processes}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, str(script), str(processes), str(folder)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / n / f"{n}.safetensors") for n in ("1", "2"))
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-4, atol=1e-6)
