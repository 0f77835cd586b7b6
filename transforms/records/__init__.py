"""Reading and writing tf.Example records and TFRecord files, without Beam or TensorFlow."""
