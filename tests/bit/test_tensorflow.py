"""TensorFlow comes without Keras, which is there for those who ask for it."""

import subprocess
import sys

from tests import helpers

PROGRAM = """
import sys
from bit.tensorflow import tf
assert not [name for name in sys.modules if name.partition(".")[0] in ("keras", "sklearn")]
from tensorflow.keras import layers
import tensorflow.keras.models
assert tf.keras.layers.Dense is layers.Dense
print(layers.Dense(3)(tf.ones((2, 5))).shape)
"""


def test_keras_is_imported_by_those_who_ask_for_it():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=helpers.REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(2, 3)\n"), done.stderr
