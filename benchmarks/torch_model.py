"""The same network in PyTorch's best setting: run by benchmarks.model in an environment with torch and timm.

timm's `resnetv2_101x3_bit` with its weights standardized once, channels last, bfloat16, with or without `torch.compile`,
whichever is faster here. Prints the seconds of one batch per line on stdin; at the end the peak memory in GiB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import timm
import torch
from timm.layers import StdConv2d

from bit.command import exit_with


def folded(architecture: str) -> torch.nn.Module:
    """timm's network without its head, weights random and standardized once."""
    depth, width = architecture[1:].split("x")
    model = timm.create_model(f"resnetv2_{depth}x{width}_bit", pretrained=False, num_classes=0)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, StdConv2d):
                plain = torch.nn.Conv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    child.stride,
                    child.padding,
                    bias=False,
                )
                weight = child.weight.detach()
                flat = weight.reshape(weight.shape[0], -1)
                mean, variance = flat.mean(1), flat.var(1, unbiased=False)
                scaled = (flat - mean[:, None]) / (variance[:, None] + 1e-10).sqrt()
                plain.weight = torch.nn.Parameter(scaled.reshape(weight.shape), requires_grad=False)
                setattr(module, name, plain)
    return model.eval()


def main() -> None:
    """Serves batches, as the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="r101x3")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=8)
    args, _ = parser.parse_known_args()
    model = folded(args.architecture).to(memory_format=torch.channels_last, dtype=torch.bfloat16)
    images = torch.rand(args.batch_size, 3, args.side, args.side) * 2 - 1
    images = images.to(memory_format=torch.channels_last, dtype=torch.bfloat16)

    @torch.inference_mode()
    def batch(network) -> float:
        began = time.perf_counter()
        network(images).float().numpy()
        return time.perf_counter() - began

    compiled = torch.compile(model)
    networks = {"torch.compile": compiled, "eager": model}
    for network in networks.values():
        batch(network)
    seconds = {name: min(batch(network) for _ in range(2)) for name, network in networks.items()}
    best = min(seconds, key=lambda name: seconds[name])
    print(f"torch {torch.__version__}, timm {timm.__version__}: {best} is the faster here", file=sys.stderr)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(batch(networks[best]), flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


if __name__ == "__main__":
    exit_with(main)
