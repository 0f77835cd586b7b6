"""A training step the authors' way in PyTorch: run by benchmarks.training in an environment with torch and timm.

timm's `resnetv2_50x1_bit` and the like standardize kernels in each step and are the authors' network; loss and optimizer are
those of `bit_pytorch/train.py`. Prints the seconds of one update per line on stdin; at the end the peak memory in GiB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import timm
import torch


def main() -> None:
    """Serves updates, as the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="r50x1")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=16)
    args, _ = parser.parse_known_args()
    depth, width = args.architecture[1:].split("x")
    model = timm.create_model(f"resnetv2_{depth}x{width}_bit", pretrained=False, num_classes=10).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003, momentum=0.9)
    images = torch.rand(args.batch_size, 3, args.side, args.side) * 2 - 1
    labels = torch.arange(args.batch_size) % 10

    def update() -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return time.perf_counter() - began

    update()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(update(), flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


if __name__ == "__main__":
    main()
