"""Records: tf.Example in and out, and the TFRecord files that hold them. Neither Beam nor TensorFlow."""
