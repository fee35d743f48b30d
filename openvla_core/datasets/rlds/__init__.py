"""RLDS data sets (TFRecord files) in and out, without TensorFlow."""
