"""The image readers of other tools, run by benchmarks.decode in their own environments (see environments.py).

`python peers.py NAME FOLDER PROCESSES [READER]` reads every file of FOLDER once per line on stdin, and prints the seconds
of wall-clock and of CPU time. PROCESSES=0 works in this process, on one thread.

  img2dataset      its Resizer at 224, which also writes the JPEG again, as img2dataset does for every image
  loader           PyTorch's DataLoader over a Dataset that opens files with Pillow and resizes them (torchvision)
  clip-retrieval   its FilesReader (READER is the path of its reader.py) with CLIP's transforms
"""

from __future__ import annotations

import importlib.util
import io
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bit.command import exit_with

SIDE, _BATCH = 224, 32


def img2dataset(folder: Path, processes: int) -> Callable[[], None]:
    """Reads the folder once per call, with forked processes."""
    from img2dataset.resizer import Resizer

    resizer = Resizer(SIDE, "center_crop", resize_only_if_bigger=False)
    files = sorted(folder.iterdir())

    def part(first: int, step: int) -> None:
        for path in files[first::step]:
            error = resizer(io.BytesIO(path.read_bytes()))[-1]
            if error:
                raise RuntimeError(f"{path}: {error}")

    def run() -> None:
        if not processes:
            return part(0, 1)
        forks = [
            multiprocessing.get_context("fork").Process(target=part, args=(i, processes))
            for i in range(processes)
        ]
        for fork in forks:
            fork.start()
        for fork in forks:
            fork.join()

    return run


def _transforms(clip: bool):
    from torchvision import transforms

    if not clip:
        return transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    return transforms.Compose(
        [
            transforms.Resize(SIDE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIDE),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )


def loader(folder: Path, processes: int) -> Callable[[], None]:
    """Reads the folder once per call, with the DataLoader's workers."""
    import torch
    from PIL import Image

    files, transform = sorted(folder.iterdir()), _transforms(clip=False)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            return transform(Image.open(files[index]).convert("RGB"))

    torch.set_num_threads(1)
    data = torch.utils.data.DataLoader(
        Pictures(), batch_size=_BATCH, num_workers=processes, persistent_workers=bool(processes)
    )

    def run() -> None:
        for _ in data:
            pass

    return run


def clip_retrieval(folder: Path, processes: int, path: str) -> Callable[[], None]:
    """Reads the folder once per call, with the reader in the file `path`."""
    import torch

    spec = importlib.util.spec_from_file_location(
        "clip_retrieval_reader", path
    )  # without the package's own imports
    assert spec
    assert spec.loader
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    torch.set_num_threads(1)
    files = reader.FilesReader(
        lambda keys: keys,
        _transforms(clip=True),
        None,
        str(folder),
        _BATCH,
        processes,
        enable_text=False,
        enable_image=True,
        enable_metadata=False,
    )

    def run() -> None:
        for _ in files:
            pass

    return run


def main() -> None:
    """Serves one reader, as the module's docstring says."""
    name, folder, processes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if name == "img2dataset":
        run = img2dataset(folder, processes)
    elif name == "loader":
        run = loader(folder, processes)
    else:
        run = clip_retrieval(folder, processes, sys.argv[4])
    answers = sys.stdout
    sys.stdout = sys.stderr
    run()
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        print(time.perf_counter() - wall, time.process_time() - cpu, file=answers, flush=True)


if __name__ == "__main__":
    exit_with(main)
