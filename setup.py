"""What cannot stand in pyproject.toml: the native code. `--setup_file=./setup.py` ships the package to remote workers."""

import platform

from setuptools import Extension, setup

# No fused multiply-add, so that every processor gives the same bits. TensorFlow's own builds need AVX, too.
_FLAGS = ["-O3", "-ffp-contract=off", "-fvisibility=hidden"]
if platform.machine() in ("x86_64", "AMD64"):
    _FLAGS.append("-mavx")
elif platform.machine() == "aarch64":
    _FLAGS.append("-march=armv8-a+crc")

setup(
    ext_modules=[
        Extension(
            "transforms._native",
            ["transforms/imaging/_resize.c", "transforms/records/_frames.c"],
            depends=["setup.py"],
            extra_compile_args=_FLAGS,
            optional=True,  # where there is no C compiler, Python and NumPy do the same
        )
    ]
)
