"""The BiT family of networks: names, weights, graph. Imports no Beam."""

import os
import sys

from bit import command, onednn

if sys.argv[:1] == ["-m"]:  # while `python -m bit.models`, or another command, is being found
    command.begin()

# Before any module here imports TensorFlow. Errors that matter are raised, too; 0 shows all that it logs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
onednn.turn_on()
