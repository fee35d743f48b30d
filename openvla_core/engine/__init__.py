"""The fast path from pixels and prompt to action tokens, over the weights of the model itself."""
